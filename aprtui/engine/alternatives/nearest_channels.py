"""Which channels of a result stand where, if they are those of another one in another order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Wide = NDArray[np.float64]

_NEAR = 1e-3


def nearest_channels(own: Wide, found: Wide) -> NDArray[np.intp] | None:
    """For each channel of `found` `[tokens, channels]` the nearest one of `own`, by sums of all tokens with weights at
    random; None where some has none."""
    weights = np.random.default_rng(0).standard_normal((2, len(own)))
    with np.errstate(invalid="ignore"):
        expected, seen = weights @ own, weights @ found
    if not np.isfinite(seen).all() or not np.isfinite(expected).all():
        return None
    by_value = np.argsort(expected[0])
    at = np.searchsorted(expected[0][by_value], seen[0])
    candidates = np.stack([by_value[np.clip(at + step, 0, len(by_value) - 1)] for step in (-2, -1, 0, 1)])
    errors = np.abs(expected[:, candidates] - seen[:, None]).sum(0)
    size = np.abs(expected).mean() or 1.0
    if not (errors.min(0) < _NEAR * size).all():
        return None
    return np.asarray(candidates[errors.argmin(0), np.arange(seen.shape[1])])
