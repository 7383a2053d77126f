"""Numbers on a pair of stage tensors, side A being the reference.

With d = b − a over the elements that are finite on both sides, all sums in float64:

| metric | definition | both sides zero | only A zero |
|---|---|---|---|
| max_abs | max of abs(d), and the first index that has it | 0 | max of abs(b) |
| mean_abs | mean of abs(d) | 0 | mean of abs(b) |
| rms | root of the mean of d² | 0 | rms of b |
| rel_l2 | norm of d over norm of a | 0 | inf |
| cosine | a·b over the product of the norms | 1 | 0 |

Elements that are NaN, +Inf or −Inf alike on both sides are left out and counted; elements where the sides differ in
kind are mismatches, a categorical result that no metric shows. Where nothing is left (an empty tensor, NaN everywhere)
every metric is None. −0.0 equals 0.0 in all metrics, but not in `equal_bits`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.blocks import Positions, Values, blocks


class Metric(StrEnum):
    """Names of the metrics that a verdict can rest on."""

    MAX_ABS = "max_abs"
    MEAN_ABS = "mean_abs"
    RMS = "rms"
    REL_L2 = "rel_l2"
    COSINE = "cosine"
    NON_FINITE = "non_finite"

    @property
    def is_similarity(self) -> bool:
        """Whether higher is better, so that a bound is a least value."""
        return self is Metric.COSINE


@dataclass(frozen=True, slots=True)
class PairMetrics:
    """All metrics of one pair. Indices are flat, row-major, into the compared shape.

    `count` is all elements looked at, `compared` those finite on both sides; `equal_bits` is a share of `count`.
    `nan_both` and `inf_both` are NaN, or Inf of one sign, at the same place on both sides.
    """

    count: int
    compared: int
    max_abs: float | None
    max_abs_index: int | None
    mean_abs: float | None
    rms: float | None
    rel_l2: float | None
    cosine: float | None
    equal_bits: float | None
    nan_a: int
    nan_b: int
    inf_a: int
    inf_b: int
    nan_both: int
    inf_both: int
    mismatches: int
    first_mismatch: int | None

    @property
    def equal(self) -> bool:
        """Whether something was compared and no value differs (−0.0 equals 0.0)."""
        return self.compared > 0 and self.mismatches == 0 and self.max_abs == 0

    @property
    def excluded(self) -> int:
        """Elements that are NaN or Inf alike on both sides: in no metric."""
        return self.nan_both + self.inf_both

    def value(self, metric: Metric) -> float | None:
        """The number that `metric` has on this pair; None where nothing was compared."""
        if metric is Metric.NON_FINITE:
            return float(self.mismatches)
        number: float | None = getattr(self, metric.value)
        return number


def compare_values(a: Values, b: Values, *, causal: bool = False) -> PairMetrics:
    """Metrics of `b` against the reference `a`, of one shape; `causal` for `[heads, T, T]` maps, key ≤ query.

    Reads both in blocks, so memory-mapped tensors of any size take about 1 MB of memory.
    """
    assert a.shape == b.shape, f"shapes {a.shape} and {b.shape} must be aligned before they are compared"
    sums = _Sums()
    for (block_a, positions), (block_b, _) in zip(blocks(a, causal), blocks(b, causal), strict=True):
        sums.add(np.ascontiguousarray(block_a), np.ascontiguousarray(block_b), positions)
    return sums.finish()


@dataclass(slots=True)
class _Sums:
    count: int = 0
    compared: int = 0
    equal_bits: int = 0
    max_abs: float = -1.0
    max_abs_index: int | None = None
    total_abs: float = 0.0
    squares_d: float = 0.0
    squares_a: float = 0.0
    squares_b: float = 0.0
    dot: float = 0.0
    nan_a: int = 0
    nan_b: int = 0
    inf_a: int = 0
    inf_b: int = 0
    nan_both: int = 0
    inf_both: int = 0
    mismatches: int = 0
    first_mismatch: int | None = None
    scratch: NDArray[np.float64] = field(default_factory=lambda: np.empty((3, 0)))

    def add(self, a: Values, b: Values, positions: Positions) -> None:
        self.count += a.size
        self.equal_bits += int(np.count_nonzero(a.view(np.uint32) == b.view(np.uint32)))
        finite = np.isfinite(a) & np.isfinite(b)
        if finite.all():
            self._add_finite(a, b, None, positions)
            return
        self._add_non_finite(a, b, positions)
        kept = np.flatnonzero(finite)
        if kept.size:
            self._add_finite(a[kept], b[kept], kept, positions)

    def _add_non_finite(self, a: Values, b: Values, positions: Positions) -> None:
        kind_a, kind_b = _kinds(a), _kinds(b)
        self.nan_a += int(np.count_nonzero(kind_a == 1))
        self.nan_b += int(np.count_nonzero(kind_b == 1))
        self.inf_a += int(np.count_nonzero(kind_a > 1))
        self.inf_b += int(np.count_nonzero(kind_b > 1))
        alike = kind_a[kind_a == kind_b]
        self.nan_both += int(np.count_nonzero(alike == 1))
        self.inf_both += int(np.count_nonzero(alike > 1))
        differing = np.flatnonzero(kind_a != kind_b)
        self.mismatches += differing.size
        if differing.size and self.first_mismatch is None:
            self.first_mismatch = int(positions[int(differing[0])])

    def _add_finite(self, a: Values, b: Values, kept: NDArray[np.intp] | None, positions: Positions) -> None:
        """Add finite values; `kept` are their indices in the block, None for all of it."""
        wide_a, wide_b, d = self._scratch(a.size)
        np.copyto(wide_a, a)
        np.copyto(wide_b, b)
        np.subtract(wide_b, wide_a, out=d)
        self.squares_d += _dot(d, d)
        self.squares_a += _dot(wide_a, wide_a)
        self.squares_b += _dot(wide_b, wide_b)
        self.dot += _dot(wide_a, wide_b)
        absolute = np.abs(d, out=d)
        self.total_abs += float(absolute.sum())
        self.compared += a.size
        largest = int(absolute.argmax())
        if absolute[largest] > self.max_abs:
            self.max_abs = float(absolute[largest])
            self.max_abs_index = int(positions[largest if kept is None else int(kept[largest])])

    def _scratch(self, size: int) -> NDArray[np.float64]:
        # Kept from block to block: fresh memory for each costs more in page faults than all the arithmetic.
        if self.scratch.shape[1] < size:
            self.scratch = np.empty((3, size))
        return self.scratch[:, :size]

    def finish(self) -> PairMetrics:
        n = self.compared
        share = self.equal_bits / self.count if self.count else None
        return PairMetrics(
            count=self.count,
            compared=n,
            max_abs=self.max_abs if n else None,
            max_abs_index=self.max_abs_index,
            mean_abs=self.total_abs / n if n else None,
            rms=math.sqrt(self.squares_d / n) if n else None,
            rel_l2=_relative(self.squares_d, self.squares_a) if n else None,
            cosine=_cosine(self.dot, self.squares_a, self.squares_b) if n else None,
            equal_bits=share,
            nan_a=self.nan_a,
            nan_b=self.nan_b,
            inf_a=self.inf_a,
            inf_b=self.inf_b,
            nan_both=self.nan_both,
            inf_both=self.inf_both,
            mismatches=self.mismatches,
            first_mismatch=self.first_mismatch,
        )


def _dot(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    # Not `@`: BLAS splits blocks of this size over threads, which costs more than it saves (36 against 0.4 ns a value
    # on busy cores) and gives other bits on other machines.
    return float(np.einsum("i,i->", a, b))


def _kinds(values: Values) -> NDArray[np.int8]:
    """0 for finite values, 1 for NaN, 2 for +Inf, 3 for −Inf."""
    kinds = np.zeros(values.shape, np.int8)
    kinds[np.isnan(values)] = 1
    kinds[np.isposinf(values)] = 2
    kinds[np.isneginf(values)] = 3
    return kinds


def _relative(squares_d: float, squares_a: float) -> float:
    if squares_d == 0:
        return 0.0
    return math.sqrt(squares_d / squares_a) if squares_a else math.inf


def _cosine(dot: float, squares_a: float, squares_b: float) -> float:
    if squares_a == 0 and squares_b == 0:
        return 1.0
    if squares_a == 0 or squares_b == 0:
        return 0.0
    # One root of the product is exact for equal sides; the product of float32 squares cannot leave float64's range.
    return max(-1.0, min(1.0, dot / math.sqrt(squares_a * squares_b)))
