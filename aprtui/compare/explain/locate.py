"""Where the first wrong number of a stage is: the first token that breaks the bound, and in it the worst channel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.align.pairing import StagePair, Unpaired
from aprtui.compare.comparison import Element
from aprtui.compare.metrics.blocks import Rows, Values, blocks
from aprtui.compare.metrics.measure import Metric, PairMetrics, token_values
from aprtui.compare.verdict import StageVerdict, Tolerance
from aprtui.trace.graph.ops import Axis
from aprtui.trace.graph.stage import ROUTER_CHOICE, Node, Stage


def first_failing_place(pair: StagePair, metrics: PairMetrics, verdict: StageVerdict) -> dict[str, int]:
    """Coordinates of the first failing value of a stage that FAILs.

    In the first token whose own metric breaks the bound, the first NaN or Inf that is not alike, or the largest
    difference; where no token alone breaks it, the largest difference of all. Empty where channels of all tokens fail.
    """
    if verdict.metric is Metric.PLACE:
        return {}
    if verdict.metric is Metric.NON_FINITE:
        assert metrics.first_mismatch is not None
        # Row-major order has the tokens in order, but for attention maps.
        if not pair.causal:
            return pair.place(metrics.first_mismatch)
    token = _first_bad_token(pair, verdict) if pair.axes else None
    if token is not None:
        return pair.place(_worst_of_token(pair, token))
    assert metrics.max_abs_index is not None
    return pair.place(metrics.max_abs_index)


def _first_bad_token(pair: StagePair, verdict: StageVerdict) -> int | None:
    """The first token that breaks the bound by itself."""
    values = token_values(pair.a, pair.b, verdict.metric, causal=pair.causal)
    tolerance = Tolerance(verdict.metric, verdict.bound or 0.0)
    for token in np.flatnonzero(~np.isnan(values)):
        if not tolerance.admits(float(values[token])):
            return int(token)
    return None


def _worst_of_token(pair: StagePair, token: int) -> int:
    """The flat index of the token's worst element."""
    rows = Rows.of(pair.a.shape, pair.causal)
    a, b = rows.walked(pair.a), rows.walked(pair.b)
    found: list[tuple[float, int]] = []
    for row in range(token, rows.count, rows.rows):
        scores = _difference(rows.row(a, row), rows.row(b, row))
        at = int(scores.argmax())
        found.append((-float(scores[at]), rows.position(row, at)))
    return min(found)[1]


def most_differing_place(pair: StagePair, metrics: PairMetrics) -> dict[str, int]:
    """Coordinates of the first NaN or Inf that is not alike, else of the largest difference; empty where none is."""
    index = metrics.first_mismatch
    if index is None and metrics.max_abs:
        index = metrics.max_abs_index
    return {} if index is None else pair.place(index)


def with_experts(
    place: Mapping[str, int], pair: StagePair, stage: Stage, pair_of: Callable[[Node], StagePair | Unpaired]
) -> dict[str, int]:
    """`place` in the stage of `pair`, where experts are concerned, with the expert or the choice that it is about.

    Of a router the expert stands in place of the channel, of its choices the choice. In rows of several experts the
    channel is that of the row; the expert is named where both sides chose the same at that place.
    """
    if Axis.EXPERT not in stage.axes or "channel" not in place:
        return dict(place)
    column = place["channel"]
    if stage.column_axis != "channel":
        return {"token": place["token"], stage.column_axis: column}
    choices = pair_of(replace(pair.node, stage=ROUTER_CHOICE))
    if not isinstance(choices, StagePair) or choices.a.ndim != 2 or pair.a.shape[1] % choices.a.shape[1]:
        return dict(place)
    choice, row = column // (pair.a.shape[1] // choices.a.shape[1]), place["token"] - choices.first_token
    named = {**place, "choice": choice}
    if not 0 <= row < choices.a.shape[0]:
        return named
    a, b = choices.a[row, choice], choices.b[row, choice]
    return {**named, "expert": int(a)} if a == b and np.isfinite(a) else named


def top_elements(pair: StagePair, limit: int) -> tuple[Element, ...]:
    """The `limit` elements that differ most, most first; mismatches of NaN or Inf first, equal ones never.

    Of equal differences the first in row-major order comes first. One pass; memory is bounded by block and `limit`.
    """
    if limit < 1:
        return ()
    scores, indices = np.empty(0), np.empty(0, np.int64)
    for (a, positions), (b, _) in zip(blocks(pair.a, pair.causal), blocks(pair.b, pair.causal), strict=True):
        own = _difference(a, b)
        # Only what is larger than the least of those found can displace it: most blocks end here.
        least = scores[-1] if scores.size == limit else 0.0
        chosen = np.flatnonzero(own > least)
        if not chosen.size:
            continue
        if chosen.size > limit:
            kth = np.partition(own[chosen], chosen.size - limit)[chosen.size - limit]
            chosen = chosen[own[chosen] >= kth]
        scores = np.concatenate([scores, own[chosen]])
        found = positions.start + chosen if isinstance(positions, range) else np.asarray(positions)[chosen]
        indices = np.concatenate([indices, found])
        order = np.lexsort((indices, -scores))[:limit]
        scores, indices = scores[order], indices[order]
    flat = [(np.unravel_index(index, pair.a.shape), int(index)) for index in indices]
    return tuple(Element(pair.place(index), float(pair.a[where]), float(pair.b[where])) for where, index in flat)


def _difference(a: Values, b: Values) -> NDArray[np.float64]:
    """abs(b − a); inf where one side alone is NaN or Inf, 0 where both are so alike."""
    with np.errstate(invalid="ignore"):
        scores: NDArray[np.float64] = np.abs(b.astype(np.float64) - a.astype(np.float64))
    odd = ~(np.isfinite(a) & np.isfinite(b))
    if odd.any():
        alike = (np.isnan(a) & np.isnan(b)) | (a == b)
        scores[odd] = np.where(alike[odd], 0.0, np.inf)
    return scores
