"""The same experts in another order: no engine has to sort those that a token uses, and their sum does not tell.

Stages of several experts a token are compared expert by expert: B's are put in the order that A has them in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.align.pairing import StagePair, Unpaired
from aprtui.compare.metrics.blocks import Values
from aprtui.trace.graph.ops import Axis
from aprtui.trace.graph.stage import ROUTER_CHOICE, Node
from aprtui.trace.graph.stage_graph import StageGraph

_TOLD = "B's experts of a token put in A's order"


def in_expert_order_of_a(
    pair: StagePair, graph: StageGraph, pair_of: Callable[[Node], StagePair | Unpaired]
) -> StagePair:
    """`pair` with the experts that B uses for a token in A's order, where both sides' choices are there.

    An expert that A does not use stands where A has one that B does not. `pair_of` gives pairs as they were captured.
    """
    stage = graph[pair.node.stage]
    if Axis.EXPERT not in stage.axes or stage.column_axis == str(Axis.EXPERT) or pair.a.ndim != 2:
        return pair
    choices = pair if stage.holds_indices else pair_of(replace(pair.node, stage=ROUTER_CHOICE))
    if not isinstance(choices, StagePair) or choices.a.ndim != 2 or choices.first_token != pair.first_token:
        return pair
    used = choices.a.shape[1]
    order = _order(choices.a, choices.b)
    if order is None or len(order) != len(pair.b) or pair.b.shape[1] % used:
        return pair
    rows = pair.b.reshape(len(pair.b), used, -1)
    values = np.take_along_axis(rows, order[..., None], axis=1).reshape(pair.b.shape)
    return replace(pair, b=values, matched=f"{pair.matched}; {_TOLD}")


def _order(a: Values, b: Values) -> NDArray[np.int64] | None:
    """For each place of A `[tokens, K]` the place of B with the same expert; None where all are in order already.

    Tokens with what is no expert, or with one twice, stay as they are.
    """
    same = a[:, :, None] == b[:, None, :]
    clear = (same.sum(1) <= 1).all(1) & (same.sum(2) <= 1).all(1) & _are_different(a) & _are_different(b)
    there, of_a = same.any(1), same.any(2)
    own = np.broadcast_to(np.arange(a.shape[1]), a.shape)
    order = np.where(of_a, same.argmax(2), -1)
    for token in np.flatnonzero(clear & ~of_a.all(1)):
        order[token, ~of_a[token]] = np.flatnonzero(~there[token])
    order = np.where(clear[:, None], order, own)
    return None if np.array_equal(order, own) else order.astype(np.int64)


def _are_different(choice: Values) -> NDArray[np.bool_]:
    """Whether each token has finite numbers, none of them twice."""
    in_order = np.sort(choice, axis=1)
    found: NDArray[np.bool_] = np.isfinite(choice).all(1) & (in_order[:, 1:] != in_order[:, :-1]).all(1)
    return found
