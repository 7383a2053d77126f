"""A tensor as a whole: a histogram, the rms of each row and of each column, outlier columns.

One pass in bounded memory: values are counted by the upper half of their bits (sign, exponent, seven bits of mantissa),
from which a histogram of any range and any scale is made afterwards, to within one part in 128.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.trace.stage_reader import BLOCK_VALUES
from aprtui.trace.stats import Accumulator, StageStats, accumulate, causal_mask

Read = Callable[[slice, slice], NDArray[np.float32]]
"""Gives the values of some rows and columns."""

_HALF_WORDS = 1 << 16
_INFINITE, _NEGATIVE = 0x7F80, 0x8000
"""Upper halves of +Inf, above which come NaN, and of −0.0."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A tensor `[rows, columns]` as a whole. Rows and columns without a finite value have an rms of NaN.

    `counts` is `[65536]`: finite values by the upper half of their bits.
    """

    stats: StageStats
    counts: NDArray[np.int64]
    row_rms: NDArray[np.float64]
    column_rms: NDArray[np.float64]

    def magnitude_below(self, share: float) -> float:
        """The magnitude that a `share` of the finite values does not exceed; 0 where there is none."""
        counts = self.counts[:_INFINITE] + self.counts[_NEGATIVE : _NEGATIVE + _INFINITE]
        total = np.cumsum(counts)
        if not total[-1]:
            return 0.0
        place = int(np.searchsorted(total, share * total[-1]))
        # A bin ends where the next one begins; the last magnitude is known exactly.
        return min(float(np.uint32((place + 1) << 16).view(np.float32)), self.stats.absmax or 0.0)

    def histogram(self, low: float, high: float, bins: int, *, log: bool = False) -> NDArray[np.int64]:
        """Finite values in `bins` of equal width from `low` to `high`; `log` bins magnitudes by their logarithm.

        Values beyond the ends are in none of them, exact zeros in none that is logarithmic.
        """
        bits = np.flatnonzero(self.counts).astype(np.uint32)
        counts = self.counts[bits]
        values = ((bits << 16) + np.uint32(_HALF_WORDS // 2)).view(np.float32).astype(np.float64)
        # Half-words 0 and 0x8000 hold ±0 and the smallest denormals.
        values[(bits == 0) | (bits == _NEGATIVE)] = 0.0
        if log:
            counts, values = counts[values != 0], np.log(np.abs(values[values != 0]))
            low, high = math.log(low), math.log(high)
        if not high > low:
            return np.zeros(bins, np.int64)
        # The middle of a bin may lie just beyond the largest value, which is in it.
        slack = (high - low) * 0.01
        inside = (values >= low - slack) & (values <= high + slack)
        places = np.clip(((values[inside] - low) / (high - low) * bins).astype(np.int64), 0, bins - 1)
        return np.bincount(places, counts[inside], bins).astype(np.int64)

    def outliers(self, limit: int) -> list[tuple[int, float, float]]:
        """Columns with the largest rms, largest first: index, rms, and how many times the median rms that is."""
        rms = self.column_rms
        known = np.flatnonzero(rms > 0)
        if not known.size:
            return []
        median = float(np.median(rms[known]))
        order = known[np.argsort(-rms[known], kind="stable")][:limit]
        return [(int(column), float(rms[column]), float(rms[column]) / median) for column in order]


def profile(
    read: Read, shape: tuple[int, int], causal: bool = False, cancelled: Callable[[], bool] = lambda: False
) -> Profile:
    """Look at all values of a tensor `[rows, columns]`; `causal` counts column ≤ row.

    Where `cancelled` ends the pass, the profile covers a part of it.
    """
    rows, columns = shape
    total, counts = Accumulator(), np.zeros(_HALF_WORDS, np.int64)
    row_sums, column_sums = np.zeros(rows), np.zeros(columns)
    row_counts, column_counts = np.zeros(rows, np.int64), np.zeros(columns, np.int64)
    step = max(BLOCK_VALUES // max(columns, 1), 1)
    for first in range(0, rows, step):
        if cancelled():
            break
        part = slice(first, min(first + step, rows))
        block = read(part, slice(0, columns))
        counted = causal_mask(first, *block.shape) if causal else None
        total.merge(accumulate(block if counted is None else block[counted]))
        usable = _usable(block, counted)
        bits = (block if usable is None else block[usable]).view(np.uint32).reshape(-1)
        counts += np.bincount(bits >> 16, minlength=_HALF_WORDS)
        wide = (block if usable is None else np.where(usable, block, 0)).astype(np.float64)
        row_sums[part] = np.einsum("ij,ij->i", wide, wide)
        column_sums += np.einsum("ij,ij->j", wide, wide)
        row_counts[part] = columns if usable is None else usable.sum(axis=1)
        column_counts += block.shape[0] if usable is None else usable.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Profile(total.finish(), counts, np.sqrt(row_sums / row_counts), np.sqrt(column_sums / column_counts))


def _usable(block: NDArray[np.float32], counted: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """Which values are finite and count; None where all of them do."""
    finite = np.isfinite(block)
    if counted is not None:
        return finite & counted
    return None if finite.all() else finite
