"""Safetensors files: a length, a JSON header, and the bytes of the tensors.

| offset | type | meaning |
|---|---|---|
| 0 | u64 LE | bytes of the header, n |
| 8 | JSON | `{"NAME": {"dtype": "F32", "shape": […], "data_offsets": [begin, end]}, "__metadata__": {…}}` |
| 8 + n | | the tensors, row-major, little-endian; offsets count from here |

The format is described in the README of huggingface/safetensors, which also bounds the header to 100 MB.
"""

from __future__ import annotations

import json
import math
import os
import struct
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

from aprtui.errors import UnreadableError
from aprtui.importing.elements import ELEMENTS, SourceTensor
from aprtui.importing.raw_file import range_of

SUFFIX = ".safetensors"
MOST_HEADER_BYTES = 100_000_000
_ALIASES = {"F8_E4M3FN": "F8_E4M3", "float8_e4m3fn": "F8_E4M3"}


def read_safetensors(path: Path) -> dict[str, SourceTensor]:
    """The tensors of a file by name, none of them read yet. Raises `UnreadableError`."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else -1
            if not 2 <= length <= min(size - 8, MOST_HEADER_BYTES):
                raise UnreadableError(
                    f"{path}: byte 0: a header of {length} bytes in a file of {size}: not a safetensors file, or cut"
                )
            text = file.read(length)
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{path}: byte 8: the header is not JSON: write the file again") from error
    if not isinstance(header, dict):
        raise UnreadableError(f"{path}: byte 8: the header is not a JSON object: write the file again")
    start = 8 + length
    return {name: _tensor(path, name, entry, start, size) for name, entry in header.items() if name != "__metadata__"}


def _tensor(path: Path, name: str, entry: Any, start: int, size: int) -> SourceTensor:
    fields = entry if isinstance(entry, dict) else {}
    kind, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not isinstance(kind, str) or not _whole(shape) or not _whole(offsets) or len(offsets) != 2:
        raise UnreadableError(f"{path}: tensor {name!r:.80}: expected dtype, shape and data_offsets: write it again")
    element = ELEMENTS.get(_ALIASES.get(kind, kind))
    if element is None:
        raise UnreadableError(f"{path}: tensor {name!r:.80}: type {kind!r:.20} is not known: expected one of "
                              f"{', '.join(ELEMENTS)}")  # fmt: skip
    begin, end = offsets
    count = math.prod(shape) * element.size
    if not begin <= end <= size - start or end - begin != count:
        raise UnreadableError(
            f"{path}: tensor {name!r:.80}: bytes {begin} … {end} of {size - start}, its shape needs {count}: truncated "
            "or written wrong"
        )
    return SourceTensor(name, tuple(shape), element, partial(range_of, path, start + begin, count))


def _whole(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and len(values) <= 16 and all(type(v) is int and v >= 0 for v in values)
