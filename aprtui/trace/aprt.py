"""APRT stage files: a 12-byte header and little-endian float32 values.

| offset | type | meaning |
|---|---|---|
| 0 | 4 bytes | magic `APRT` |
| 4 | u32 LE | layer, `0xFFFFFFFF` for stages of the whole model |
| 8 | u32 LE | number of values |
| 12 | f32 LE | the values, bit for bit (NaN payloads, −0.0 and denormals survive) |

The file holds neither shape nor stage name. Bytes after the declared values are ignored by the format's first reader,
so they are readable here too, but counted.
"""

from __future__ import annotations

import os
import secrets
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from aprtui.errors import AprtuiError, EngineError, UnreadableError
from aprtui.trace.address import Address
from aprtui.trace.archive import FilePart, open_part
from aprtui.trace.mapped_files import remember_mapped

MAGIC = b"APRT"
HEADER_BYTES = 12
WHOLE_MODEL = 0xFFFFFFFF
MAX_VALUES = 0xFFFFFFFF
SMALL_VALUES = 1 << 18
"""Up to so many values (1 MiB) are copied: a mapping keeps a descriptor, of which a process often has 1,024, and what
reads a capture may keep the values of thousands of stages."""


class AprtError(UnreadableError):
    """A stage file that cannot be read; says at which byte `offset` what was expected."""

    def __init__(self, path: Path, offset: int, problem: str) -> None:
        super().__init__(f"{path}: byte {offset}: {problem}")
        self.path = path
        self.offset = offset


@dataclass(frozen=True, slots=True)
class AprtFile:
    """A stage file, its values read-only; `trailing` counts the bytes after them."""

    path: Path
    layer: int | None
    values: NDArray[np.float32]
    trailing: int

    def crc32(self) -> int:
        """CRC32 of header and values, without trailing bytes."""
        head = zlib.crc32(header(self.layer, self.values.size))
        return zlib.crc32(self.values.data.cast("B"), head) if self.values.size else head


def header(layer: int | None, count: int) -> bytes:
    """The 12 header bytes for `count` values; `layer` None means the whole model."""
    if count > MAX_VALUES:
        raise EngineError(f"an APRT file holds at most {MAX_VALUES} values, not {count}: capture fewer tokens")
    return MAGIC + struct.pack("<II", WHOLE_MODEL if layer is None else layer, count)


def is_aprt(path: Path) -> bool:
    """Whether `path` begins with the magic; False for anything that cannot be read."""
    try:
        part = open_part(path, 4)
    except (OSError, AprtuiError):
        return False
    with os.fdopen(part.descriptor, "rb"):
        return os.pread(part.descriptor, 4, part.offset) == MAGIC


def read_aprt(path: Path, copied: bool = False) -> AprtFile:
    """Map a stage file, or copy its values into memory, those of a small one always.

    A process that reads mapped values is killed (SIGBUS) where the file has been shortened meanwhile; copying then
    raises. Raises `AprtError` for a short or foreign header and for a short body.
    """
    try:
        part = open_part(path)
        with os.fdopen(part.descriptor, "rb") as file:
            layer, count = _parsed(path, part)
            begin = part.offset + HEADER_BYTES
            # Of the file that is open: another may have its name by now, or none.
            if copied or begin % 4 or count <= SMALL_VALUES:
                values = _copied(path, file, begin, count)
            else:
                values = _mapped(file, begin, count)
                remember_mapped(part.container, begin + 4 * count)
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error
    return AprtFile(path, layer, values, part.size - HEADER_BYTES - 4 * count)


def trailing_bytes(path: Path) -> int:
    """Bytes behind the values of a stage file, which are not read. Raises as `read_aprt`."""
    return _size_and_count(path)[0]


def value_count(path: Path) -> int:
    """Number of values of a stage file, which are not read. Raises as `read_aprt`."""
    return _size_and_count(path)[1]


def _size_and_count(path: Path) -> tuple[int, int]:
    try:
        part = open_part(path, HEADER_BYTES)
        with os.fdopen(part.descriptor, "rb"):
            count = _parsed(path, part)[1]
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error
    return part.size - HEADER_BYTES - 4 * count, count


def _parsed(path: Path, part: FilePart) -> tuple[int | None, int]:
    """Layer and number of values of a file that is open."""
    return parse_header(path, os.pread(part.descriptor, min(HEADER_BYTES, part.size), part.offset), part.size)


def _mapped(file: BinaryIO, begin: int, count: int) -> NDArray[np.float32]:
    return np.memmap(file, "<f4", "r", begin, (count,)) if count else np.empty(0, np.float32)


def _copied(path: Path, file: BinaryIO, begin: int, count: int) -> NDArray[np.float32]:
    file.seek(begin)
    values = np.fromfile(file, "<f4", count)
    if values.size < count:
        raise AprtError(
            path, HEADER_BYTES + values.nbytes, f"the file ends here since it was opened, {count} values were "
            "expected: it is being written again"
        )  # fmt: skip
    values.flags.writeable = False
    return values


def parse_header(path: Path, head: bytes, size: int) -> tuple[int | None, int]:
    """Layer and number of values of a file of `size` bytes that begins with `head`. Raises `AprtError`."""
    if head[:4] != MAGIC[: len(head[:4])] or (len(head) >= 4 and head[:4] != MAGIC):
        raise AprtError(path, 0, f"expected the magic {MAGIC!r}, found {head[:4]!r}: not an APRT stage file")
    if len(head) < HEADER_BYTES:
        raise AprtError(path, len(head), f"header ends after {len(head)} of {HEADER_BYTES} bytes: write the file again")
    layer, count = struct.unpack("<II", head[4:])
    expected = HEADER_BYTES + 4 * count
    if size < expected:
        raise AprtError(
            path, size, f"body ends here, but the header declares {count} values, {expected} bytes in all: truncated"
        )
    return None if layer == WHOLE_MODEL else layer, count


def write_aprt(path: Path, layer: int | None, values: NDArray[np.float32]) -> None:
    """Write `values` (any shape, row-major) atomically: the file appears whole or not at all."""
    flat = np.ascontiguousarray(values, "<f4")
    write_atomically(path, header(layer, flat.size), flat.data.cast("B") if flat.size else b"")


def create_beside(path: Path) -> tuple[int, Path]:
    """A new file beside `path`, open for writing, and its name. Who may read it is up to the user's umask."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with suppress(FileExistsError):
            return os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666), temporary


def write_atomically(path: Path, *pieces: bytes | memoryview, mode: int | None = None) -> None:
    """Write `pieces` to a temporary file beside `path` and move it into place. Raises `EngineError`."""
    if isinstance(path, Address):
        path.write_whole(b"".join(pieces))  # an object appears whole
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = create_beside(path)
        try:
            with os.fdopen(handle, "wb") as file:
                for piece in pieces:
                    file.write(piece)
            if mode is not None:
                os.chmod(temporary, mode)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise output_error(path, error) from error


def output_error(path: Path, error: OSError) -> EngineError:
    """The one-line error for output that could not be written."""
    return EngineError(f"{path}: cannot be written: {error.strerror or error}: choose another directory or free space")
