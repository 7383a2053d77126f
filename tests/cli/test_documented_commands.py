"""The commands that a newcomer types first do what the documents say: README's and those of the first pages."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from aprtui.resources import embedded_model
from tests.cli.conftest import Outcome
from tests.conftest import CHECKOUT

FILES = {"MODEL", "model.gguf", "OLD.gguf", "NEW.gguf"}
"""What stands for a model of the reader's."""
CODES = {"replay C": 1}
"""Exit codes other than 0."""
SLOW = {"contracts check --capture A"}
"""What takes a minute: tests/cli/test_contracts_check.py runs it with fewer claims."""


def commands(document: str, heading: str) -> list[list[str]]:
    """Words of the commands in the blocks of code below a heading."""
    text = (CHECKOUT / document).read_text().split(f"{heading}\n", 1)[1]
    text = re.split(r"\n#+ ", text, maxsplit=1)[0]
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("aprtui ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.mark.parametrize(
    ("document", "heading"),
    [("README.md", "## Use"), ("docs/index.md", "# aprtui"), ("docs/installation.md", "# Installation")],
)
def test_the_first_commands_do_what_they_say(
    document: str, heading: str, aprtui: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = [words for words in commands(document, heading) if " ".join(words) not in SLOW]
    assert found
    for words in found:
        result = aprtui(*(embedded_model() if word in FILES else word for word in words))
        assert result.code == CODES.get(" ".join(words), 0), (words, result.out, result.err)
