"""Reading a file by position.

When a mapped file is shortened, the process that reads it is killed (SIGBUS). Here an error says what has happened.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprtui.errors import UnreadableError
from aprtui.trace.address import Address, read_range
from aprtui.trace.archive import open_part


class PositionalFile:
    """A file that stays open when it is replaced or deleted, in an archive as well; raises `UnreadableError` where it
    cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        try:
            self._remote = path if isinstance(path, Address) and path.is_file() else None
            # Of a file on another machine, what is read comes by ranges.
            part = open_part(path, None if self._remote is None else 0)
            self._descriptor, self._offset, self._container = part.descriptor, part.offset, part.container
            own = part.container == path and self._remote is None
            self._part_size = None if own else part.size
            self._opened = os.fstat(self._descriptor) if own else part.container.stat()
        except OSError as error:
            self.close()
            raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error

    @property
    def size(self) -> int:
        """Bytes that the file has now; of one in an archive, when it was opened."""
        return os.fstat(self._descriptor).st_size if self._part_size is None else self._part_size

    def read(self, offset: int, count: int) -> bytes:
        """At most `count` bytes from `offset` on; fewer at the end of the file."""
        if self._part_size is not None:
            count = max(0, min(count, self._part_size - offset))
        if self._remote is not None:
            return read_range(self._remote, offset, count)
        try:
            return os.pread(self._descriptor, count, self._offset + offset)
        except OSError as error:
            raise UnreadableError(f"{self.path}: byte {offset}: cannot be read: {error.strerror or error}") from error

    def fill(self, buffer: NDArray[Any], offset: int) -> None:
        """Fill a contiguous `buffer` with the bytes from `offset` on."""
        view, at = buffer.reshape(-1).view(np.uint8).data, offset
        if self._remote is not None:
            data = self.read(offset, buffer.nbytes)
            view[: len(data)] = data
            view, at = view[len(data) :], offset + len(data)
            if not view:
                return
        while view:
            try:
                got = os.preadv(self._descriptor, [view], self._offset + at)
            except OSError as error:
                raise UnreadableError(f"{self.path}: byte {at}: cannot be read: {error.strerror or error}") from error
            if not got:
                raise UnreadableError(
                    f"{self.path}: byte {at}: the file ends here since it was opened, {offset + buffer.nbytes} bytes "
                    "were expected: it is being written again"
                )
            view, at = view[got:], at + got

    def changed(self) -> str:
        """What has happened to the file since it was opened, in words; empty where nothing has."""
        try:
            now = self._container.stat()
        except OSError:
            return f"{self._container} has been deleted: its former contents are shown"
        if now.st_ino != self._opened.st_ino or now.st_dev != self._opened.st_dev:
            return f"{self._container} has been replaced: its former contents are shown"
        if now.st_mtime_ns != self._opened.st_mtime_ns or now.st_size != self._opened.st_size:
            return f"{self._container} has changed since it was opened"
        return ""

    def __del__(self) -> None:
        # Threads may still be reading when the last owner is gone: a descriptor that is closed too early may be reused.
        self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
