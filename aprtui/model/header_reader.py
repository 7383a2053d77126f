"""Reading the header of a model file: every number is held against the bytes that there are."""

from __future__ import annotations

import mmap
from pathlib import Path

from aprtui.errors import UnreadableError
from aprtui.trace.mapped_files import remember_mapped


def map_file(path: Path, least: int, kind: str) -> mmap.mmap:
    """The bytes of a file, of which a `kind` has at least `least`. Raises `UnreadableError`."""
    try:
        with path.open("rb") as file:
            if path.stat().st_size < least:
                raise UnreadableError(f"{path}: too short to be {kind} ({path.stat().st_size} bytes)")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error
    remember_mapped(path, len(mapped))
    return mapped


class HeaderReader:
    """A cursor over the header of a model file that never leaves the file."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = memoryview(data)
        self.offset = 0

    def error(self, found: str, offset: int | None = None) -> UnreadableError:
        return UnreadableError(f"{self.path}: byte {self.offset if offset is None else offset}: {found}")

    def take(self, size: int, what: str) -> memoryview:
        start, end = self.offset, self.offset + size
        if end > len(self.data):
            raise self.error(
                f"truncated: {what} needs {size} bytes, the file ends at byte {len(self.data)}; fetch it again"
            )
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
