"""The search at one stage whose inputs were captured: each alternative by itself, then two at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.comparison import StageComparison
from aprtui.engine.alternatives.alternative import Alternative, Attempt
from aprtui.engine.alternatives.call import AlternativeNodes
from aprtui.engine.alternatives.pairs import distinct, paired, together
from aprtui.engine.alternatives.table import ALONE, ALTERNATIVES
from aprtui.engine.protocol import NodeEvaluator
from aprtui.engine.replay.arithmetic import KnownArithmetic, NodeEvaluators, Recomputation
from aprtui.engine.replay.causes.failing import Failing, SearchedRun
from aprtui.engine.replay.causes.proof import LACKING, Judge, Proof, TriedAttempt, nearest_proof
from aprtui.engine.replay.flash_attention import ONLINE_F16
from aprtui.model.config import RopeAngles
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node

Array = NDArray[np.float32]

_BLOCK = 32
_OF_PRODUCTS: tuple[Mapping[str, str], ...] = tuple(
    {"matmul_input": kind} for kind in ("none", "q8", "f16", "bf16", "tf32", "q8_0", "q8_1", "fp8", "int8_row")
)
_OF_ATTENTION: tuple[Mapping[str, str], ...] = tuple(
    {"kv_cache": cache, "softmax": softmax}
    for cache, softmax in (
        ("f32", "f32"), ("f16", "f16"), ("f16", "f32"), ("f16", ONLINE_F16), ("bf16", "bf16"), ("bf16", "f32"),
        ("q8_0", "f32"), ("q4_0", "f32"), ("fp8", "f32"),
    )
)  # fmt: skip
"""What is tried where a mistake in all layers kept the rounding of an op from being found."""
_FIRSTS = 4
"""Alternatives that are tried together with others where a stage is a matrix product."""
_PAIRS = 8
"""Of those that are tried together, how many are reported: the nearest."""
_WITH_PRODUCTS = frozenset(one.name for one in ALTERNATIVES if one.of_result) | {"weights", "inputs left out"}
"""What they are tried together with: what costs little."""
_SEARCHES = 2
"""Layers in which a stage is looked into without a finding, before only causes of others are tried there."""


@dataclass(slots=True)
class StageSearch:
    """Looks for the cause of one stage that fails after another."""

    run: SearchedRun
    judge: Judge
    _fruitless: dict[str, int] = field(default_factory=dict)
    _proving: dict[Op, KnownArithmetic] = field(default_factory=dict)

    @np.errstate(all="ignore")  # numbers are solved from values that may be NaN or Inf
    def look(self, stage: StageComparison, proofs: Sequence[Proof]) -> tuple[Proof | None, Sequence[TriedAttempt]]:
        """The proof at one stage, and what was tried for it, under each arithmetic that is possible there; `proofs` are
        those of the stages before it."""
        node, nearest = stage.node, list[TriedAttempt]()
        for known in self._arithmetics(node):
            failing = self.run.failing(stage, known)
            if known is not self.run.known and failing.error <= failing.bound:
                self._proving[self._op(node)] = known
                return None, ()
            proof = self._by_known(failing, proofs)
            if proof is None and self._fruitless.get(node.stage, 0) < _SEARCHES:
                outcomes = self._tried(failing, self.run.alternatives(node))
                proof = nearest_proof(failing, outcomes)
                if proof is None and known is self.run.known:
                    outcomes = [*outcomes, *self._tried_in_pairs(failing, outcomes)]
                    proof = nearest_proof(failing, outcomes)
                nearest = nearest if nearest and proof is None else outcomes
            if proof is not None:
                if known is not self.run.known:
                    self._proving[self._op(node)] = known
                return proof, nearest
        self._fruitless[node.stage] = self._fruitless.get(node.stage, 0) + 1
        return None, nearest

    @np.errstate(all="ignore")
    def may_be(self, stage: StageComparison, best: TriedAttempt) -> bool:
        """Whether a stage that passes comes out as captured in the way of the `best` attempt at another one as well."""
        failing = self.run.failing(stage, self.run.known)
        outcomes = self._outcomes_of(failing, best.alternative, [best.attempt])
        return any(one.residue <= failing.bound for one in outcomes)

    def _op(self, node: Node) -> Op:
        return self.run.model.graph[node.stage].op

    def _arithmetics(self, node: Node) -> Iterator[KnownArithmetic]:
        """The known arithmetic; where a mistake in all layers kept that of an op from being found, the usual ones."""
        op, known = self._op(node), self.run.known
        if op not in known.open_ops:
            yield known
            return
        if op in self._proving:
            yield self._proving[op]
        for changes in _OF_PRODUCTS if self.run.is_product(node) else _OF_ATTENTION:
            if self._divides(node, changes):
                yield replace(known, rounding=replace(known.rounding, **changes), open_ops=frozenset())

    def _divides(self, node: Node, changes: Mapping[str, str]) -> bool:
        """Whether the inputs of a product can be cut into the blocks of a rounding."""
        in_blocks = changes.get("matmul_input", "").startswith("q8_")
        return not in_blocks or all(weight.columns % _BLOCK == 0 for weight in self.run.model.params(node))

    def _by_known(self, failing: Failing, proofs: Sequence[Proof]) -> Proof | None:
        """The cause of another stage, where it is the cause here: with the number that was solved there, which a stage
        that shows it less well would have solved as another."""
        numbers = {proof.best.attempt.words: proof.best for proof in proofs if proof.best.attempt.fitted}
        for best in numbers.values():
            if best.alternative.concerns(self.run.model, failing.node):
                values = self._values(failing, best.attempt, of_result=best.alternative.of_result)
                if values is not None:
                    outcome = self.judge.outcome(failing, best.alternative, best.attempt, values)
                    if outcome.is_proved:
                        return Proof(failing, outcome)
        words = {proof.best.attempt.words for proof in proofs}
        for same in {proof.best.alternative.name: proof.best.alternative for proof in proofs}.values():
            if not same.concerns(self.run.model, failing.node):
                continue
            outcomes = [one for one in self._tried(failing, [same]) if one.is_proved and one.attempt.words in words]
            if outcomes:
                return Proof(failing, outcomes[0])
        return None

    def _tried(self, failing: Failing, alternatives: Sequence[Alternative]) -> list[TriedAttempt]:
        return [
            outcome
            for one in alternatives
            for outcome in self._outcomes_of(failing, one, one.attempts(failing.given, failing.found))
        ]

    def _tried_in_pairs(self, failing: Failing, outcomes: Sequence[TriedAttempt]) -> list[TriedAttempt]:
        """Two alternatives at once: of a matrix product those that come nearest, else all, with those of a few numbers;
        until two of them are proved."""
        alternatives = [one for one in self.run.alternatives(failing.node) if one not in ALONE]
        if self.run.is_product(failing.node):
            seconds = [one for one in alternatives if one.name in _WITH_PRODUCTS]
            near = [one for one in outcomes if one.residue < failing.error and one.alternative in alternatives]
            nearest = sorted(near, key=lambda one: one.residue)[:_FIRSTS]
            firsts = [(one.alternative, one.attempt) for one in nearest]
        else:
            seconds = alternatives
            firsts = [(one, attempt) for one in alternatives for attempt in distinct(one, failing.given, failing.found)]
        found: list[TriedAttempt] = []
        for first, attempt in firsts:
            for second in seconds:
                if second is not first and (second.of_result or not first.of_result):
                    attempts = together(attempt, second, failing.given, failing.found)
                    found += self._outcomes_of(failing, paired(first, second), attempts)
            if any(one.is_proved for one in found):
                break
        return sorted(found, key=lambda one: one.residue)[:_PAIRS]

    def _outcomes_of(
        self, failing: Failing, alternative: Alternative, attempts: Iterable[Attempt]
    ) -> Iterator[TriedAttempt]:  # fmt: skip
        with suppress(*LACKING):
            for attempt in attempts:
                values = self._values(failing, attempt, of_result=alternative.of_result)
                if values is not None:
                    yield self.judge.outcome(failing, alternative, attempt, values)

    def _values(self, failing: Failing, attempt: Attempt, *, of_result: bool) -> Array | None:
        """What an attempt makes of the stage; None where it needs what the capture lacks."""
        run, node, call, model = self.run, failing.node, failing.call, self.run.model

        def other(angles: RopeAngles) -> NodeEvaluator:
            engine = run.evaluators(angles)
            return AlternativeNodes(model, angles, engine, attempt.compute, frozenset({node}), run.seen)

        evaluators: NodeEvaluators = other
        try:
            if of_result:
                values = attempt.compute(failing.given)
            else:
                if attempt.changed is not None:
                    call = attempt.changed(call)
                    model, engine = call.model, call.engine
                    evaluators = run.evaluators if model is run.model else lambda angles: engine
                computed = Recomputation(model, failing.known.rounding, evaluators, failing.known.outputs)
                values = computed.evaluate(node, call.inputs, call.tokens, call.position)
        except LACKING:
            return None
        return None if values.shape != failing.own.shape else np.ascontiguousarray(values, np.float32)
