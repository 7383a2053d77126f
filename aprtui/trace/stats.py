"""Statistics of stage tensors: count, NaN, Inf, min, max, absmax, mean, rms. They merge, so tensors can be streamed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class StageStats:
    """Statistics over the finite values of a stage tensor; None where there is no finite value.

    `count` counts all values, NaN and Inf included; for attention maps those with key ≤ query.
    """

    count: int
    nan: int
    inf: int
    min: float | None
    max: float | None
    absmax: float | None
    mean: float | None
    rms: float | None


SUMS = np.dtype(
    [(name, np.int64) for name in ("count", "nan", "inf")]
    + [(name, np.float64) for name in ("min", "max", "total", "squares")]
)
"""The fields of an `Accumulator`, in its order: a row of a table of many."""


@dataclass(slots=True)
class Accumulator:
    """Sums that statistics are made from; `merge` joins those of two pieces of one tensor."""

    count: int = 0
    nan: int = 0
    inf: int = 0
    min: float = math.inf
    max: float = -math.inf
    total: float = 0.0
    squares: float = 0.0

    def merge(self, other: Accumulator) -> None:
        self.count += other.count
        self.nan += other.nan
        self.inf += other.inf
        self.min = min(self.min, other.min)
        self.max = max(self.max, other.max)
        self.total += other.total
        self.squares += other.squares

    def finish(self) -> StageStats:
        finite = self.count - self.nan - self.inf
        if finite <= 0:
            return StageStats(self.count, self.nan, self.inf, None, None, None, None, None)
        absmax = max(abs(self.min), abs(self.max))
        mean, rms = self.total / finite, math.sqrt(self.squares / finite)
        return StageStats(self.count, self.nan, self.inf, self.min, self.max, absmax, mean, rms)


def accumulate(values: NDArray[np.float32]) -> Accumulator:
    """Sums over `values` of any shape, in float64; `min` and `max` are +inf and -inf where no value is finite."""
    flat = values.reshape(-1)
    nan = int(np.count_nonzero(np.isnan(flat)))
    inf = int(np.count_nonzero(np.isinf(flat)))
    finite = flat[np.isfinite(flat)] if nan or inf else flat
    if not finite.size:
        return Accumulator(flat.size, nan, inf)
    wide = finite.astype(np.float64)
    squares = float(np.einsum("i,i->", wide, wide))  # a BLAS dot would depend on its threads
    return Accumulator(flat.size, nan, inf, float(finite.min()), float(finite.max()), float(wide.sum()), squares)


def causal(maps: NDArray[np.float32], position: int = 0) -> NDArray[np.float32]:
    """The values with key ≤ query of `maps` `[heads, n, keys]` whose first query stands at `position`; 1-D."""
    return np.asarray(maps[:, causal_mask(position, *maps.shape[1:])].reshape(-1), np.float32)


def causal_mask(first: int, queries: int, keys: int) -> NDArray[np.bool_]:
    """Where key ≤ query, `[queries, keys]`, for queries from `first` on."""
    return np.arange(keys)[None, :] <= np.arange(first, first + queries)[:, None]
