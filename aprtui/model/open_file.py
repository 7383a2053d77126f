"""Opening a model file of any format by its first bytes."""

from __future__ import annotations

from pathlib import Path

from aprtui.errors import UnreadableError
from aprtui.model.apr.apr_file import AprFile, is_apr_model
from aprtui.model.gguf_file import GgufFile, is_gguf
from aprtui.model.model_file import ModelFile
from aprtui.trace.address import Address

SUFFIXES = (".gguf", ".apr")
"""Of files that are models."""


def open_model_file(path: Path, *, headers_only: bool = False) -> ModelFile:
    """The GGUF or `.apr` file at `path`; anything else is opened as GGUF, which says what is wrong.

    `headers_only` is for callers that read no values: nothing is converted for them, and of a file on another machine
    the header alone is fetched. Raises `UnreadableError`.
    """
    if not headers_only:
        require_local(path)
    return AprFile(path, headers_only=headers_only) if is_apr_model(path) else GgufFile(path)


def is_model_file(path: Path) -> bool:
    """Whether `path` begins as a model file does; False for anything that cannot be read."""
    return is_gguf(path) or is_apr_model(path)


def require_local(path: Path) -> None:
    """Raise `UnreadableError` for a model on another machine, whose weights are wanted."""
    if isinstance(path, Address):
        raise UnreadableError(f"{path}: weights are read from local files only: copy the model here first")
