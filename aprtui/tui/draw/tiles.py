"""Arrays → tiles of levels for a heatmap: how values share cells, what stands for those of a cell, and its level.

Where a cell stands for several values, it shows the one of largest magnitude, never the mean: a single wrong number
must be seen in a tensor of millions. NaN wins over Inf, and Inf over any number. With the bits of a float32 as an
integer this order comes by itself: the largest int32 is the largest positive value, the largest uint32 the largest
negative one, and NaN lies above Inf. That makes two vertical maxima a row, 10 ms for the 128 MB of 4096 × 8192 values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from aprtui.tui.draw.colours import LEVELS, ColourMap, Mark

Read = Callable[[slice, slice], NDArray[np.float32]]
"""Gives the values of some rows and columns; of an array, `lambda rows, columns: array[rows, columns]`."""

Size = tuple[int, int]
"""Rows and columns."""

CHUNK = 1 << 18
"""Values that are asked for at once: 1 MB, which stays in the cache between the two maxima."""

LOG_DECADES = 6
"""A logarithmic scale begins so many powers of ten below its end, unless the caller says otherwise."""

_SIGN = np.uint32(1 << 31)
_INFINITE = np.uint32(0x7F800000)


@dataclass(frozen=True, slots=True)
class Tiling:
    """How an array is divided into cells: from which row and column on, and how many of each share a cell (≥ 1)."""

    row: int = 0
    column: int = 0
    rows_per_cell: int = 1
    columns_per_cell: int = 1

    def cells(self, shape: Size, room: Size) -> Size:
        """Rows and columns of the tile of an array of `shape`: all that there is, as far as it fits in `room`."""
        rows = _up(shape[0] - self.row, self.rows_per_cell)
        columns = _up(shape[1] - self.column, self.columns_per_cell)
        return max(min(rows, room[0]), 0), max(min(columns, room[1]), 0)

    def cell(self, row: int, column: int) -> Size:
        """The cell that shows a value; it may lie outside of the tile."""
        return (row - self.row) // self.rows_per_cell, (column - self.column) // self.columns_per_cell

    def values(self, row: int, column: int, shape: Size) -> tuple[slice, slice]:
        """The rows and columns of the values that a cell stands for."""
        top, left = self.row + row * self.rows_per_cell, self.column + column * self.columns_per_cell
        return (
            slice(top, min(top + self.rows_per_cell, shape[0])),
            slice(left, min(left + self.columns_per_cell, shape[1])),
        )


def whole(shape: Size, room: Size) -> Tiling:
    """The tiling that shows all of an array in `room`, as large as it can."""
    return Tiling(0, 0, max(_up(shape[0], max(room[0], 1)), 1), max(_up(shape[1], max(room[1], 1)), 1))


def zoomed(tiling: Tiling, shape: Size, room: Size, factor: float, row: int, column: int) -> Tiling:
    """`tiling` with `factor` times as many values a cell, from 1 up to what shows all, and a value in its middle.

    An axis that shows all of its values does not move.
    """
    fit = whole(shape, room)
    rows = min(max(math.ceil(tiling.rows_per_cell * factor), 1), fit.rows_per_cell)
    columns = min(max(math.ceil(tiling.columns_per_cell * factor), 1), fit.columns_per_cell)
    return _inside(Tiling(row - rows * room[0] // 2, column - columns * room[1] // 2, rows, columns), shape, room)


def panned(tiling: Tiling, shape: Size, room: Size, rows: int, columns: int) -> Tiling:
    """`tiling` moved by cells, as far as there are values."""
    row, column = tiling.row + rows * tiling.rows_per_cell, tiling.column + columns * tiling.columns_per_cell
    return _inside(replace(tiling, row=row, column=column), shape, room)


def showing(tiling: Tiling, shape: Size, room: Size, row: int, column: int) -> Tiling:
    """`tiling` moved as little as is needed to show a value."""
    cell = tiling.cell(row, column)
    down = min(cell[0], 0) + max(cell[0] - room[0] + 1, 0)
    right = min(cell[1], 0) + max(cell[1] - room[1] + 1, 0)
    return panned(tiling, shape, room, down, right)


def _inside(tiling: Tiling, shape: Size, room: Size) -> Tiling:
    """`tiling` without empty space that values could fill."""
    last_row = max(_up(shape[0], tiling.rows_per_cell) - room[0], 0) * tiling.rows_per_cell
    last_column = max(_up(shape[1], tiling.columns_per_cell) - room[1], 0) * tiling.columns_per_cell
    row, column = min(max(tiling.row, 0), last_row), min(max(tiling.column, 0), last_column)
    # A tiling begins at a whole cell.
    return replace(tiling, row=row - row % tiling.rows_per_cell, column=column - column % tiling.columns_per_cell)


def _up(value: int, divisor: int) -> int:
    return -(-value // divisor)


def reduced(
    read: Read, shape: Size, tiling: Tiling, room: Size, cancelled: Callable[[], bool] = lambda: False
) -> NDArray[np.float32]:
    """For each cell of `tiling` the value of largest magnitude, with its sign; NaN wins over Inf, Inf over numbers.

    Asks `read` for about `CHUNK` values at a time, and for those alone that are seen; what `cancelled` ends is
    incomplete.
    """
    rows, columns = tiling.cells(shape, room)
    tile = np.zeros((rows, columns), np.uint32)
    if not rows or not columns:
        return tile.view(np.float32)
    _, first = tiling.values(0, 0, shape)
    _, last = tiling.values(0, columns - 1, shape)
    across = slice(first.start, last.stop)
    starts = np.arange(0, across.stop - across.start, tiling.columns_per_cell)
    step = max(CHUNK // (across.stop - across.start), 1)
    for row in range(rows):
        down, _ = tiling.values(row, 0, shape)
        for top in range(down.start, down.stop, step):
            if cancelled():
                return tile.view(np.float32)
            bits = _bits(read(slice(top, min(top + step, down.stop)), across))
            tile[row] = _larger(tile[row], _largest_of_columns(bits, starts))
    return tile.view(np.float32)


def largest(read: Read, rows: slice, columns: slice) -> tuple[int, int, np.float32]:
    """Row, column and value of the number of largest magnitude in a part of an array: the one that its cell shows."""
    step = max(CHUNK // max(columns.stop - columns.start, 1), 1)
    best, at = -1, (rows.start, columns.start)
    value = np.float32(0)
    for top in range(rows.start, rows.stop, step):
        bits = _bits(read(slice(top, min(top + step, rows.stop)), columns))
        magnitudes = bits & ~_SIGN
        place = int(magnitudes.argmax())
        if int(magnitudes.reshape(-1)[place]) > best:
            best = int(magnitudes.reshape(-1)[place])
            down, right = divmod(place, bits.shape[1])
            at, value = (top + down, columns.start + right), bits[down, right].view(np.float32)
    return *at, value


def magnitudes(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Whole numbers in the order of the values' magnitudes, NaN above Inf."""
    return _bits(values) & ~_SIGN


def _bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    return np.asarray(values, np.float32).view(np.uint32)


def _largest_of_columns(bits: NDArray[np.uint32], starts: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The bits of largest magnitude of the groups of columns that begin at `starts`."""
    signed = bits.view(np.int32)
    if bits.shape[0] > 1:
        signed, bits = np.maximum.reduce(signed, axis=0), np.maximum.reduce(bits, axis=0)
    else:
        signed, bits = signed[0], bits[0]
    if starts.size < bits.size:
        signed, bits = np.maximum.reduceat(signed, starts), np.maximum.reduceat(bits, starts)
    # Without a positive number the largest int32 is a negative one's, and without a negative the largest uint32 is a
    # positive one's: the larger of the two is right in all four cases.
    return _larger(signed.view(np.uint32), bits)


def _larger(one: NDArray[np.uint32], other: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return np.where((other & ~_SIGN) > (one & ~_SIGN), other, one)


class ScaleKind(StrEnum):
    """How values become levels."""

    LINEAR = "linear"
    LOG = "log"
    SYMMETRIC = "symmetric"


@dataclass(frozen=True, slots=True)
class Scale:
    """Which values the levels stand for.

    Linear from `low` to `high`, the logarithm of the magnitude from `low` to `high`, or linear from −`high` to `high`.
    """

    kind: ScaleKind
    low: float
    high: float

    @property
    def colour_map(self) -> ColourMap:
        """The colours that go with it: two of them where the sign counts."""
        return ColourMap.DIVERGING if self.kind is ScaleKind.SYMMETRIC else ColourMap.CIVIDIS

    def ends(self) -> tuple[float, float]:
        """The values of the lowest and of the highest level."""
        return (-self.high, self.high) if self.kind is ScaleKind.SYMMETRIC else (self.low, self.high)

    def levels(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Levels 0 … 63 and marks of `values`, in their shape.

        Values beyond the ends of the scale are marked as clipped, exact zeros on a logarithmic scale as such.
        """
        low, high = self.ends()
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            wide = values.astype(np.float64)
            if self.kind is ScaleKind.LOG:
                wide, low, high = np.log(np.abs(wide)), math.log(low), math.log(high)
            share = (wide - low) / (high - low) if high > low else np.full(wide.shape, 0.5)
            levels = np.clip(share * LEVELS, 0, LEVELS - 1)
            # Less than a thousandth of a level: rounding at the ends is not clipping.
            below, above = wide < low - 1e-5 * abs(high - low), wide > high + 1e-5 * abs(high - low)
        levels = np.where(below, Mark.BELOW, np.where(above, Mark.ABOVE, levels))
        if self.kind is ScaleKind.LOG:
            levels = np.where(values == 0, Mark.ZERO, levels)
        levels = np.where(np.isinf(values), Mark.INF, levels)
        return np.where(np.isnan(values), Mark.NAN, levels).astype(np.uint8)


def scale_for(kind: ScaleKind, smallest: float, largest: float) -> Scale:
    """The scale that shows all numbers from `smallest` to `largest`; a scale around them where they are the same.

    Logarithms begin at 1e-6 of the largest magnitude.
    """
    magnitude = max(abs(smallest), abs(largest)) or 1.0
    if kind is ScaleKind.LINEAR and smallest < largest:
        return Scale(kind, smallest, largest)
    if kind is ScaleKind.LINEAR:
        return Scale(kind, smallest - magnitude, smallest + magnitude)
    return Scale(kind, magnitude * 10.0**-LOG_DECADES, magnitude)


def finite_range(values: NDArray[np.float32]) -> tuple[float, float]:
    """The smallest and the largest finite number of `values`; (0, 0) where there is none."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
