"""The captures that our own contracts are judged on, as the `test` of each falsifier says."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

TOKENS = "2045,312,282,1355,932,297,198,258"
SIDES = frozenset({"CAPTURE", "REFERENCE"})


def captures_of(test: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The side that each line of `test` makes, if it makes one, and the words of its command after `aprtui`."""
    for line in test.splitlines():
        name, *words = shlex.split(line)
        assert name == "aprtui", f"not a command of ours: {line}"
        for side in SIDES & set(words):
            yield side, tuple(words)


def filled(words: Sequence[str], directory: Path) -> list[str]:
    """The words of a command, with what its placeholders stand for."""
    return [{"TOKENS": TOKENS}.get(word, str(directory) if word in SIDES else word) for word in words]
