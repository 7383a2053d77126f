"""Reading the header of a model file: every number is held against the bytes that there are."""

from __future__ import annotations

import mmap
import os
import stat
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aprtui.errors import UnreadableError
from aprtui.trace.address import Address, read_range
from aprtui.trace.mapped_files import remember_mapped

ROPE_FACTORS = "rope_freqs.weight"
"""The one tensor that belongs to no node: it is part of the configuration, and its values are read with the header."""
_CHUNK = 1 << 22
_LONGEST_HEADER = 1 << 28
"""Bytes of a header that are fetched from another machine at most; with a vocabulary of 256,000 it has some 16 MB."""


class MappedBytes:
    """The bytes of a file, mapped; a header is read as far as `fetch` says."""

    def __init__(self, path: Path) -> None:
        """Raises `OSError`."""
        self.path = path
        with path.open("rb") as file:
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.size = len(self.data)
        remember_mapped(path, self.size)

    def fetch(self, end: int) -> int:
        """Have the bytes up to `end` there; returns where those that are there end."""
        return self.size

    def tensor(self, name: str, start: int, size: int) -> NDArray[np.uint8]:
        """The bytes of the tensor `name`, read-only; they lie inside the file."""
        return np.frombuffer(self.data, np.uint8, size, start)


class FetchedBytes(MappedBytes):
    """The header of a file on another machine, fetched as it is read, into a temporary file as large whose holes take
    no room. Of tensors the size is known and no values: they are zeros that take no memory.
    """

    def __init__(self, path: Address) -> None:
        self.path, self._address = path, path
        self.size, self._fetched = path.stat().st_size, 0
        self._file = tempfile.TemporaryFile(prefix="aprtui-")  # noqa: SIM115 - open as long as this is
        self._file.truncate(self.size)
        self.data = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)

    def fetch(self, end: int) -> int:
        while self._fetched < min(end, self.size):
            if self._fetched >= _LONGEST_HEADER:
                raise UnreadableError(f"{self.path}: byte {self._fetched}: the header still goes on; it is damaged")
            wanted = min(_CHUNK, self.size - self._fetched)
            data = read_range(self._address, self._fetched, wanted)
            if len(data) < wanted:
                raise UnreadableError(f"{self.path}: byte {self._fetched + len(data)}: ends here since it was opened")
            self._fetched += os.pwrite(self._file.fileno(), data, self._fetched)
        return self._fetched

    def tensor(self, name: str, start: int, size: int) -> NDArray[np.uint8]:
        if name != ROPE_FACTORS:
            return np.broadcast_to(np.uint8(0), size)
        return np.frombuffer(read_range(self._address, start, size), np.uint8)


def map_file(path: Path, least: int, kind: str) -> MappedBytes:
    """The bytes of a file, of which a `kind` has at least `least`. Raises `UnreadableError`."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UnreadableError(f"{path}: is a directory: expected {kind}")
        if status.st_size < least:
            raise UnreadableError(f"{path}: too short to be {kind} ({status.st_size} bytes)")
        return FetchedBytes(path) if isinstance(path, Address) else MappedBytes(path)
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error


def first_bytes(path: Path, count: int) -> bytes:
    """The first bytes of a file; none of anything that cannot be read."""
    try:
        if isinstance(path, Address):
            return read_range(path, 0, count)
        with path.open("rb") as file:
            return file.read(count)
    except OSError:
        return b""


class HeaderReader:
    """A cursor over the header of a model file that never leaves the file."""

    def __init__(self, file: MappedBytes) -> None:
        self.path = file.path
        self.file = file
        self.data = memoryview(file.data)
        self.offset = 0

    def error(self, found: str, offset: int | None = None) -> UnreadableError:
        return UnreadableError(f"{self.path}: byte {self.offset if offset is None else offset}: {found}")

    def take(self, size: int, what: str) -> memoryview:
        start, end = self.offset, self.offset + size
        if end > len(self.data):
            raise self.error(
                f"truncated: {what} needs {size} bytes, the file ends at byte {len(self.data)}; fetch it again"
            )
        self.file.fetch(end)
        self.offset = end
        return self.data[start:end]

    def unsigned(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "little")

    def count(self, what: str, limit: int) -> int:
        """The next 64-bit count, at most `limit`."""
        value = self.unsigned(8, what)
        if value > limit:
            raise self.error(f"{what} is {value}, expected at most {limit}; the file is damaged", self.offset - 8)
        return value

    def text(self, what: str, limit: int | None = None) -> str:
        """The next string, decoded; only names have a `limit`."""
        start = self.offset
        size = self.unsigned(8, f"length of {what}")
        if limit is not None and size > limit:
            raise self.error(f"{what} has {size} bytes, expected at most {limit}; the file is damaged", start)
        data = self.take(size, what)
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError as error:
            # Other writers may truncate a value within a character; a name that is not UTF-8 means a damaged header.
            if limit is None:
                return str(data, "utf-8", errors="replace")
            raise self.error(f"{what} is not UTF-8; the file is damaged", start) from error
