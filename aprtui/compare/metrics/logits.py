"""What differs in what a model says next (logits), and in which experts it asks (router indices).

For each row of logits `[rows, vocabulary]`, with p and q the softmax of A's and B's row, in float64:

| metric | definition |
|---|---|
| kl_ab, kl_ba | Σ p·ln(p/q) and Σ q·ln(q/p), in nats; never below 0 |
| delta_p | q − p of the token that A puts first |
| flip | B puts another token first than A; of equal logits the lowest id is first |
| overlap | share of A's first k tokens that are among B's first k; ties at the k-th place go to the lowest ids |
| margin | A's first logit less its second |

−Inf is a logit as any other: a token ruled out, with p = 0. Where only B rules out a token that A allows, kl_ab is inf.
A row that holds NaN or +Inf on either side, or −Inf alone, has no softmax: it is counted in `skipped` and is in nothing
else. Where no row is left every number is None. Equal rows give 0, 0, 0, no flip, 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.metrics.blocks import Values

TOP = 10
"""Tokens whose overlap is measured."""


@dataclass(frozen=True, slots=True)
class Flip:
    """A row in which the sides put different tokens first; `margin_a` is by how much A's was ahead, in logits."""

    row: int
    token_a: int
    token_b: int
    margin_a: float


@dataclass(frozen=True, slots=True)
class LogitMetrics:
    """Metrics over the rows of a pair of logits: means, worst rows, and the rows in which the first token flips.

    `kl_ab_mean` and the like are over `rows` − `skipped`; `delta_p_largest` is the one farthest from 0, signed;
    `overlap_mean` is of the first min(`TOP`, vocabulary) tokens; `margin_smallest` is A's smallest lead of all rows.
    """

    rows: int
    skipped: int
    kl_ab_mean: float | None
    kl_ab_largest: float | None
    kl_ba_mean: float | None
    kl_ba_largest: float | None
    delta_p_mean: float | None
    delta_p_largest: float | None
    top1_equal: float | None
    overlap_mean: float | None
    overlap_smallest: float | None
    margin_smallest: float | None
    flips: tuple[Flip, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    kl_ab: float
    kl_ba: float
    delta_p: float
    overlap: float
    margin: float
    first: tuple[int, int]


def measure_logits(a: Values, b: Values) -> LogitMetrics:
    """Metrics of logits `b` against the reference `a`, both `[rows, vocabulary]`; one row at a time is in memory."""
    assert a.shape == b.shape and a.ndim == 2, f"logits of one shape [rows, vocabulary], not {a.shape} and {b.shape}"
    measured = [(row, _measure_row(a[row], b[row])) for row in range(a.shape[0])]
    found = [(row, numbers) for row, numbers in measured if numbers is not None]
    flips = tuple(
        Flip(row, *numbers.first, numbers.margin) for row, numbers in found if numbers.first[0] != numbers.first[1]
    )
    kl_ab = [numbers.kl_ab for _, numbers in found]
    kl_ba = [numbers.kl_ba for _, numbers in found]
    delta_p = [numbers.delta_p for _, numbers in found]
    overlap = [numbers.overlap for _, numbers in found]
    return LogitMetrics(
        rows=a.shape[0],
        skipped=a.shape[0] - len(found),
        kl_ab_mean=_mean(kl_ab),
        kl_ab_largest=max(kl_ab, default=None),
        kl_ba_mean=_mean(kl_ba),
        kl_ba_largest=max(kl_ba, default=None),
        delta_p_mean=_mean(delta_p),
        delta_p_largest=max(delta_p, key=abs, default=None),
        top1_equal=1 - len(flips) / len(found) if found else None,
        overlap_mean=_mean(overlap),
        overlap_smallest=min(overlap, default=None),
        margin_smallest=min((numbers.margin for _, numbers in found), default=None),
        flips=flips,
    )


def _measure_row(a: Values, b: Values) -> _Row | None:
    """Numbers of one row; None where either side has no softmax."""
    log_p, log_q = _log_softmax(a), _log_softmax(b)
    if log_p is None or log_q is None:
        return None
    p, q = np.exp(log_p), np.exp(log_q)
    first = int(a.argmax()), int(b.argmax())
    k = min(TOP, a.size)
    return _Row(
        kl_ab=_divergence(p, log_p, log_q),
        kl_ba=_divergence(q, log_q, log_p),
        delta_p=float(q[first[0]] - p[first[0]]),
        overlap=len(_top(a, k) & _top(b, k)) / k,
        margin=_margin(a),
        first=first,
    )


def _log_softmax(logits: Values) -> NDArray[np.float64] | None:
    if not logits.size or np.isnan(logits).any():
        return None
    wide = logits.astype(np.float64)
    largest = wide.max()
    if math.isinf(largest):
        return None
    shifted = wide - largest
    out: NDArray[np.float64] = shifted - math.log(np.exp(shifted).sum())
    return out


def _divergence(p: NDArray[np.float64], log_p: NDArray[np.float64], log_q: NDArray[np.float64]) -> float:
    # p = 0 contributes nothing, whatever q; the sum of rounded terms may come out a little below 0.
    some = p > 0
    return max(0.0, float((p[some] * (log_p[some] - log_q[some])).sum()))


def _top(logits: Values, k: int) -> set[int]:
    """The k first tokens; sorts only those at or above the k-th logit."""
    kth = np.partition(logits, logits.size - k)[logits.size - k]
    candidates = np.flatnonzero(logits >= kth)
    order = np.argsort(-logits[candidates], kind="stable")[:k]
    return set(candidates[order].tolist())


def _margin(logits: Values) -> float:
    """The first logit less the second; inf where there is no second that is finite."""
    if logits.size < 2:
        return math.inf
    second, first = np.partition(logits, logits.size - 2)[-2:].astype(np.float64)
    return float(first - second)


def _mean(numbers: list[float]) -> float | None:
    return sum(numbers) / len(numbers) if numbers else None


@dataclass(frozen=True, slots=True)
class IndexMetrics:
    """Integer equality of two tensors of indices; `first_difference` is flat, row-major.

    `equal` are elements that are the same integer on both sides. `odd_a` and `odd_b` count what is no index: a
    fraction, a negative number, NaN, Inf. Such an element is never equal.
    """

    count: int
    equal: int
    first_difference: int | None
    odd_a: int
    odd_b: int


def measure_indices(a: Values, b: Values) -> IndexMetrics:
    """Compare indices (as of experts chosen by a router) stored as float32; any shape, the same on both sides."""
    assert a.shape == b.shape, f"shapes {a.shape} and {b.shape} must be aligned before they are compared"
    left, right = a.reshape(-1), b.reshape(-1)
    index_a, index_b = _is_index(left), _is_index(right)
    equal = index_a & index_b & (left == right)
    differing = np.flatnonzero(~equal)
    return IndexMetrics(
        count=left.size,
        equal=int(np.count_nonzero(equal)),
        first_difference=int(differing[0]) if differing.size else None,
        odd_a=int(np.count_nonzero(~index_a)),
        odd_b=int(np.count_nonzero(~index_b)),
    )


def _is_index(values: Values) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        out: NDArray[np.bool_] = np.isfinite(values) & (values >= 0) & (values == np.floor(values))
    return out
