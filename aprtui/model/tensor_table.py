"""The tensors of a model file, of any architecture: what each is stored as, its scales, its values.

Values are read by position, never through the memory map: a model may be fetched again while it is displayed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aprtui.errors import UnreadableError
from aprtui.model.conversion import Conversion
from aprtui.model.model_file import ModelFile
from aprtui.model.open_file import open_model_file
from aprtui.model.weight_types import BlockPart
from aprtui.model.weights import StoredTensor, stored_tensor
from aprtui.trace.positional import PositionalFile
from aprtui.trace.stats import Accumulator, StageStats, accumulate

_SCALES = {BlockPart.SCALE: "d", BlockPart.MINIMUM: "dmin"}
"""The parts of a block that scale it, as `StoredTensor.parts` and as ggml calls them."""

_EXPONENT_BIAS = 128
"""Of scales that are a byte: powers of two that multiply whole quants (`GGML_E8M0_TO_FP32_HALF`)."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file. `stored` is None where it cannot be read, and `problem` says why.

    Where it is stored in a type that ggml lacks, `type` names that, `conversion` converts it, and `stored` has the type
    that it is converted to, without values.

    `shape` is slowest dimension first; `offset` counts from the start of the file, `path`: that of its part where a
    model is split.
    """

    path: Path
    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    stored: StoredTensor | None
    problem: str = ""
    conversion: Conversion | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes in the file of a row of a tensor that can be read."""
        assert self.stored is not None, "only known for what can be read"
        return self.stored.data.shape[1] if self.conversion is None else self.conversion.row_bytes(self.stored.columns)

    @property
    def bytes(self) -> int | None:
        """Bytes in the file, where that is known."""
        if self.stored is None:
            return None
        return (0 if self.conversion is None else self.conversion.prefix) + self.stored.rows * self.row_bytes


@dataclass(frozen=True, slots=True)
class TensorSummary:
    """Ranges of the scales (`d`, `dmin`) that a quantised tensor has, and statistics of its values.

    `stats` is None for types whose values are not known here.
    """

    scales: Mapping[str, tuple[float, float]]
    stats: StageStats | None


def tensor_table(path: Path) -> tuple[TensorInfo, ...]:
    """All tensors of the model file at `path`, and of the other parts of its model, in file order.

    Raises `UnreadableError` for another kind of file.
    """
    file = open_model_file(path, headers_only=True)
    return tuple(_info(file, name) for name in file.tensors)


def _info(file: ModelFile, name: str) -> TensorInfo:
    entry = file.tensors[name]
    shape, (path, offset) = tuple(reversed(entry.dimensions)), file.location(entry)
    try:
        stored = stored_tensor(file, entry)
    except UnreadableError as error:
        return TensorInfo(path, name, f"type {entry.type}", shape, offset, None, str(error))
    if stored is None:
        return TensorInfo(path, name, f"type {entry.type}", shape, offset, None, "of a type that is not known here")
    conversion = file.conversion(name)
    kind = stored.type if conversion is None else conversion.name
    return TensorInfo(path, name, kind, shape, offset, stored, conversion=conversion)


class TensorReader:
    """Reads rows of one tensor. Raises `UnreadableError` for one that cannot be read."""

    def __init__(self, info: TensorInfo) -> None:
        if info.stored is None:
            raise UnreadableError(f"{info.path}: tensor {info.name}: {info.problem}")
        self.info = info
        self._stored = info.stored
        self.file = PositionalFile(info.path)
        self._prefix = np.empty(0 if info.conversion is None else info.conversion.prefix, np.uint8)
        if self._prefix.size:
            self.file.fill(self._prefix, info.offset)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns: columns are the fastest dimension, rows all others together."""
        return self._stored.rows, self._stored.columns

    def rows(self, rows: slice) -> StoredTensor:
        """Some of the rows, as they are stored, or converted to the type that they are read as."""
        data = np.empty((rows.stop - rows.start, self.info.row_bytes), np.uint8)
        self.file.fill(data, self.place(rows.start, 0)[0])
        if self.info.conversion is not None:
            data = self.info.conversion.converted(self._prefix, data)
        return replace(self._stored, data=data)

    def values(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Some values, float32 `[rows, columns]`; blocks without any of them are not read.

        Raises `UnreadableError` for a type whose values are not known here.
        """
        stored, width = self._stored, self._stored.block_values
        if self.info.conversion is not None:
            return self._dequantised(self.rows(rows))[:, columns]
        first, last = columns.start // width, -(-columns.stop // width)
        is_whole = (last - first) * width == stored.columns
        part = self.rows(rows) if is_whole else self._blocks(rows, first, last)
        return self._dequantised(part)[:, columns.start - first * width : columns.stop - first * width]

    def _blocks(self, rows: slice, first: int, last: int) -> StoredTensor:
        """Some blocks of some rows, as a tensor of its own."""
        stored = self._stored
        data = np.empty((rows.stop - rows.start, (last - first) * stored.block_bytes), np.uint8)
        for index, row in enumerate(range(rows.start, rows.stop)):
            self.file.fill(data[index], self.place(row, first * stored.block_values)[0])
        shape = (data.shape[0], (last - first) * stored.block_values)
        return replace(stored, data=data, shape=shape)

    def _dequantised(self, stored: StoredTensor) -> NDArray[np.float32]:
        try:
            return stored.values(slice(0, stored.rows))
        except NotImplementedError:
            raise UnreadableError(
                f"{self.file.path}: tensor {self.info.name}: values of type {self.info.type} are not known here"
            ) from None

    def place(self, row: int, column: int) -> tuple[int, int]:
        """Offset in the file of the block that holds a value, and how many bytes it has."""
        block = self._stored if self.info.conversion is None else self.info.conversion
        start = self.info.offset + self._prefix.size + row * self.info.row_bytes
        return start + column // block.block_values * block.block_bytes, block.block_bytes

    def row_ranges(self) -> Iterator[slice]:
        return self._stored.row_ranges()

    def close(self) -> None:
        self.file.close()


def summarise(info: TensorInfo, cancelled: Callable[[], bool] = lambda: False) -> TensorSummary:
    """Scales and statistics of one tensor, in bounded memory; of a part of it where `cancelled` ended the pass."""
    reader = TensorReader(info)
    ranges: dict[str, tuple[float, float]] = {}
    total: Accumulator | None = Accumulator()
    try:
        for rows in reader.row_ranges():
            if cancelled():
                break
            stored = reader.rows(rows)
            for part, name in _SCALES.items():
                if part in stored.parts:
                    ranges[name] = _widened(ranges.get(name, (math.inf, -math.inf)), stored, stored.parts[part])
            try:
                if total is not None:
                    total.merge(accumulate(stored.values(slice(0, stored.rows))))
            except NotImplementedError:
                total = None
    finally:
        reader.close()
    return TensorSummary(ranges, None if total is None else total.finish())


def _widened(known: tuple[float, float], stored: StoredTensor, part: slice) -> tuple[float, float]:
    """`known`, and the numbers that all blocks have in `part`, float16 or exponents; NaN is in no range."""
    found = np.ascontiguousarray(stored.blocks(slice(0, stored.rows))[..., part])
    if part.stop - part.start == 1:
        numbers = np.ldexp(1.0, found.astype(np.int32) - _EXPONENT_BIAS)
    else:
        numbers = found.view(np.float16).astype(np.float64)
    return float(np.fmin(known[0], np.fmin.reduce(numbers, axis=None))), float(
        np.fmax(known[1], np.fmax.reduce(numbers, axis=None))
    )
