"""Copies of a whole run, judged in execution order: what a stage's inputs differ by, it may differ by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aprtui.importing.ranks.copies import (
    Copies,
    CopyState,
    Floats,
    compare_copies,
    honest_bound,
    strict_bound,
    unit_roundoff,
)
from aprtui.trace.graph.ops import Axis, Op
from aprtui.trace.graph.stage import ROUTER, Node
from aprtui.trace.graph.stage_graph import StageGraph

_STEEP = frozenset({Op.SOFTMAX, Op.ROUTER_SOFTMAX, Op.SOFTMAX_CHOSEN})
"""Ops that turn a difference of their inputs into a larger part of their result."""
_STEEPNESS = 8.0
_GROWTH = 8.0
"""Times what the inputs of a stage differ by: weights of a norm may be largest where its input is small."""
_SEVERITY = tuple(CopyState)


@dataclass(slots=True)
class CopyJudge:
    """Judges the copies of stage after stage, and remembers what it has seen.

    `graph` is that of the model, `ranks` the number of ranks that a sum may go over.
    """

    graph: StageGraph
    ranks: int
    unit: float = 0.0
    found: dict[Node, Copies] = field(default_factory=dict)
    _flipped: dict[int | None, NDArray[np.bool_]] = field(default_factory=dict)
    _routers: dict[int | None, Mapping[int, Floats]] = field(default_factory=dict)

    def judge(self, node: Node, copies: Mapping[int, Floats]) -> Copies:
        """What is found of the copies of a stage that ranks hold; shapes are equal."""
        stage = self.graph[node.stage]
        if stage.holds_indices:
            result = self._choices(node, copies)
        else:
            self.unit = max(self.unit, *map(unit_roundoff, copies.values()))
            bound = self._bound(node) * (_STEEPNESS if stage.op in _STEEP else 1.0)
            result = compare_copies(self._without_flipped(node, copies), bound, self.unit)
        if node.stage == ROUTER:
            self._routers[node.layer] = copies
        known = self.found.get(node)
        if known is None or _SEVERITY.index(result.state) > _SEVERITY.index(known.state):
            self.found[node] = result
        return result

    def _bound(self, node: Node) -> float:
        """A strict one where the model tells that no sum over ranks lies between a stage and its inputs."""
        honest = honest_bound(self.unit, self.ranks, node.layer, self.graph.layers)
        inputs = [self.found.get(source) for source in self.graph.inputs(node)]
        known = [copies for copies in inputs if copies is not None]
        if self.graph.config is None or len(known) < len(inputs):
            return honest
        return min(honest, strict_bound(self.unit) + _GROWTH * max((copies.distance for copies in known), default=0.0))

    def _without_flipped(self, node: Node, copies: Mapping[int, Floats]) -> Mapping[int, Floats]:
        """The copies without the tokens whose experts ranks chose differently: their rows are of other experts."""
        flipped = self._flipped.get(node.layer)
        stage = self.graph[node.stage]
        if flipped is None or not flipped.any() or Axis.EXPERT not in stage.axes or stage.column_axis == "expert":
            return copies
        return {rank: values[~flipped] if len(values) == len(flipped) else values for rank, values in copies.items()}

    def _choices(self, node: Node, copies: Mapping[int, Floats]) -> Copies:
        """Experts must be the same, but where what chose them is nearer than its copies are to one another."""
        ranks = tuple(sorted(copies))
        kept = ranks[0]
        differ = np.zeros(len(copies[kept]), bool)
        odd: list[int] = []
        for rank in ranks[1:]:
            others = (copies[rank] != copies[kept]).any(axis=1)
            differ |= others
            if not others.any():
                continue
            probabilities = self._routers.get(node.layer, {})
            if kept not in probabilities or rank not in probabilities:
                words = f"ranks {kept} and {rank} chose other experts, and {ROUTER} of both was not dumped"
                return Copies(CopyState.UNSETTLED, ranks, kept, words=words)
            if not all(
                _is_close(probabilities[kept][t], probabilities[rank][t], copies[kept][t], copies[rank][t])
                for t in np.flatnonzero(others)
            ):
                odd.append(rank)
        self._flipped[node.layer] = differ
        if odd:
            words = f"chooses other experts at token {np.flatnonzero(differ)[0]} than its probabilities allow for"
            return Copies(CopyState.PARTS, ranks, kept, 1.0, 0.0, tuple(odd), 2 * len(odd) < len(ranks), words)
        return Copies(CopyState.ROUNDING if differ.any() else CopyState.EQUAL, ranks, kept)


def _is_close(a: Floats, b: Floats, chosen_a: Floats, chosen_b: Floats) -> bool:
    """Whether a token's probabilities of two ranks are nearer to one another's than their choices need."""
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return False
    apart = float(np.abs(a - b).max())
    first, second = chosen_a.astype(np.intp), chosen_b.astype(np.intp)
    if max(first.max(), second.max()) >= a.size or min(first.min(), second.min()) < 0:
        return False
    return bool(np.abs(a[first] - a[second]).max() <= 2 * apart)
