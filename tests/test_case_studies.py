"""Every command in docs/case-studies.md is run, and what it says there is what it prints.

APRTUI_WRITE_GOLDEN=1 writes the texts again.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from aprtui.cli.main import cli
from tests.conftest import CHECKOUT
from tests.model.gguf_files import write_model

DOCUMENT = CHECKOUT / "docs" / "case-studies.md"
_CASE = re.compile(r"^## (\d+)\. .*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_BLOCKS = re.compile(r"```sh\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)
_TINY = re.compile(r"\d(\.\d+)?e-\d+")
"""What rounding leaves, which depends on the processor."""
MODELS = {
    "ministral.gguf": ("mistral3", {"layers": 2}),
    "gemma2.gguf": ("gemma2", {"layers": 2}),
    "gemma3.gguf": ("gemma3", {"layers": 6, "kv_heads": 1}),
}


@dataclass(frozen=True)
class Case:
    number: str
    commands: tuple[str, ...]
    printed: str

    @property
    def needs_transformers(self) -> bool:
        return self.commands[0].startswith("python")


def cases() -> Iterator[Case]:
    for found in _CASE.finditer(DOCUMENT.read_text()):
        blocks = _BLOCKS.search(found[0])
        if blocks is not None:
            yield Case(found[1], tuple(blocks[1].splitlines()), blocks[2])


CASES = tuple(cases())


def says(case: Case, printed: str) -> None:
    if os.environ.get("APRTUI_WRITE_GOLDEN"):
        text = DOCUMENT.read_text()
        (found,) = [match[0] for match in _CASE.finditer(text) if match[1] == case.number]
        blocks = _BLOCKS.search(found)
        assert blocks is not None
        changed = found[: blocks.start(2)] + printed + found[blocks.end(2) :]
        DOCUMENT.write_text(text.replace(found, changed))
    else:
        assert _TINY.sub("#", printed) == _TINY.sub("#", case.printed)


def verdict_of(output: str) -> str:
    """The sentence of the verdict, and what to do."""
    lines = output.splitlines()
    first = next(at for at, line in enumerate(lines) if line.startswith(("FAIL ", "UNKNOWN ", "PASS ")))
    paragraphs: list[list[str]] = []
    for line in lines[first:]:
        if line[:1].strip() or line.startswith("      first divergence"):
            paragraphs.append([])
        paragraphs[-1].append(line)
    chosen = [paragraphs[0], *(part for part in paragraphs if part[0].startswith("do  "))]
    return "".join(f"{line}\n" for part in chosen for line in part)


def test_there_are_twelve_public_threads() -> None:
    links = re.findall(r"\]\((https://github\.com/[^)]+)\)", DOCUMENT.read_text())
    assert len(set(links)) >= 12
    assert len(CASES) >= 12


@pytest.mark.parametrize("case", [c for c in CASES if not c.needs_transformers], ids=lambda case: case.number)
def test_a_planted_fault_is_named(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, (architecture, options) in MODELS.items():
        if any(name in command for command in case.commands):
            write_model(tmp_path / name, architecture=architecture, **options)
    for command in case.commands:
        program, *arguments = shlex.split(command)
        assert program == "aprtui"
        result = CliRunner().invoke(cli, arguments, standalone_mode=False)
        assert result.exception is None, result.output
    assert result.return_value == 1
    says(case, verdict_of(result.stdout))


@pytest.mark.slow
@pytest.mark.group("transformers")
@pytest.mark.group("real_models")
@pytest.mark.parametrize("case", [c for c in CASES if c.needs_transformers], ids=lambda case: case.number)
def test_a_modified_model_of_transformers_is_named(case: Case) -> None:
    (command,) = case.commands
    program, *arguments = shlex.split(command.replace("FOLDER", os.environ["APRTUI_REAL_MODELS"]))
    assert program == "python"
    done = subprocess.run([sys.executable, *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    says(case, done.stdout)
