"""`.apr` bytes: header, JSON metadata and tensor index of a file, read as those of GGUF.

Format: aprender-core, `format/v2`: 64 bytes of header, metadata, index, tensors at multiples of 64 bytes, and a
checksum of the whole file, which readers do not verify. Shapes are slowest dimension first, tensors have the names of
transformers (or of GGUF, which pass as they are).
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprtui.errors import UnreadableError
from aprtui.model.apr.dtypes import meanings, name_of
from aprtui.model.apr.metadata import named, rope_layout, translated
from aprtui.model.apr.names import gguf_name
from aprtui.model.conversion import Conversion
from aprtui.model.gguf_file import TensorEntry
from aprtui.model.header_reader import ROPE_FACTORS, HeaderReader, first_bytes, map_file
from aprtui.trace.graph.config import RopeLayout

MAGICS = (b"APR\0", b"APR2", b"APR1")
"""Of all versions; files of version 1 are refused."""

_HEADER_BYTES = 64
_VERSION = (2, 0)
_ALIGNMENT = 64
_MAX_METADATA_BYTES = 16 << 20
_MAX_TENSORS = 1 << 18
_MAX_NAME_BYTES = 256
_MAX_DIMENSIONS = 8
_CONVERTED_AT_ONCE = 1 << 22
"""Bytes of scratch memory, about."""

_REFUSED: Mapping[int, str] = MappingProxyType(
    {
        0x0001: "is compressed (LZ4): write it again without compression",
        0x0002: "is compressed (Zstandard): write it again without compression",
        0x0004: "is encrypted: decrypt it first",
        0x0008: "is signed, and signatures are not verified here: write it again without",
        0x0010: "is one of several shards: write the model as one file",
        0x0800: "is column-major, as wrong conversions from GGUF are: convert it again",
    }
)
_WITHOUT_EFFECT = 0x0020 | 0x0040 | 0x0080 | 0x0100 | 0x0200 | 0x0400
"""Flags: quantised, filterbank, model card, streaming, vocabulary, row-major."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """A tensor as the index has it, with what its type means."""

    name: str
    shape: tuple[int, ...]
    offset: int
    size: int
    ggml_type: int
    conversion: Conversion | None


class AprFile:
    """A model in a memory-mapped `.apr` file, as if it were a GGUF file.

    Tensors of types that ggml has are views of the map; others are converted when their bytes are asked for. With
    `headers_only` these are zeros that take no memory: their sizes are known, their values are not. Raises
    `UnreadableError` for anything malformed or not supported; but metadata that describe no model are a `refusal`:
    the tensors can be read all the same.
    """

    def __init__(self, path: Path, *, headers_only: bool = False) -> None:
        self.path, self.paths = path, (path,)
        self._headers_only = headers_only
        self._bytes = map_file(path, _HEADER_BYTES, "an .apr file")
        self.size = self._bytes.size
        header = HeaderReader(self._bytes)
        sections = _read_header(header)
        document = _read_metadata(header, sections)
        self._data_offset = sections.data_offset
        self._stored = _read_index(header, sections)
        self.tensors: Mapping[str, TensorEntry] = MappingProxyType(
            {
                name: TensorEntry(name, tuple(reversed(each.shape)), each.ggml_type, each.offset)
                for name, each in self._stored.items()
            }
        )
        self.refusal = ""
        self.metadata: Mapping[str, Any] = named(document)
        self.rope_layout: RopeLayout | None = None
        try:
            self.metadata = MappingProxyType(translated(path, document, self.tensors))
            self.rope_layout = rope_layout(path, document, self.metadata)
        except UnreadableError as error:
            self.refusal = str(error)

    def location(self, entry: TensorEntry) -> tuple[Path, int]:
        return self.path, self._data_offset + entry.offset

    def conversion(self, name: str) -> Conversion | None:
        return self._stored[name].conversion

    def tensor_bytes(self, entry: TensorEntry, size: int) -> NDArray[np.uint8]:
        stored = self._stored[entry.name]
        start = self._data_offset + stored.offset
        if stored.offset % _ALIGNMENT:
            raise UnreadableError(
                f"{self.path}: tensor {stored.name} lies at data offset {stored.offset}, expected a multiple of "
                f"{_ALIGNMENT}; the file is damaged"
            )
        if start + stored.size > self.size:
            raise UnreadableError(
                f"{self.path}: truncated: tensor {stored.name} ends at byte {start + stored.size}, the file at "
                f"{self.size}; fetch or convert it again"
            )
        if self._headers_only and stored.conversion is not None and entry.name != ROPE_FACTORS:
            return np.broadcast_to(np.uint8(0), size)
        raw = self._bytes.tensor(entry.name, start, stored.size)
        if stored.conversion is None:
            return raw
        return _converted(stored.conversion, raw, stored.shape[-1], size)


def is_apr_model(path: Path) -> bool:
    """Whether `path` begins with one of the magics; False for anything that cannot be read."""
    return first_bytes(path, 4) in MAGICS


def _converted(conversion: Conversion, raw: NDArray[np.uint8], columns: int, size: int) -> NDArray[np.uint8]:
    prefix, data = raw[: conversion.prefix], raw[conversion.prefix :].reshape(-1, conversion.row_bytes(columns))
    out = np.empty((len(data), size // len(data)), np.uint8)
    step = max(1, _CONVERTED_AT_ONCE // out.shape[1])
    for start in range(0, len(data), step):
        out[start : start + step] = conversion.converted(prefix, data[start : start + step])
    out.flags.writeable = False
    return out.reshape(-1)


@dataclass(frozen=True, slots=True)
class _Sections:
    tensor_count: int
    metadata_offset: int
    metadata_size: int
    index_offset: int
    data_offset: int


def _read_header(header: HeaderReader) -> _Sections:
    magic = bytes(header.take(4, "the magic"))
    if magic == b"APR1":
        raise header.error("an .apr file of version 1, expected 2; convert it again with a current aprender", 0)
    if magic not in MAGICS:
        raise header.error(f"not an .apr file: it begins with {magic!r}, expected {MAGICS[0]!r}", 0)
    version = header.unsigned(1, "the version"), header.unsigned(1, "the version")
    flags = header.unsigned(2, "the flags")
    sections = _Sections(*(header.unsigned(size, "the header") for size in (4, 8, 4, 8, 8)))
    stated = header.unsigned(4, "the checksum")
    data = header.data
    computed = zlib.crc32(data[44:_HEADER_BYTES], zlib.crc32(data[:40]))
    if stated != computed:
        raise header.error(
            f"the checksum of the header is {stated:08x}, expected {computed:08x}; the file is damaged",
            40,
        )
    if version != _VERSION:
        raise header.error(f".apr version {version[0]}.{version[1]}, expected 2.0", 4)
    for flag, problem in _REFUSED.items():
        if flags & flag:
            raise UnreadableError(f"{header.path}: the file {problem}")
    if unknown := flags & ~_WITHOUT_EFFECT:
        raise header.error(f"flags {unknown:#06x} are not known here, expected an .apr file of version 2.0", 6)
    _check_sections(header, sections)
    return sections


def _check_sections(header: HeaderReader, sections: _Sections) -> None:
    if sections.tensor_count > _MAX_TENSORS:
        raise header.error(f"{sections.tensor_count} tensors, expected at most {_MAX_TENSORS}; the file is damaged", 8)
    if sections.metadata_size > _MAX_METADATA_BYTES:
        raise header.error(
            f"the metadata have {sections.metadata_size} bytes, expected at most {_MAX_METADATA_BYTES}", 20
        )
    ends = (
        ("metadata", sections.metadata_offset, sections.metadata_offset + sections.metadata_size),
        ("tensor index", sections.index_offset, sections.data_offset),
    )
    for what, start, end in ends:
        if start < _HEADER_BYTES or end < start:
            raise header.error(f"the {what} lie at bytes {start} to {end}; the file is damaged", 12)
        if end > len(header.data):
            raise header.error(
                f"truncated: the {what} end at byte {end}, the file at {len(header.data)}; fetch it again", start
            )


def _read_metadata(header: HeaderReader, sections: _Sections) -> dict[str, Any]:
    header.offset = sections.metadata_offset
    data = bytes(header.take(sections.metadata_size, "the metadata"))
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        place = f" at {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise header.error(f"the metadata are no JSON{place}; the file is damaged", sections.metadata_offset) from error
    if not isinstance(document, dict):
        raise header.error("the metadata are no JSON object; the file is damaged", sections.metadata_offset)
    return document


def _read_index(header: HeaderReader, sections: _Sections) -> dict[str, _Stored]:
    """The tensors by the names that GGUF has for them, in the order of the index."""
    header.offset = sections.index_offset
    found: dict[str, _Stored] = {}
    for _ in range(sections.tensor_count):
        start = header.offset
        stored = _read_entry(header)
        if header.offset > sections.data_offset:
            raise header.error(f"tensor {stored.name} is outside of the index; the file is damaged", start)
        name = gguf_name(stored.name)
        if name in found:
            raise header.error(f"tensor {stored.name} occurs twice; the file is damaged", start)
        found[name] = stored
    return found


def _read_entry(header: HeaderReader) -> _Stored:
    start = header.offset
    length = header.unsigned(2, "length of a tensor name")
    if length > _MAX_NAME_BYTES:
        raise header.error(f"a tensor name has {length} bytes, expected at most {_MAX_NAME_BYTES}", start)
    try:
        name = str(header.take(length, "a tensor name"), "utf-8")
    except UnicodeDecodeError as error:
        raise header.error("a tensor name is not UTF-8; the file is damaged", start) from error
    number = header.unsigned(1, f"type of {name}")
    rank = header.unsigned(1, f"rank of {name}")
    if rank > _MAX_DIMENSIONS:
        raise header.error(f"tensor {name} has {rank} dimensions, expected at most {_MAX_DIMENSIONS}", start)
    shape = tuple(header.unsigned(8, f"dimensions of {name}") for _ in range(rank)) or (1,)
    offset, size = header.unsigned(8, f"offset of {name}"), header.unsigned(8, f"size of {name}")
    if 0 in shape:
        raise header.error(f"tensor {name} is empty: {list(shape)}; the file is damaged", start)
    ggml_type, conversion = _meaning(header, start, name, number, shape, size)
    return _Stored(name, shape, offset, size, ggml_type, conversion)


def _meaning(
    header: HeaderReader, start: int, name: str, number: int, shape: tuple[int, ...], size: int
) -> tuple[int, Conversion | None]:
    """What the type of a tensor means: the one whose size is that of the tensor."""
    possible = list(meanings(number, math.prod(shape[:-1]), shape[-1]))
    for ggml_type, conversion, expected in possible:
        if expected == size:
            if conversion is not None and shape[-1] % conversion.block_values:
                raise header.error(
                    f"tensor {name} is {conversion.name} with rows of {shape[-1]} values, expected a multiple of "
                    f"{conversion.block_values}", start,
                )  # fmt: skip
            return ggml_type, conversion
    if not possible:
        raise header.error(f"tensor {name} has the type {name_of(number)}, which is not known here", start)
    sizes = " or ".join(str(expected) for _, _, expected in possible)
    raise header.error(
        f"tensor {name} of type {name_of(number)} and shape {list(shape)} has {size} bytes, expected {sizes}; "
        "the file is damaged",
        start,
    )
