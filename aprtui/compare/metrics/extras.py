"""Slower metrics of a pair, on request: how many float32 steps the sides are apart, and how alike two errors are.

Both walk in blocks, so memory stays bounded. They are written in numpy and timed apart from the default metrics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.metrics.blocks import Values, blocks

ULP_BINS = 33
ERROR_BINS = 50


@dataclass(frozen=True, slots=True)
class UlpHistogram:
    """Distances in units in the last place: how many float32 numbers lie from a to b, one end included.

    `counts[0]` are elements of distance 0 (−0.0 and 0.0 too), `counts[k]` those of 2^(k−1) … 2^k − 1. `excluded` are
    elements that are NaN on either side or Inf on either; they are in no bin. `largest` is None where all are.
    """

    counts: tuple[int, ...]
    excluded: int
    largest: int | None


def ulp_histogram(a: Values, b: Values, *, causal: bool = False) -> UlpHistogram:
    """Histogram of the ULP distances of a pair of one shape; `causal` for maps `[heads, query, key]`, key ≤ query.

    Numbers of different sign are as far apart as the steps over zero, so the least denormals of either sign are 2
    apart. An empty pair has no counts.
    """
    assert a.shape == b.shape, f"shapes {a.shape} and {b.shape} must be aligned before they are compared"
    counts = np.zeros(ULP_BINS + 1, np.int64)
    excluded, largest = 0, -1
    for (part_a, _), (part_b, _) in zip(blocks(a, causal), blocks(b, causal), strict=True):
        finite = np.isfinite(part_a) & np.isfinite(part_b)
        distance = np.abs(_ordinal(part_b[finite]) - _ordinal(part_a[finite]))
        excluded += finite.size - distance.size
        if distance.size:
            # The exponent of a whole number below 2^53 is exact: 0 for 0, k for 2^(k−1) … 2^k − 1.
            counts += np.bincount(np.frexp(distance.astype(np.float64))[1], minlength=ULP_BINS + 1)
            largest = max(largest, int(distance.max()))
    return UlpHistogram(tuple(counts.tolist()), excluded, None if largest < 0 else largest)


def _ordinal(values: Values) -> NDArray[np.int64]:
    """Whole numbers in the order of the floats, 0 for both zeros, neighbours one apart."""
    bits = np.ascontiguousarray(values).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


@dataclass(frozen=True, slots=True)
class ErrorOverlap:
    """How alike two error distributions are; None where either has no finite error.

    `bhattacharyya` is Σ √(p·q) over common bins, 1 for equal shares and 0 for errors that share no bin. `excluded_a`
    and `excluded_b` are errors that are NaN or Inf, in no bin.
    """

    bhattacharyya: float | None
    excluded_a: int
    excluded_b: int


def error_overlap(errors_a: Values, errors_b: Values, bins: int = ERROR_BINS) -> ErrorOverlap:
    """The Bhattacharyya coefficient of two error tensors (each b − a of some pair), of any sizes.

    Each is counted in `bins` bins of one width, from the least to the largest finite error of both together; where all
    errors are one number, all lie in one bin and the coefficient is 1. Two passes over each tensor.
    Source: A. Bhattacharyya, "On a measure of divergence between two statistical populations", 1943.
    """
    low, high = math.inf, -math.inf
    for part in (part for errors in (errors_a, errors_b) for part, _ in blocks(errors, False)):
        finite = part[np.isfinite(part)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    counts_a, excluded_a = _counts(errors_a, low, high, bins)
    counts_b, excluded_b = _counts(errors_b, low, high, bins)
    return ErrorOverlap(bhattacharyya(counts_a, counts_b), excluded_a, excluded_b)


def bhattacharyya(counts_a: NDArray[np.int64], counts_b: NDArray[np.int64]) -> float | None:
    """The coefficient of two histograms of common bins; None where either is empty."""
    assert counts_a.shape == counts_b.shape, "histograms of common bins"
    total_a, total_b = int(counts_a.sum()), int(counts_b.sum())
    if not total_a or not total_b:
        return None
    shared = np.sqrt(counts_a.astype(np.float64) * counts_b.astype(np.float64)).sum()
    return min(1.0, float(shared) / math.sqrt(total_a * total_b))


def _counts(errors: Values, low: float, high: float, bins: int) -> tuple[NDArray[np.int64], int]:
    counts = np.zeros(bins, np.int64)
    excluded = 0
    for part, _ in blocks(errors, False):
        finite = part[np.isfinite(part)].astype(np.float64)
        excluded += part.size - finite.size
        scale = bins / (high - low) if high > low else 0.0
        place = np.minimum(((finite - low) * scale).astype(np.int64), bins - 1)
        counts += np.bincount(place, minlength=bins)
    return counts, excluded
