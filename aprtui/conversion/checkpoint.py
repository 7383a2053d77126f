"""A folder as `save_pretrained` of transformers writes it: its JSON files, one level of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from aprtui.errors import UnreadableError

CONFIG = "config.json"
_MOST_BYTES = 1 << 28
"""Of a JSON file; the tokenizer of 256,000 tokens has 33 MB."""


@dataclass(frozen=True)
class Checkpoint:
    """`folder` must have a `config.json`; all else may be missing. Files are read when they are asked for."""

    folder: Path

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise UnreadableError(f"{self.folder}: no folder: expected the one of a Hugging Face model, with {CONFIG}")
        if self._json(CONFIG) is None:
            raise UnreadableError(f"{self.folder}: has no {CONFIG}: give the folder that the model was converted from")

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """`config.json`; of a model of text and images what it says of the text, beside what it says of both."""
        found = self._json(CONFIG) or {}
        text = found.get("text_config")
        return {**found, **text} if isinstance(text, dict) else found

    @cached_property
    def generation(self) -> Mapping[str, Any]:
        """`generation_config.json`."""
        return self._json("generation_config.json") or {}

    @cached_property
    def tokenizer(self) -> Mapping[str, Any] | None:
        """`tokenizer.json`, the vocabulary; None where there is none, as with SentencePiece alone."""
        return self._json("tokenizer.json")

    @cached_property
    def tokenizer_config(self) -> Mapping[str, Any]:
        """`tokenizer_config.json`."""
        return self._json("tokenizer_config.json") or {}

    @cached_property
    def chat_template(self) -> str | None:
        """The chat template, from a file of its own or from `tokenizer_config.json`; of several the default one."""
        path = self.folder / "chat_template.jinja"
        if path.is_file():
            return _text(path)
        found = self.tokenizer_config.get("chat_template")
        if isinstance(found, list):
            named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
            found = named.get("default")
        return found if isinstance(found, str) else None

    def _json(self, name: str) -> dict[str, Any] | None:
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            found = json.loads(_text(path))
        except (ValueError, RecursionError) as error:
            raise UnreadableError(f"{path}: not JSON: {error}: copy the file again") from error
        if not isinstance(found, dict):
            raise UnreadableError(f"{path}: expected a JSON object, as transformers writes it")
        return found


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UnreadableError(f"{path}: larger than {_MOST_BYTES >> 20} MB: no file of a model is")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UnreadableError(f"{path}: not UTF-8: copy the file again") from error
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error
