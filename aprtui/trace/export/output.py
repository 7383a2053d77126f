"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from aprtui.errors import UsageError
from aprtui.trace.address import Address
from aprtui.trace.aprt import create_beside, output_error, write_atomically


def require_new(path: Path, overwrite: bool) -> None:
    """Raise `UsageError` where `path` is there and may not be replaced, or is a folder."""
    if path.is_dir():
        raise UsageError(f"{path}: is a folder: choose the name of a file")
    if path.exists() and not overwrite:
        raise UsageError(f"{path}: is there: choose another name, or --overwrite replaces it")


@contextmanager
def new_file(path: Path, overwrite: bool) -> Iterator[BinaryIO]:
    """A file that is written beside `path` and takes its place at the end.

    Raises `UsageError` as `require_new`, `EngineError` where it cannot be written.
    """
    require_new(path, overwrite)
    if isinstance(path, Address):
        with tempfile.NamedTemporaryFile(prefix="aprtui-") as local:
            yield cast("BinaryIO", local)
            local.flush()
            path.put(Path(local.name))
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = create_beside(path)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise output_error(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file that appears whole or not at all; a pipe or a device that is there is written as it is.

    Raises `EngineError` where it cannot be written.
    """
    data = text.encode(errors="backslashreplace")
    if isinstance(path, Address) or path.is_file() or (path.parent.is_dir() and not path.exists()):
        write_atomically(path.resolve() if path.is_symlink() else path, data)
        return
    try:
        path.write_bytes(data)
    except OSError as error:
        raise output_error(path, error) from error
