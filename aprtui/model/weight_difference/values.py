"""Numbers on the values of two tensors of one shape, A being the reference, in row ranges of bounded memory.

The metrics are those of `aprtui.compare.metrics.measure` (definitions, zero, NaN and Inf as there), with all sums in
float64. An error is judged in units of what rounding to the two storage types typically costs, which is read from the
stored scales.

A value that is rounded to a grid of step s errs uniformly within ±s/2, so by s/√12 in rms (Bennett 1948). The step of a
quantised value is its sub-block's scale; K types round the scales and minimums of sub-blocks as well, which errs by
their own unit times the quant. A float16 value errs within 2⁻¹¹ of itself, bfloat16 within 2⁻⁸.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.metrics.measure import Metric, cosine_of_sums
from aprtui.model.weight_types import BlockPart, ScalePacking, WeightFormat, format_named
from aprtui.model.weights import StoredTensor

F64 = NDArray[np.float64]

GROUP = 32
"""Values that are judged together: the sub-block of Q4_K and Q5_K, the block of Q8_0, two sub-blocks of Q6_K."""

_RANK = 23
"""Of the 32 errors of a group in ascending order, the one it is judged by: its upper quartile."""


@dataclass(frozen=True, slots=True)
class WeightRange:
    """`length` values of one row, from `column` on."""

    row: int
    column: int
    length: int = 1

    def __str__(self) -> str:
        if self.length == 1:
            return f"row {self.row}, column {self.column}"
        return f"row {self.row}, columns {self.column}–{self.column + self.length - 1}"


@dataclass(frozen=True, slots=True)
class WeightMetrics:
    """The numbers of one pair; a metric is None where no value is finite on both sides.

    `equal_values` is the share of values that are equal; `norm_ratio` is the norm of B over that of A.
    `expected_rel_l2` is what rounding to the two types typically costs, None for types without a row.
    `step_ratio` is the worst group of 32 values in units of that rounding error (its upper quartile, because an
    importance matrix makes quantisers clip single values by any amount; for two float types the worst value),
    `step_place` where it is. `mismatches` counts values that are NaN or Inf and not alike on the other side.
    """

    count: int
    compared: int
    max_abs: float | None
    max_abs_place: WeightRange | None
    mean_abs: float | None
    rms: float | None
    rel_l2: float | None
    cosine: float | None
    equal_values: float
    norm_ratio: float | None
    expected_rel_l2: float | None
    step_ratio: float | None
    step_place: WeightRange | None
    mismatches: int

    def value(self, metric: Metric) -> float | None:
        if metric is Metric.NON_FINITE:
            return float(self.mismatches)
        number: float | None = getattr(self, metric.value)
        return number


def weight_metrics(a: StoredTensor, b: StoredTensor, advance: Callable[[int], None]) -> WeightMetrics:
    """Metrics of `b` against `a`, of one shape; `advance` takes the bytes of A that were compared since its last call.

    Raises `NotImplementedError` for a type that `gguf` cannot dequantise.
    """
    sums = _Sums(a.columns, both_float=_is_float(a.type) and _is_float(b.type))
    for rows in a.row_ranges():
        values_a = a.values(rows)
        expected_a = _expected_squares(a, rows, values_a)
        # Dequantising is two thirds of the time, and where one block is wrong nearly all others are equal.
        if a.has_layout_of(b) and np.array_equal(a.data[rows], b.data[rows]):
            values_b, expected_b = values_a, expected_a
        else:
            values_b = b.values(rows)
            expected_b = _expected_squares(b, rows, values_b)
        expected = None if expected_a is None or expected_b is None else expected_a + expected_b
        sums.add(values_a, values_b, expected, rows.start)
        advance((rows.stop - rows.start) * a.data.shape[1])
    return sums.finish()


@dataclass(slots=True)
class _Sums:
    columns: int
    both_float: bool
    count: int = 0
    compared: int = 0
    equal: int = 0
    mismatches: int = 0
    max_abs: float = -1.0
    max_abs_place: WeightRange | None = None
    total_abs: float = 0.0
    squares: F64 = field(default_factory=lambda: np.zeros(3))
    dot: float = 0.0
    expected: float | None = 0.0
    step_ratio: float = -1.0
    step_place: WeightRange | None = None

    def add(self, a: NDArray[np.float32], b: NDArray[np.float32], expected: F64 | None, first_row: int) -> None:
        self.count += a.size
        self.equal += int(np.count_nonzero(a == b))
        finite = np.isfinite(a) & np.isfinite(b)
        if not finite.all():
            alike = (a == b) | (np.isnan(a) & np.isnan(b))
            self.mismatches += int(np.count_nonzero(~finite & ~alike))
            a, b = np.where(finite, a, np.float32(0)), np.where(finite, b, np.float32(0))
        self.compared += int(np.count_nonzero(finite))
        wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
        error = wide_b - wide_a
        self.squares += [_sum_of_products(x, x) for x in (error, wide_a, wide_b)]
        self.dot += _sum_of_products(wide_a, wide_b)
        np.abs(error, out=error)
        self.total_abs += float(error.sum())
        largest = int(error.argmax())
        if error.flat[largest] > self.max_abs:
            self.max_abs = float(error.flat[largest])
            self.max_abs_place = self._place(largest, first_row)
        if expected is None:
            self.expected = None
        elif self.expected is not None:
            self.expected += float(expected.sum())
            self._add_steps(error, expected, first_row)

    def _add_steps(self, error: F64, expected: F64, first_row: int) -> None:
        """Errors in units of the rounding error; an error where none is expected is infinitely many."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = error / np.sqrt(expected, out=expected)
        ratios[error == 0] = 0
        if self.both_float:
            worst, length = int(ratios.argmax()), 1
            ratio = float(ratios.flat[worst])
        else:
            # Rows of quantised types are whole blocks, so whole groups.
            judged = np.partition(ratios.reshape(-1, GROUP), _RANK, axis=1)[:, _RANK]
            group = int(judged.argmax())
            worst, length, ratio = group * GROUP, GROUP, float(judged[group])
        if ratio > self.step_ratio:
            self.step_ratio = ratio
            self.step_place = self._place(worst, first_row, length)

    def _place(self, index: int, first_row: int, length: int = 1) -> WeightRange:
        row, column = divmod(index, self.columns)
        return WeightRange(first_row + row, column, length)

    def finish(self) -> WeightMetrics:
        n = self.compared
        squares_d, squares_a, squares_b = (float(x) for x in self.squares)
        known = n > 0 and self.expected is not None
        return WeightMetrics(
            count=self.count,
            compared=n,
            max_abs=self.max_abs if n else None,
            max_abs_place=self.max_abs_place if n else None,
            mean_abs=self.total_abs / n if n else None,
            rms=math.sqrt(squares_d / n) if n else None,
            rel_l2=_root_of_ratio(squares_d, squares_a) if n else None,
            cosine=cosine_of_sums(self.dot, squares_a, squares_b) if n else None,
            equal_values=self.equal / self.count,
            norm_ratio=math.sqrt(squares_b / squares_a) if squares_a else None,
            expected_rel_l2=_root_of_ratio(self.expected or 0.0, squares_a) if known else None,
            step_ratio=self.step_ratio if known else None,
            step_place=self.step_place if known else None,
            mismatches=self.mismatches,
        )


def _sum_of_products(a: F64, b: F64) -> float:
    # Not a BLAS product: it would start threads, and give other bits on other machines.
    return float(np.einsum("ij,ij->", a, b))


def _root_of_ratio(squares: float, reference: float) -> float:
    if squares == 0:
        return 0.0
    return math.sqrt(squares / reference) if reference else math.inf


def _is_float(kind: str) -> bool:
    """Whether a type rounds each value for itself, so that no value can err by more than its own step."""
    row = format_named(kind)
    return row is not None and not row.is_quantised


def _expected_squares(tensor: StoredTensor, rows: slice, values: NDArray[np.float32]) -> F64 | None:
    """The mean square of the rounding error of each value, `[rows, columns]`; None for types without a row, for those
    whose levels are no even grid, and for less than four bits, with which quantisers clip as they like.

    `values` are the values of `rows`.
    """
    row = format_named(tensor.type)
    if row is None:
        return None
    if row.float_step is not None:
        relative, least = row.float_step
        # An Inf that is stored has no error that could be expected.
        finite = np.where(np.isfinite(values), values, 0).astype(np.float64)
        return np.square(np.maximum(np.abs(finite, out=finite) * relative, least)) / 12
    if row.codebook or row.levels[1] - row.levels[0] < 15:
        return None
    squares = _block_squares(row, tensor.blocks(rows))
    return np.repeat(squares.reshape(squares.shape[0], -1), row.sub_block, axis=1)


def _block_squares(row: WeightFormat, blocks: NDArray[np.uint8]) -> F64:
    """Mean squares of each sub-block, `[rows, blocks, sub-blocks]`."""
    parts = row.parts
    unit = _halves(blocks[..., parts[BlockPart.SCALE]])
    if row.scale_packing is None:
        return np.square(unit) / 12
    scales = _SCALES[row.scale_packing](blocks[..., parts[BlockPart.SUB_BLOCK_SCALES]]).astype(np.float64)
    # A rounded scale is multiplied with quants, whose root mean square is this where they are uniform.
    quants = max(abs(level - row.offset) for level in row.levels) / 3**0.5
    squares = np.square(unit) * (np.square(scales) + quants**2)
    if BlockPart.MINIMUM in parts:
        squares += np.square(_halves(blocks[..., parts[BlockPart.MINIMUM]]))
    return np.asarray(squares / 12, np.float64)


def _halves(part: NDArray[np.uint8]) -> F64:
    """The float16 of each block, `[rows, blocks, 1]`; one that is not finite expects no error."""
    values = np.ascontiguousarray(part).view(np.float16).astype(np.float64)
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def _six_bit_scales(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The eight six-bit scales in the twelve bytes that also hold the minimums (`get_scale_min_k4` of ggml)."""
    low = packed[..., 0:4] & 63
    high = (packed[..., 8:12] & 15) | (packed[..., 0:4] >> 6 << 4)
    return np.concatenate((low, high), axis=-1)


_SCALES: Mapping[ScalePacking, Callable[[NDArray[np.uint8]], NDArray[np.uint8] | NDArray[np.int8]]] = MappingProxyType(
    {
        ScalePacking.SIX_BITS: _six_bit_scales,
        ScalePacking.SIGNED_BYTES: lambda packed: packed.view(np.int8),
    }
)
