"""Files that `torch.save` wrote, read without torch and without unpickling.

Since version 1.6 they are zip archives: `NAME/data.pkl` is a pickle whose storages lie beside it, as
`NAME/data/KEY`. Older ones are five pickles in a row (a magic number, a version, sizes, the value, the keys of its
storages), and behind them for each key the number of its elements as i64 LE, and the elements. Both as in
`torch/serialization.py` (`_save`, `_legacy_save`).
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from aprtui.errors import UnreadableError
from aprtui.importing.elements import ELEMENTS, ElementType, Raw, SourceTensor
from aprtui.importing.numpy_files import require_no_bomb
from aprtui.importing.pickled import (
    MOST_BYTES,
    PickledName,
    PickledStorage,
    PickledTensor,
    PickleError,
    read_pickle,
)
from aprtui.trace.archive import NO_ARCHIVE

SUFFIXES = (".pt", ".pth")
_MAGIC = 0x1950A86A20F9469CFC6C
_MOST_EXPANDED = 1 << 24
"""Values of a tensor that repeats those of a smaller storage."""
_MOST_DEPTH = 16
_MOST_VALUES = 1_000_000

_TYPES = {
    "Float": "F32", "Half": "F16", "BFloat16": "BF16", "Double": "F64", "Long": "I64", "Int": "I32", "Short": "I16",
    "Char": "I8", "Byte": "U8", "Bool": "BOOL",
}  # fmt: skip
_DTYPES = {
    "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL", "uint16": "U16", "uint32": "U32", "uint64": "U64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip

_STORED: Mapping[str, str] = MappingProxyType({f"{name}Storage": element for name, element in _TYPES.items()})


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the bytes of a storage are: how many there are, and how they are read."""

    size: int
    read: Callable[[], bytes]


def load_torch(path: Path) -> Any:
    """The value that was saved: dictionaries, lists, tuples, numbers, texts, and a `SourceTensor` for each tensor.

    No tensor is read yet. Raises `UnreadableError`.
    """
    try:
        with open(path, "rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
        value, places = _zipped(path) if is_zip else _legacy(path)
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error
    except PickleError as error:
        raise UnreadableError(f"{path}: {error}: only tensors in lists and dictionaries are read") from error
    except NO_ARCHIVE as error:
        raise UnreadableError(f"{path}: not an archive that can be read: {error}: save it again") from error
    return _with_tensors(path, value, places, _MOST_DEPTH, count())


def read_torch(path: Path) -> dict[str, SourceTensor]:
    """The tensors of a file by the keys that lead to them, joined by dots; a file that is one tensor has no name."""
    return dict(flattened(load_torch(path)))


def flattened(value: Any, name: str = "") -> Iterator[tuple[str, SourceTensor]]:
    """The tensors in a value, each with the keys and numbers that lead to it, joined by dots."""
    if isinstance(value, SourceTensor):
        yield name, replace(value, name=name)
        return
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, inner in items:
        yield from flattened(inner, f"{name}.{key}" if name else str(key))


def _zipped(path: Path) -> tuple[Any, Mapping[str, _Place]]:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        pickle = next((name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")), None)
        if pickle is None:
            raise UnreadableError(f"{path}: an archive without a data.pkl: not written by torch.save")
        prefix = pickle.removesuffix("data.pkl")
        order = members.get(f"{prefix}byteorder")
        if order is not None and archive.open(order).read(8).strip() != b"little":
            raise UnreadableError(f"{path}: its numbers are big-endian: save it on another machine")
        with archive.open(pickle) as member:
            data = member.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise UnreadableError(f"{path}: its pickle is larger than {MOST_BYTES >> 20} MB: save tensors alone")
    places = {}
    for name, info in members.items():
        if name.startswith(f"{prefix}data/"):
            require_no_bomb(f"{path}: member {name!r:.80}", info)
            places[name.removeprefix(f"{prefix}data/")] = _Place(info.file_size, partial(_member, path, info))
    return read_pickle(BytesIO(data)), places


def _member(path: Path, info: zipfile.ZipInfo) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(info) as member:
            return member.read(info.file_size)
    except (OSError, *NO_ARCHIVE) as error:
        raise UnreadableError(f"{path}: member {info.filename!r:.80}: cannot be read: {error}") from error


def _legacy(path: Path) -> tuple[Any, Mapping[str, _Place]]:
    size = path.stat().st_size
    with open(path, "rb") as file:
        stream = BytesIO(file.read(MOST_BYTES))
    if read_pickle(stream) != _MAGIC:
        raise UnreadableError(f"{path}: byte 0: not a file of torch.save")
    _, system = read_pickle(stream), read_pickle(stream)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise UnreadableError(f"{path}: its numbers are big-endian: save it on another machine")
    value, keys = read_pickle(stream), read_pickle(stream)
    sizes = {storage.key: storage for storage in _storages(value, _MOST_DEPTH, set())}
    places, at = {}, stream.tell()
    for key in keys if isinstance(keys, list) else []:
        storage = sizes.get(key)
        if storage is None:
            break
        element = _STORED.get(storage.kind.name)
        length = storage.count * (ELEMENTS[element].size if element else 1)
        with open(path, "rb") as file:
            file.seek(at)
            head = file.read(8)
        if len(head) < 8 or struct.unpack("<q", head)[0] != storage.count or at + 8 + length > size:
            raise UnreadableError(f"{path}: byte {at}: {storage.count} elements were expected here: truncated")
        places[key] = _Place(length, partial(_range, path, at + 8, length))
        at += 8 + length
    return value, places


def _range(path: Path, offset: int, count: int) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(count)
    except OSError as error:
        raise UnreadableError(f"{path}: byte {offset}: cannot be read: {error.strerror or error}") from error


def _storages(value: Any, depth: int, seen: set[int]) -> Iterator[PickledStorage]:
    if isinstance(value, PickledTensor):
        yield value.storage
    elif depth and isinstance(value, dict | list | tuple) and id(value) not in seen:
        seen.add(id(value))
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _storages(inner, depth - 1, seen)


def _with_tensors(path: Path, value: Any, places: Mapping[str, _Place], depth: int, counter: Iterator[int]) -> Any:
    """`value` with its tensors found; names become texts. What is repeated counts as often as it is."""
    if next(counter) > _MOST_VALUES:
        raise UnreadableError(f"{path}: more than {_MOST_VALUES} values: save tensors alone")
    if isinstance(value, PickledTensor):
        return _found(path, value, places)
    if isinstance(value, PickledName | PickledStorage):
        return str(value)
    if isinstance(value, dict | list | tuple):
        if not depth:
            raise UnreadableError(f"{path}: nested deeper than {_MOST_DEPTH} levels: save tensors alone")
        if isinstance(value, dict):
            return {key: _with_tensors(path, inner, places, depth - 1, counter) for key, inner in value.items()}
        return [_with_tensors(path, inner, places, depth - 1, counter) for inner in value]
    return value


def _found(path: Path, tensor: PickledTensor, places: Mapping[str, _Place]) -> SourceTensor:
    storage, shape = tensor.storage, tensor.shape
    element = _element(path, tensor)
    place = places.get(storage.key)
    if place is None:
        raise UnreadableError(f"{path}: storage {storage.key!r:.40} is not there: truncated")
    held = place.size // element.size
    values = math.prod(shape)
    last = sum((size - 1) * stride for size, stride in zip(shape, tensor.strides, strict=True))
    if values and tensor.offset + last >= held:
        raise UnreadableError(
            f"{path}: storage {storage.key!r:.40} holds {held} values, shape {list(shape)} with strides "
            f"{list(tensor.strides)} needs {tensor.offset + last + 1}: truncated"
        )
    if values > max(held, _MOST_EXPANDED):
        raise UnreadableError(f"{path}: shape {list(shape)} repeats {held} values: save what it is made of")
    return SourceTensor("", shape, element, partial(_values, path, tensor, element, place))


def _element(path: Path, tensor: PickledTensor) -> ElementType:
    kind, dtype = tensor.storage.kind, tensor.dtype
    name = _STORED.get(kind.name) if dtype is None else _DTYPES.get(dtype.name)
    if name is None:
        what = kind if dtype is None else dtype
        raise UnreadableError(f"{path}: a tensor of {what}: expected floats or whole numbers: convert it")
    return ELEMENTS[name]


def _values(path: Path, tensor: PickledTensor, element: ElementType, place: _Place) -> Raw:
    """The bytes of a tensor, row-major, of a storage in which they may lie in another order."""
    data = np.frombuffer(place.read(), np.uint8)
    if data.size < place.size:
        raise UnreadableError(f"{path}: storage {tensor.storage.key!r:.40} ends early: it is being written again")
    if not math.prod(tensor.shape):
        return np.empty(0, np.uint8)
    start = tensor.offset * element.size
    strides = [stride * element.size for stride in tensor.strides]
    view = np.lib.stride_tricks.as_strided(data[start:], (*tensor.shape, element.size), (*strides, 1), writeable=False)
    return np.ascontiguousarray(view).reshape(-1)
