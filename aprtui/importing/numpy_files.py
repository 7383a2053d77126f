"""Arrays that numpy has saved: `.npy` files and `.npz` archives of them, read without unpickling anything.

The formats are those of `numpy.lib.format`; an archive is a zip file whose members are `.npy` files.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from aprtui.errors import UnreadableError
from aprtui.importing.elements import ELEMENTS, Raw, SourceTensor
from aprtui.trace.archive import NO_ARCHIVE

SUFFIXES = (".npy", ".npz")
_HEAD = 1 << 16
_DESCR = r"'descr':\s*'([<>|=][biufVO]\d{0,2})'"
_ORDER = r"'fortran_order':\s*(True|False)"
_SHAPE = r"'shape':\s*\(([0-9, ]{0,300})\)"
_LARGE, _MOST_RATIO = 1 << 28, 100
"""A member that is larger and packed better than this holds nothing that a model has computed."""
_NAMES = {
    "<f4": "F32", "<f2": "F16", "<f8": "F64", "|b1": "BOOL", "|u1": "U8", "|i1": "I8", "<i2": "I16", "<u2": "U16",
    "<i4": "I32", "<u4": "U32", "<i8": "I64", "<u8": "U64",
}  # fmt: skip


def read_npy(path: Path, name: str) -> SourceTensor:
    """The array of a `.npy` file, not read yet. Raises `UnreadableError`."""
    try:
        with open(path, "rb") as file:
            shape, dtype, fortran, start = _header(str(path), file)
            held = file.seek(0, io.SEEK_END) - start
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error
    _require_held(str(path), shape, dtype, held)

    def load() -> NDArray[Any]:
        try:
            with open(path, "rb") as file:
                file.seek(start)
                values = np.fromfile(file, dtype, math.prod(shape))
        except OSError as error:
            raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error
        if values.size < math.prod(shape):
            raise UnreadableError(f"{path}: the file ends early since it was opened: it is being written again")
        return values

    return _stored(str(path), name, shape, dtype, partial(_ordered, load, shape, fortran))


def read_npz(path: Path) -> dict[str, SourceTensor]:
    """The arrays of a `.npz` archive by the names that they were saved under. Raises `UnreadableError`."""
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.filename.endswith(".npy"):
                    continue
                where = f"{path}: member {info.filename!r:.80}"
                with archive.open(info) as member:
                    shape, dtype, fortran, start = _header(where, member)
                require_no_bomb(where, info)
                _require_held(where, shape, dtype, info.file_size - start)
                load = partial(_member, path, where, info, start, math.prod(shape) * dtype.itemsize, dtype)
                name = info.filename.removesuffix(".npy")
                found[name] = _stored(where, name, shape, dtype, partial(_ordered, load, shape, fortran))
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error
    except NO_ARCHIVE as error:
        raise UnreadableError(f"{path}: not a zip archive that can be read: {error}: save it again") from error
    return found


def _header(where: str, file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], bool, int]:
    """Shape, type, whether columns come first, and where the values begin.

    The header is a Python dictionary in ASCII; its three fields are looked for, and nothing is evaluated.
    """
    data = file.read(_HEAD)
    wide = data[6:7] != b"\x01"
    start = 12 if wide else 10
    if data[:6] != b"\x93NUMPY" or data[6:7] not in (b"\x01", b"\x02", b"\x03") or len(data) < start:
        raise UnreadableError(f"{where}: not a .npy file: expected the magic \\x93NUMPY and version 1, 2 or 3")
    (length,) = struct.unpack_from("<I" if wide else "<H", data, 8)
    text = data[start : start + length].decode("latin-1")
    found = [re.search(pattern, text) for pattern in (_DESCR, _ORDER, _SHAPE)]
    descr, order, shape = found
    if len(text) < length or descr is None or order is None or shape is None:
        raise UnreadableError(f"{where}: its header is not that of an array of numbers: save one of plain floats")
    sizes = tuple(int(size) for size in re.findall("[0-9]+", shape[1]))
    try:
        return sizes, np.dtype(descr[1]), order[1] == "True", start + length
    except (TypeError, ValueError) as error:
        raise UnreadableError(
            f"{where}: type {descr[1]!r}: expected floats, whole numbers, or bfloat16 as V2"
        ) from error


def _require_held(where: str, shape: tuple[int, ...], dtype: np.dtype[Any], held: int) -> None:
    if dtype.hasobject:
        raise UnreadableError(f"{where}: holds pickled objects: save an array of numbers")
    needed = math.prod(shape) * dtype.itemsize
    if needed > held:
        raise UnreadableError(f"{where}: {held} bytes of values, its shape {list(shape)} needs {needed}: truncated")


def require_no_bomb(where: str, info: zipfile.ZipInfo) -> None:
    """Raise `UnreadableError` for a member that unpacks to far more than numbers do."""
    if info.file_size > _LARGE and info.file_size > _MOST_RATIO * info.compress_size:
        raise UnreadableError(f"{where}: {info.compress_size} bytes claim to be {info.file_size}: a zip bomb")


def _stored(where: str, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], load: Any) -> SourceTensor:
    element = _NAMES.get(dtype.newbyteorder("<").str) or ("BF16" if dtype.str[1:] == "V2" else None)
    if element is None:
        raise UnreadableError(f"{where}: type {dtype.str!r}: expected floats, whole numbers, or bfloat16 as V2")
    return SourceTensor(name, shape, ELEMENTS[element], load)


def _ordered(load: Any, shape: tuple[int, ...], fortran: bool) -> Raw:
    """The bytes of the values, row-major and little-endian."""
    values: NDArray[Any] = load()
    if fortran:
        values = values.reshape(shape, order="F")
    if values.dtype.byteorder == ">":
        values = values.astype(values.dtype.newbyteorder("<"))
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def _member(path: Path, where: str, info: zipfile.ZipInfo, start: int, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The values of a member; of a member that would unpack to more, no more than those are read."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(info) as member:
            data = member.read(start + size)
    except (OSError, *NO_ARCHIVE) as error:
        raise UnreadableError(f"{where}: cannot be read: {error}") from error
    if len(data) < start + size:
        raise UnreadableError(f"{where}: {len(data) - start} bytes of values, {size} were declared: truncated")
    return np.frombuffer(data, dtype, offset=start)
