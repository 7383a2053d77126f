"""The worked examples of docs/extending.md, carried out word by word on a copy of the package.

An example is a section `## Add …`. Its code blocks stand behind a line that says where they go:

- "New file `path`:" is a file of that content;
- "In `path`, below `line`:" is inserted behind the one line of the file that holds this text;
- "In `path`, in place of `text`:" takes the place of this text, which the file holds once;
- "In `path`, remove:" is taken out of the file.

A block of `sh` is run in the copy; a command that ends with `# exit code N` has to end so, every other one with 0.
Every line of the `text` block behind it has to be in what the commands print. The line "Files touched: N" is held
against the blocks; files of tests and documents are not counted.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT

DOCUMENT = CHECKOUT / "docs" / "extending.md"
MOST_FILES = {"a weight type": 3, "an architecture": 2, "a screen": 2, "a backend": 2}
"""What the design allows: files that are touched at most, those that are new included."""

_HEADING = re.compile(r"^## Add (.+)$", re.MULTILINE)
_BLOCK = re.compile(
    r"(?P<lead>[^\n](?:(?!\n\n|```).)*)\n\n```(?P<kind>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
_NEW = re.compile(r"New file `(?P<path>[^`]+)`:$")
_EDIT = re.compile(r"In `(?P<path>[^`]+)`, (?P<how>below|in place of) `(?P<text>[^`]+)`:$")
_REMOVE = re.compile(r"In `(?P<path>[^`]+)`, remove:$")
_EXIT = re.compile(r"\s+# exit code (\d+)$")


@dataclass(frozen=True, slots=True)
class Block:
    """A code block: the sentence before it, its language, its lines."""

    lead: str
    kind: str
    body: str


def sections() -> dict[str, str]:
    """The text of each example, by what it adds."""
    parts = _HEADING.split(DOCUMENT.read_text())
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def blocks(section: str) -> Iterator[Block]:
    """The blocks of an example, in their order."""
    for found in _BLOCK.finditer(section):
        yield Block(found["lead"], found["kind"], found["body"])


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package that can be changed; kernels, contracts and tests are the checkout's."""
    shutil.copytree(CHECKOUT / "aprtui", tmp_path / "aprtui", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("kernels", "contracts", "docs", "tests"):
        (tmp_path / name).symlink_to(CHECKOUT / name)
    return tmp_path


def edited(root: Path, block: Block) -> str:
    """Apply a block that changes a file; its path."""
    if new := _NEW.search(block.lead):
        path = root / new["path"]
        assert not path.exists(), f"{new['path']} is there already"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.body)
        return new["path"]
    change = _EDIT.search(block.lead) or _REMOVE.search(block.lead)
    assert change, f"a code block stands behind {block.lead!r}, which does not say where it goes"
    found = change.groupdict()
    path, text = root / found["path"], found.get("text", block.body)
    before = path.read_text()
    assert before.count(text) == 1, f"{change['path']} holds {text!r} {before.count(text)} times"
    if "how" not in found:
        path.write_text(before.replace(text, ""))
    elif found["how"] == "below":
        start = before.index(text)
        end = before.index("\n", start + len(text)) + 1
        path.write_text(before[:end] + block.body + before[end:])
    else:
        path.write_text(before.replace(text, block.body.rstrip("\n")))
    return found["path"]


def run(root: Path, command: str) -> str:
    """Run a command of the document in the copy; what it prints."""
    wanted = _EXIT.search(command)
    words = shlex.split(_EXIT.sub("", command))
    program = {"aprtui": [sys.executable, "-m", "aprtui"], "python": [sys.executable]}[words[0]]
    environment = {
        **os.environ, "PYTHONPATH": str(root), "APRTUI_CACHE_DIR": str(root / "cache"),
        "APRTUI_CONFIG": str(root / "config.toml"),
    }  # fmt: skip
    done = subprocess.run(
        [*program, *words[1:]], cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == (int(wanted[1]) if wanted else 0), f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("what", sections())
def test_example_works_as_it_is_written(what: str, copy: Path) -> None:
    section = sections()[what]
    touched: list[str] = []
    printed = ""
    for block in blocks(section):
        if block.kind == "sh":
            printed = "".join(run(copy, command) for command in block.body.splitlines())
        elif block.kind == "text":
            missing = [line for line in block.body.splitlines() if line.strip() not in printed]
            assert not missing, f"not printed: {missing}\n{printed}"
        else:
            touched.append(edited(copy, block))
    counted = {path for path in touched if path.startswith(("aprtui/", "kernels/"))}
    stated = re.search(r"Files touched: (\d+)", section)
    assert stated, f"the example of {what} says nowhere how many files are touched"
    assert len(counted) == int(stated[1])
    assert len(counted) <= MOST_FILES.get(what, len(counted))


def test_every_kind_of_thing_has_an_example() -> None:
    wanted = ["a weight type", "an architecture", "a stage", "a metric", "a fault kind", "an alternative"]
    assert list(sections()) == [*wanted, "a contract check", "a backend", "a command", "a screen"]
