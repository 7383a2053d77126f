"""The blocks of commands in the documents, and what stands behind them as their output."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from tests.conftest import CHECKOUT

_FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_PROMPT = "$ "
"""How a command begins in a block that shows a session."""
_FAILS = re.compile(r"\s# FAIL\b")
_CODE = re.compile(r"\s# exit code (\d+)$")


@dataclass(frozen=True, slots=True)
class Block:
    """A block of `sh`: where it stands, its lines, and those of the block of `text` right behind it. Or a session: its
    commands, and the lines between them."""

    page: str
    line: int
    text: str
    printed: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """Its commands, each in a line."""
        return tuple(line for line in self.text.replace("\\\n", " ").splitlines() if line.strip())


def blocks(document: Path) -> Iterator[Block]:
    """All blocks of `sh`, and all sessions, of a document, in their order."""
    text = document.read_text()
    page = str(document.relative_to(CHECKOUT))
    found = list(_FENCED.finditer(text))
    for block, behind in zip_longest(found, found[1:]):
        if block[2] == "" and block[3].startswith(_PROMPT):
            lines = block[3].splitlines(keepends=True)
            typed = "".join(line.removeprefix(_PROMPT) for line in lines if line.startswith(_PROMPT))
            shown = tuple(line for line in block[3].splitlines() if not line.startswith(_PROMPT))
            yield Block(page, text[: block.start()].count("\n") + 1, typed, shown)
        elif block[2] == "sh":
            adjacent = behind and behind[2] == "text" and not text[block.end() : behind.start()].strip()
            printed = behind[3].splitlines() if behind and adjacent else ()
            yield Block(page, text[: block.start()].count("\n") + 1, block[3], tuple(printed))


def code_told(line: str) -> int | None:
    """The exit code that a line says itself: by its comment, which may also begin with the verdict."""
    if told := _CODE.search(line):
        return int(told[1])
    return 1 if _FAILS.search(line) else None


def block_of(page: str, word: str) -> str:
    """The one block of a page that holds `word`."""
    (found,) = (block.text for block in blocks(CHECKOUT / page) if word in block.text)
    return found


def commands(page: str, heading: str) -> list[list[str]]:
    """Words of the commands of aprtui in the blocks below a heading."""
    section = (CHECKOUT / page).read_text().split(f"{heading}\n", 1)[1]
    section = re.split(r"\n#+ ", section, maxsplit=1)[0]
    found = [block[3] for block in _FENCED.finditer(section) if block[2] == "sh"]
    lines = [line for block in found for line in block.splitlines() if line.startswith("aprtui ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]
