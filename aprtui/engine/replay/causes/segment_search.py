"""The search where stages in between were not captured: alternatives at each of them, at all that they concern
together, and two at a time, with the numbers that are usual."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.comparison import StageComparison
from aprtui.compare.wording import listed
from aprtui.engine.alternatives.alternative import Alternative, Attempt
from aprtui.engine.alternatives.call import AlternativeNodes, StageCall
from aprtui.engine.alternatives.norms import BIAS_ALTERNATIVES
from aprtui.engine.protocol import NodeEvaluator
from aprtui.engine.replay.arithmetic import Recomputation
from aprtui.engine.replay.causes.failing import Failing, SearchedRun, Seen
from aprtui.engine.replay.causes.proof import FAR, LACKING, ChangedNodes, Judge, Proof, TriedAttempt, nearest_proof
from aprtui.engine.replay.recompute import Recomputer
from aprtui.model.config import RopeAngles
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node

Array = NDArray[np.float32]

_SHORT = 4
"""Stages between captured ones up to which alternatives are tried that an engine may mean."""
_FIRSTS = 2
"""Alternatives that others are tried on top of: the nearest."""
_HELPS = 0.7
"""Of the model's own error: what the first of two alternatives must leave less than."""
_SEARCHES = 2
"""Layers in which a short stretch is looked into without a finding, before only causes of others are tried there; of a
longer one it is one."""


@dataclass(frozen=True, slots=True)
class _Way:
    """From captured stages to one that fails: what the model makes of the `values` in between."""

    failing: Failing
    recomputer: Recomputer
    values: Mapping[Node, Array]

    @property
    def nodes(self) -> tuple[Node, ...]:
        return (*self.values, self.failing.node)


@dataclass(frozen=True, slots=True)
class _WithWay(Mapping[Node, Array]):
    """What a capture holds, and what the model makes of the stages on the way to one that fails.

    Not the values that are to be explained, `hidden` from the stages before them: made of these, anything is.
    """

    way: Mapping[Node, Array]
    seen: Seen
    hidden: frozenset[Node]

    def __getitem__(self, node: Node) -> Array:
        if node in self.hidden:
            raise KeyError(node)
        return self.way[node] if node in self.way else self.seen[node]

    def __iter__(self) -> Iterator[Node]:
        yield from self.way
        yield from (node for node in self.seen if node not in self.way and node not in self.hidden)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(slots=True)
class SegmentSearch:
    """Looks for the cause of one stage that fails after another, each computed through stages that nobody captured."""

    run: SearchedRun
    judge: Judge
    _fruitless: dict[str, int] = field(default_factory=dict)

    def look(self, stage: StageComparison, proofs: Sequence[Proof]) -> tuple[Proof | None, Sequence[TriedAttempt]]:
        """The proof at the end of a segment, and what was tried for it; `proofs` are those of the stages before it.

        What flips of levels may do there hides much, so the model's own way must be far beyond the bound.
        """
        searches = 1 if len(stage.segment) > _SHORT else _SEARCHES
        is_tried = self._fruitless.get(stage.node.stage, 0) >= searches
        if is_tried and not proofs:
            return None, ()
        failing = self.run.failing(stage, self.run.known)
        if failing.error < FAR * failing.bound:
            return None, ()
        way = self._way(failing)
        known = {part.name for proof in proofs for part in proof.best.parts}
        outcomes: list[TriedAttempt] = []
        for only in (known, None) if known else (None,):
            if only is None and is_tried:
                break
            outcomes = self._tried_on(way, (), only)
            proof = nearest_proof(failing, outcomes)
            if proof is None and (only is None or len(only) > 1):
                nearest = sorted(outcomes, key=lambda one: one.residue)[:_FIRSTS]
                changes = [one.change for one in nearest if one.residue < _HELPS * failing.error]
                changes += self._of_the_bias(failing) if only is None else []
                outcomes += [two for change in changes for two in self._tried_on(way, (change,), only)]
                proof = nearest_proof(failing, outcomes)
            if proof is not None:
                return proof, outcomes
        self._fruitless[stage.node.stage] = self._fruitless.get(stage.node.stage, 0) + 1
        return None, outcomes

    @np.errstate(all="ignore")
    def may_be(self, stage: StageComparison, best: TriedAttempt) -> bool:
        """Whether a stage that passes comes out as captured in the way of the `best` attempt at another one as well."""
        failing = self.run.failing(stage, self.run.known)
        way, stages = self._way(failing), {node.stage for node in best.nodes}
        at = frozenset(node for node in way.nodes if node.stage in stages)
        if not at:
            return False
        change = ChangedNodes(at, best.alternative, best.attempt)
        first = min(at, key=self.run.model.graph.order.__getitem__)
        return any(one.residue <= failing.bound for one in self._changed(way, first, (change,)))

    def _way(self, failing: Failing) -> _Way:
        recomputer = self.run.recomputer(self.run.known)
        return _Way(failing, recomputer, recomputer.on_the_way(failing.node, failing.found.shape[-2]))

    def _tried_on(self, way: _Way, before: Sequence[ChangedNodes], only: Collection[str] | None) -> list[TriedAttempt]:
        """What comes of a failing stage where one of the nodes on the way to it is computed in other ways, or where all
        are that an alternative concerns; on top of the changes made `before`."""
        outcomes = list[TriedAttempt]()
        is_long = len(way.nodes) > _SHORT
        for node in way.nodes:
            for alternative in self.run.alternatives(node):
                is_chosen = only is None or alternative.name in only
                if not is_chosen or (is_long and alternative.may_be_meant):
                    continue
                changed = self._changed_at(way, node, alternative)
                if not changed:
                    continue
                with np.errstate(all="ignore"), suppress(*LACKING):
                    implied = self._implied(node, way.failing, before)
                    for attempt in alternative.attempts(self._call_at(way, node), implied):
                        for at in changed:
                            change = ChangedNodes(at, alternative, attempt)
                            if not any(change.at & other.at for other in before):
                                outcomes += self._changed(way, node, (*before, change))
        return outcomes

    def _changed_at(self, way: _Way, node: Node, alternative: Alternative) -> list[frozenset[Node]]:
        """The nodes that are computed otherwise at once, where an alternative is tried at `node`: that alone, and at
        the last that it concerns all of them; of one that is a way of a whole layer, all of the layer."""
        model, whole = self.run.model, alternative.only_together
        concerned = frozenset(
            other for other in way.nodes
            if alternative.concerns(model, other) and (not whole or other.layer == node.layer)
        )  # fmt: skip
        is_last = len(concerned) > 1 and node == max(concerned, key=model.graph.order.__getitem__)
        return ([] if whole else [frozenset({node})]) + ([concerned] if is_last else [])

    def _of_the_bias(self, failing: Failing) -> list[ChangedNodes]:
        """Other biases, of a product that was captured with its bias only: whatever they leave by themselves, they
        hide what is wrong with the product."""
        if self.run.model.graph[failing.node.stage].op is not Op.BIAS:
            return []
        return [
            ChangedNodes(frozenset({failing.node}), alternative, attempt)
            for alternative in self.run.alternatives(failing.node)
            if alternative in BIAS_ALTERNATIVES
            for attempt in alternative.attempts(failing.call, None)
        ]

    def _implied(self, node: Node, failing: Failing, before: Sequence[ChangedNodes]) -> Array | None:
        """What a stage that was not captured must have been, where nothing but a bias was added to it: the model's, or
        the one of the changes made `before`. Of such a sum, what was captured."""
        model = self.run.model
        if model.graph[failing.node.stage].op is not Op.BIAS:
            return None
        if node == failing.node and model.graph.inputs(node) == failing.comparison.segment:
            return failing.found
        if model.graph.inputs(failing.node) != (node,):
            return None
        without = replace(failing.call, inputs=(np.zeros_like(failing.own),))
        ways = [change.attempt.compute for change in before if failing.node in change.at]
        return np.asarray(failing.found - (ways[0](without) if ways else without.honest()), np.float32)

    def _call_at(self, way: _Way, node: Node) -> StageCall:
        failing, tokens = way.failing, self.run.stages.tokens
        count = failing.found.shape[-2] if node == failing.node else len(tokens)
        position = len(tokens) - count
        hidden = frozenset({failing.node}) - {node}
        return replace(
            failing.call, node=node, inputs=tuple(way.recomputer.inputs(node, count)), tokens=tokens[position:],
            position=position, seen=_WithWay(way.values, self.run.seen, hidden),
        )  # fmt: skip

    def _changed(self, way: _Way, node: Node, changes: Sequence[ChangedNodes]) -> Iterator[TriedAttempt]:
        """What comes of a failing stage through changed nodes: those before the first of them are known."""
        run, failing, order = self.run, way.failing, self.run.model.graph.order

        def other(angles: RopeAngles) -> NodeEvaluator:
            engine: NodeEvaluator = run.evaluators(angles)
            for change in changes:
                engine = AlternativeNodes(run.model, angles, engine, change.attempt.compute, change.at, run.seen)
            return engine

        first = min(order[at] for change in changes for at in change.at)
        known = {source: values for source, values in way.values.items() if order[source] < first}
        arithmetic = Recomputation(run.model, run.known.rounding, other, run.known.outputs)
        with suppress(*LACKING):
            found = way.recomputer.from_known(arithmetic, known).recompute(failing.node, failing.found.shape[-2])
            if found.values.shape == failing.own.shape:
                alternative, attempt = _of_changes(changes)
                made = self.judge.outcome(failing, alternative, attempt, np.ascontiguousarray(found.values))
                parts = tuple(change.alternative for change in changes)
                at = sorted({one for change in changes for one in change.at}, key=order.__getitem__)
                yield replace(made, node=node, nodes=tuple(at), parts=parts, change=changes[-1])


def _of_changes(changes: Sequence[ChangedNodes]) -> tuple[Alternative, Attempt]:
    """Changes of several nodes as one, in words that say where each is."""
    *_, last = changes
    if len(changes) == 1:
        return last.alternative, last.attempt
    names = [f"{listed(dict.fromkeys(at.stage for at in change.at))}: {change.attempt.words}" for change in changes]
    alternative = replace(
        last.alternative, name=" and ".join(change.alternative.name for change in changes),
        advice="; ".join(change.alternative.advice for change in changes),
    )  # fmt: skip
    return alternative, replace(last.attempt, words="; and ".join(names), fitted=sum(c.attempt.fitted for c in changes))
