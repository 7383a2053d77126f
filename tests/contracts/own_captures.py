"""The captures and models that our own contracts are judged on, as the `test` of each falsifier says."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.model.gguf_files import model_file

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


def wants_plain_model(test: str) -> bool:
    """Whether a falsifier is about a model without a chat template: `MODEL` in its `test`."""
    return "MODEL" in shlex.split(test)


def plain_model(path: Path) -> Path:
    """Write a model of random weights without a chat template to `path`."""
    file = model_file()
    del file.metadata["tokenizer.chat_template"]
    return file.write(path)
