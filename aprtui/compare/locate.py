"""Where in a stage the first wrong number is: the first token that breaks the bound, and in it the worst channel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from aprtui.compare.blocks import Values, blocks
from aprtui.compare.metrics import Metric, PairMetrics, compare_values
from aprtui.compare.pairing import StagePair
from aprtui.compare.verdict import StageVerdict, Tolerance


class _Row(NamedTuple):
    """One token's values as `[heads, width]` (attention maps up to the diagonal), with where they lie."""

    token: int
    a: Values
    b: Values


@dataclass(frozen=True, slots=True)
class Element:
    """One pair of values; `place` names the coordinates."""

    place: dict[str, int]
    a: float
    b: float


def first_failing_place(pair: StagePair, metrics: PairMetrics, verdict: StageVerdict) -> dict[str, int]:
    """Coordinates of the first failing value of a stage that FAILs.

    For NaN and Inf the first mismatch; else, in the first token row whose own metric breaks the bound, the largest
    difference; where no row alone breaks it, the largest difference of all.
    """
    if verdict.metric is Metric.NON_FINITE:
        assert metrics.first_mismatch is not None
        return pair.place(_first_mismatch_by_token(pair, metrics.first_mismatch))
    assert metrics.max_abs_index is not None and verdict.bound is not None
    tolerance = Tolerance(verdict.metric, verdict.bound)
    for row in _token_rows(pair):
        own = compare_values(row.a, row.b)
        number = own.value(verdict.metric)
        if number is not None and own.max_abs_index is not None and not tolerance.admits(number):
            return pair.place(_flat_index(pair, row, own.max_abs_index))
    return pair.place(metrics.max_abs_index)


def _first_mismatch_by_token(pair: StagePair, first: int) -> int:
    """The mismatch of the earliest token; row-major order already gives it but in attention maps."""
    if not pair.causal:
        return first
    for row in _token_rows(pair):
        own = compare_values(row.a, row.b)
        if own.first_mismatch is not None:
            return _flat_index(pair, row, own.first_mismatch)
    return first


def _token_rows(pair: StagePair) -> Iterator[_Row]:
    if pair.causal:
        for query in range(pair.a.shape[1]):
            yield _Row(query, pair.a[:, query, : query + 1], pair.b[:, query, : query + 1])
    elif pair.axes:
        for token in range(pair.a.shape[0]):
            yield _Row(token, pair.a[token : token + 1], pair.b[token : token + 1])


def _flat_index(pair: StagePair, row: _Row, index: int) -> int:
    head, column = divmod(index, row.a.shape[1])
    where = (head, row.token, column) if pair.causal else (row.token, column)
    return int(np.ravel_multi_index(where, pair.a.shape))


def top_elements(pair: StagePair, limit: int) -> tuple[Element, ...]:
    """The `limit` elements that differ most, most first; mismatches of NaN or Inf first, equal ones never."""
    found: list[tuple[float, int]] = []
    for (a, positions), (b, _) in zip(blocks(pair.a, pair.causal), blocks(pair.b, pair.causal), strict=True):
        scores = _difference(a, b)
        chosen = np.argsort(-scores, kind="stable")[:limit]
        found += [(float(scores[at]), int(positions[int(at)])) for at in chosen if scores[at] > 0]
        found = sorted(found, key=lambda entry: (-entry[0], entry[1]))[:limit]
    flat = [(np.unravel_index(index, pair.a.shape), index) for _, index in found]
    return tuple(Element(pair.place(index), float(pair.a[where]), float(pair.b[where])) for where, index in flat)


def _difference(a: Values, b: Values) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """abs(b − a); inf where one side alone is NaN or Inf, 0 where both are so alike."""
    with np.errstate(invalid="ignore"):
        scores = np.abs(b.astype(np.float64) - a.astype(np.float64))
    odd = ~(np.isfinite(a) & np.isfinite(b))
    alike = (np.isnan(a) & np.isnan(b)) | (a == b)
    scores[odd] = np.where(alike[odd], 0.0, np.inf)
    return scores
