"""GGUF bytes: the header of a model file as metadata and a table of tensors, each a view of the memory map.

Format: `docs/gguf.md` of ggml, versions 2 and 3, little-endian. The `gguf` package supplies types, block sizes and
names, but not the reader: `GGUFReader` makes two numpy views for every token, which takes 3 to 10 seconds for a
vocabulary of 152 000, and it believes the counts it reads. Here an array of strings stays bytes until it is read,
and every count is held against the bytes that are left in the file.
"""

from __future__ import annotations

import reprlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from aprtui.errors import UnreadableError
from aprtui.model.header_reader import HeaderReader, first_bytes, map_file
from aprtui.model.split_files import check_tensor_count, joined_metadata, part_paths

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32

# Far above any real file, low enough that a hostile header costs a second at most.
_MAX_KEYS = 1 << 16
_MAX_TENSORS = 1 << 18
_MAX_STRINGS = 1 << 23
_MAX_NAME_BYTES = 1 << 16
_MAX_DIMENSIONS = 4

_SCALARS: Mapping[int, str] = MappingProxyType(
    {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
)
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class StringArray:
    """A metadata array of strings that has been measured but not read."""

    data: memoryview
    count: int

    def __len__(self) -> int:
        return self.count

    @classmethod
    def of(cls, texts: Sequence[str]) -> Self:
        """`texts` as an array of a file; surrogates, which are no text, become bytes that are no UTF-8."""
        pack = struct.Struct("<Q").pack
        pieces: list[bytes] = []
        for text in texts:
            encoded = text.encode("utf-8", "surrogatepass")
            pieces += (pack(len(encoded)), encoded)
        return cls(memoryview(b"".join(pieces)), len(texts))

    def read(self) -> list[bytes]:
        """All strings as the bytes that the file has."""
        data, length, offset, strings = self.data, struct.Struct("<Q").unpack_from, 0, []
        for _ in range(self.count):
            start = offset + 8
            offset = start + length(data, offset)[0]
            strings.append(bytes(data[start:offset]))
        return strings


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One row of the tensor table.

    `dimensions` are in file order, fastest first; `type` is the number GGUF gives the element type; `offset` counts
    from the start of the data section of its file, part `part` (from 0) of a split model.
    """

    name: str
    dimensions: tuple[int, ...]
    type: int
    offset: int
    part: int = 0


class GgufFile:
    """A model as it lies in memory-mapped GGUF files: one, or all parts of a split model, opened by any of them.

    `path` is that of the first part, `size` the bytes of all. Opening reads the headers only; raises `UnreadableError`
    for anything malformed, and for parts that are missing or do not belong together.
    """

    def __init__(self, path: Path) -> None:
        opened = _MappedFile(path)
        self.paths = part_paths(path, opened.metadata)
        self._parts = [opened if part == path else _MappedFile(part) for part in self.paths]
        self.path = self.paths[0]
        self.size = sum(part.size for part in self._parts)
        self.metadata: Mapping[str, Any] = opened.metadata
        self.tensors: Mapping[str, TensorEntry] = opened.tensors
        if len(self._parts) > 1:
            self.metadata = MappingProxyType(joined_metadata([(part.path, part.metadata) for part in self._parts]))
            self.tensors = MappingProxyType(self._all_tensors())
            check_tensor_count(self.path, self.metadata, len(self.tensors))

    def _all_tensors(self) -> dict[str, TensorEntry]:
        joined: dict[str, TensorEntry] = {}
        for number, part in enumerate(self._parts):
            for name, entry in part.tensors.items():
                if name in joined:
                    other = self.paths[joined[name].part].name
                    raise UnreadableError(
                        f"{part.path}: tensor {name} is in {other} as well: parts of different models, fetch all of one"
                    )
                joined[name] = replace(entry, part=number)
        return joined

    refusal = ""
    rope_layout = None

    def conversion(self, name: str) -> None:
        """All types are ggml's own."""

    def location(self, entry: TensorEntry) -> tuple[Path, int]:
        """The file that holds a tensor, and the tensor's offset from its start."""
        part = self._parts[entry.part]
        return part.path, part.data_offset + entry.offset

    def tensor_bytes(self, entry: TensorEntry, size: int) -> NDArray[np.uint8]:
        """The `size` bytes of a tensor as a read-only view of the map; they must lie inside its file."""
        return self._parts[entry.part].tensor_bytes(entry, size)


class _MappedFile:
    """One file, mapped, and its header."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes = map_file(path, len(MAGIC) + 20, "a GGUF file")
        self.size = self._bytes.size
        header = HeaderReader(self._bytes)
        _check_magic_and_version(header)
        tensor_count = header.count("tensor count", _MAX_TENSORS)
        key_count = header.count("metadata count", _MAX_KEYS)
        self.metadata: Mapping[str, Any] = MappingProxyType(_read_metadata(header, key_count))
        self.tensors: Mapping[str, TensorEntry] = MappingProxyType(_read_tensor_table(header, tensor_count))
        self.alignment = self._alignment()
        self.data_offset = -(-header.offset // self.alignment) * self.alignment

    def _alignment(self) -> int:
        value = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(value, int) or value <= 0 or value & (value - 1):
            raise UnreadableError(f"{self.path}: general.alignment is {reprlib.repr(value)}, expected a power of two")
        return value

    def tensor_bytes(self, entry: TensorEntry, size: int) -> NDArray[np.uint8]:
        start = self.data_offset + entry.offset
        if entry.offset % self.alignment:
            raise UnreadableError(
                f"{self.path}: tensor {entry.name} lies at data offset {entry.offset}, expected a multiple of "
                f"{self.alignment}; the file is damaged"
            )
        if start + size > self.size:
            raise UnreadableError(
                f"{self.path}: truncated: tensor {entry.name} ends at byte {start + size}, the file at {self.size}; "
                "fetch or convert it again"
            )
        return self._bytes.tensor(entry.name, start, size)


def is_gguf(path: Path) -> bool:
    """Whether `path` begins with the magic; False for anything that cannot be read."""
    return first_bytes(path, len(MAGIC)) == MAGIC


def _check_magic_and_version(header: HeaderReader) -> None:
    """Read the first eight bytes; the error says what the file is instead."""
    magic = bytes(header.take(4, "the magic"))
    if magic != MAGIC:
        raise header.error(f"not a GGUF file: it begins with {magic!r}, expected {MAGIC!r}", 0)
    version = header.unsigned(4, "the version")
    if version and not version & 0xFFFF:
        raise header.error("the file is big-endian, expected little-endian; convert it again for this machine", 4)
    if version not in VERSIONS:
        raise header.error(f"GGUF version {version}, expected 2 or 3; convert it again with a current converter", 4)


def _read_metadata(header: HeaderReader, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(count):
        start = header.offset
        key = header.text("a metadata key", _MAX_NAME_BYTES)
        if key in metadata:
            raise header.error(f"metadata key {key} occurs twice; the file is damaged", start)
        metadata[key] = _read_value(header, key, header.unsigned(4, f"type of {key}"))
    return metadata


def _read_value(header: HeaderReader, key: str, kind: int) -> Any:
    if kind == _STRING:
        return header.text(key)
    if kind == _ARRAY:
        return _read_array(header, key)
    dtype = _scalar_type(header, key, kind)
    return np.frombuffer(header.take(dtype.itemsize, key), dtype)[0].item()


def _scalar_type(header: HeaderReader, key: str, kind: int) -> np.dtype[Any]:
    if kind not in _SCALARS:
        raise header.error(f"{key} has value type {kind}, which GGUF does not define; the file is damaged")
    return np.dtype(_SCALARS[kind])


def _read_array(header: HeaderReader, key: str) -> StringArray | NDArray[Any]:
    kind = header.unsigned(4, f"element type of {key}")
    if kind == _ARRAY:
        raise header.error(f"{key} is an array of arrays, which is not supported")
    start = header.offset
    count = header.unsigned(8, f"length of {key}")
    if kind != _STRING:
        dtype = _scalar_type(header, key, kind)
        return np.frombuffer(header.take(count * dtype.itemsize, key), dtype)
    if count > min(_MAX_STRINGS, (len(header.data) - header.offset) // 8):
        raise header.error(f"truncated: {key} has {count} strings, more than the file can hold; fetch it again", start)
    return StringArray(header.take(_strings_size(header, key, count), key), count)


def _strings_size(header: HeaderReader, key: str, count: int) -> int:
    """Bytes of the next `count` strings with their lengths."""
    data, length, end = header.data, struct.Struct("<Q").unpack_from, header.offset
    there = 0
    try:
        for _ in range(count):
            if end > there:
                there = header.file.fetch(end + 8) - 8
            end += 8 + length(data, end)[0]
    except (struct.error, OverflowError) as error:
        raise header.error(f"truncated: {key} runs past the end of the file; fetch it again") from error
    return end - header.offset


def _read_tensor_table(header: HeaderReader, count: int) -> dict[str, TensorEntry]:
    table: dict[str, TensorEntry] = {}
    for _ in range(count):
        start = header.offset
        name = header.text("a tensor name", _MAX_NAME_BYTES)
        if name in table:
            raise header.error(f"tensor {name} occurs twice; the file is damaged", start)
        rank = header.unsigned(4, f"rank of {name}")
        if not 1 <= rank <= _MAX_DIMENSIONS:
            raise header.error(
                f"tensor {name} has {rank} dimensions, expected 1 to {_MAX_DIMENSIONS}; the file is damaged"
            )
        dimensions = tuple(header.unsigned(8, f"dimensions of {name}") for _ in range(rank))
        if 0 in dimensions:
            raise header.error(f"tensor {name} is empty: {list(dimensions)}; the file is damaged")
        kind = header.unsigned(4, f"type of {name}")
        table[name] = TensorEntry(name, dimensions, kind, header.unsigned(8, f"offset of {name}"))
    return table
