"""Channels of a matrix product that hold nothing but zeros, where the model has values as large as all others: memory
that was never written, or rows that a loop left out. No rounding makes them, and no stage before it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.align.pairing import StagePair
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.verdict import StageVerdict, Verdict
from aprtui.compare.wording import counted, ranges

_FEWEST = 8
"""Channels side by side, by values that are zero by chance in none of them."""
_TYPICAL = 0.1
"""Share of the size of all values, at least, that the model has there."""
_OTHERS = 0.99
"""Share of the other values, at least, that are not zero: in a coarse type many may be."""


def left_zero(pair: StagePair) -> StageVerdict | None:
    """FAIL for a product `[tokens, channels]` of which a run of channels was left zero at all tokens."""
    if pair.b.ndim != 2 or not pair.b.size:
        return None
    zero: NDArray[np.bool_] = np.logical_not(pair.b.any(0))
    found = max(_runs(zero), key=len, default=range(0))
    others = np.delete(pair.b, found, axis=1)
    if len(found) < _FEWEST or not others.size or np.count_nonzero(others) < _OTHERS * others.size:
        return None
    own = np.square(pair.a.astype(np.float64))
    there = own[:, found].mean()
    if not (there > 0 and there >= _TYPICAL**2 * own.mean()):
        return None
    reason = (
        f"channels {ranges(found)} are 0 at {counted(len(pair.b), 'token')}: no rounding makes them so, no stage before"
    )
    return StageVerdict(pair.node, Verdict.FAIL, Metric.PLACE, float(len(found)), 0.0, 0.0, reason)


def _runs(zero: NDArray[np.bool_]) -> list[range]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], zero.astype(np.int8), [0]])))
    return [range(first, end) for first, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)]
