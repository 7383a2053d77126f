"""Why a stage errs: of all alternatives, those that come out as captured where the model's own computation does not.

A proof needs all of this: the alternative leaves no more than honest engines do, at every token and at every place; the
model's own way leaves at least five times as much; and at least four times as many values are off as numbers were
solved for. What falls short of it is never called a cause.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.align.pairing import StagePair
from aprtui.compare.comparison import Cause, StageComparison, TriedAlternative
from aprtui.compare.metrics.measure import Metric, measure
from aprtui.compare.verdict import Signal, StageVerdict, Verdict
from aprtui.compare.wording import counted, listed
from aprtui.engine.alternatives.alternative import Alternative, Attempt
from aprtui.engine.alternatives.call import AlternativeNodes, StageCall
from aprtui.engine.alternatives.pairs import distinct, paired, together
from aprtui.engine.alternatives.table import ALONE, ALTERNATIVES
from aprtui.engine.protocol import NodeEvaluator
from aprtui.engine.replay.arithmetic import KnownArithmetic, NodeEvaluators, Recomputation
from aprtui.engine.replay.bounds import replay_tolerance
from aprtui.engine.replay.errors_by_place import ErrorsByPlace
from aprtui.engine.replay.flash_attention import ONLINE_F16
from aprtui.engine.replay.recompute import CapturedStages, Recomputed, Recomputer
from aprtui.engine.replay.spread import Spreads
from aprtui.model.config import RopeAngles
from aprtui.model.model import Model
from aprtui.progress import Progress, no_progress
from aprtui.trace.graph import MATRIX_PRODUCTS, Node, Op

Array = NDArray[np.float32]

_FAR = 5.0
"""What the model's own way must leave, times what the alternative leaves."""
_VALUES_A_NUMBER = 4
_AS_NEAR = 4.0
"""An alternative that leaves up to so many times what the nearest leaves is no worse than that."""
_FLOAT32 = 4e-7
"""The same for those that leave next to nothing."""
_MORE_NUMBERS = 2
"""An alternative that needs more numbers than another contains it, and says less."""
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
_LACKING = (KeyError, IndexError, ValueError, ArithmeticError)
"""What an alternative raises that needs stages, or tokens, that a capture lacks, or for numbers that are no numbers."""
_SHORT = 4
"""Stages between captured ones up to which alternatives are tried that an engine may mean."""
_LONG = 24
"""Stages between captured ones up to which alternatives are tried at each of them: a layer has fewer."""
_FIRSTS_OF_SEGMENT = 2
_HELPS = 0.7
"""Of the model's own error: what the first of two alternatives must leave less than."""
_SEARCHES = 2
"""Layers in which a stage is looked into without a finding, before only causes of others are tried there."""
_PROVED = "computed in another way than the model's, which reproduces it"


@dataclass(frozen=True, slots=True)
class FoundCauses:
    """The causes that were proved, in execution order, and all that was tried, stage by stage. `faults` are nodes that
    are computed in a way that no engine means."""

    causes: tuple[Cause, ...] = ()
    alternatives: tuple[TriedAlternative, ...] = ()
    faults: frozenset[Node] = frozenset()

    def judged(self, compared: Sequence[StageComparison]) -> list[StageComparison]:
        """`compared`, with a FAIL where a fault was proved that could be an unknown arithmetic before."""
        return [self._judged(stage) if stage.node in self.faults else stage for stage in compared]

    @staticmethod
    def _judged(stage: StageComparison) -> StageComparison:
        return replace(stage, verdict=replace(stage.verdict, verdict=Verdict.FAIL, reason=_PROVED))


@dataclass(frozen=True, slots=True)
class _Failing:
    """A stage that fails, with what it is computed from, what the model makes of that, and what was captured."""

    comparison: StageComparison
    call: StageCall
    own: Array
    found: Array
    bound: float
    known: KnownArithmetic

    @property
    def node(self) -> Node:
        return self.comparison.node

    @property
    def given(self) -> StageCall:
        """The call, of which the model's own way need not be computed again."""
        return replace(self.call, engine=_Given(self.call, self.own))


@dataclass(frozen=True, slots=True)
class _Change:
    """Nodes that are computed in another way."""

    at: frozenset[Node]
    alternative: Alternative
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class _Way:
    """From captured stages to one that fails: what the model makes of the `values` in between."""

    failing: _Failing
    recomputer: Recomputer
    values: Mapping[Node, Array]

    @property
    def nodes(self) -> tuple[Node, ...]:
        return (*self.values, self.failing.node)


@dataclass(frozen=True, slots=True)
class _Outcome:
    node: Node
    alternative: Alternative
    attempt: Attempt
    residue: float
    refuted: str
    nodes: tuple[Node, ...]
    parts: tuple[Alternative, ...]
    change: _Change

    @property
    def is_proved(self) -> bool:
        return not self.refuted


@dataclass(frozen=True, slots=True)
class _Proof:
    failing: _Failing
    best: _Outcome
    alike: tuple[_Outcome, ...] = ()


@dataclass(frozen=True, slots=True)
class _Seen(Mapping[Node, Array]):
    """What a capture holds; what it lacks is computed from what it holds."""

    recomputer: Recomputer

    def __getitem__(self, node: Node) -> Array:
        stages, graph = self.recomputer.stages, self.recomputer.model.graph
        if node not in graph.order:
            raise KeyError(node)
        if stages.rows(node):
            return stages.values(node)
        return self.recomputer.recompute(node, len(stages.tokens)).values

    def __iter__(self) -> Iterator[Node]:
        return iter(self.recomputer.stages.capture.files)

    def __len__(self) -> int:
        return len(self.recomputer.stages.capture.files)


@dataclass(frozen=True, slots=True)
class _WithWay(Mapping[Node, Array]):
    """What a capture holds, and what the model makes of the stages on the way to one that fails."""

    way: Mapping[Node, Array]
    seen: _Seen

    def __getitem__(self, node: Node) -> Array:
        return self.way[node] if node in self.way else self.seen[node]

    def __iter__(self) -> Iterator[Node]:
        yield from self.way
        yield from (node for node in self.seen if node not in self.way)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True, slots=True)
class _Given:
    """`NodeEvaluator` that knows what comes of a call as it is."""

    call: StageCall
    own: Array

    def evaluate(self, node: Node, inputs: Sequence[Array], *, tokens: Sequence[int], position: int) -> Array:
        call = self.call
        if node == call.node and inputs is call.inputs and position == call.position and tokens is call.tokens:
            return self.own
        return call.engine.evaluate(node, inputs, tokens=tokens, position=position)

    def close(self) -> None:
        """Nothing to release."""


@dataclass(slots=True)
class CauseFinder:
    """Looks for the causes of what fails in one capture."""

    model: Model
    stages: CapturedStages
    known: KnownArithmetic
    evaluators: NodeEvaluators
    spreads: Spreads
    places: ErrorsByPlace
    progress: Progress = no_progress
    _seen: _Seen = field(init=False)
    _fruitless: dict[str, int] = field(default_factory=dict)
    _proving: dict[Op, KnownArithmetic] = field(default_factory=dict)

    def __post_init__(self) -> None:
        arithmetic = Recomputation(self.model, self.known.rounding, self.evaluators, self.known.outputs)
        self._seen = _Seen(Recomputer(self.model, self.stages, arithmetic))

    def find(self, compared: Sequence[StageComparison], alike: frozenset[Node]) -> FoundCauses:
        """The causes of the stages that fail, but for those that err `alike` everywhere."""
        failing = [stage for stage in compared if self._is_off(stage) and stage.node not in alike]
        proofs: list[_Proof] = []
        tried: tuple[TriedAlternative, ...] = ()
        for done, stage in enumerate(failing):
            self.progress(f"looking for the cause at {stage.node},", done, len(failing))
            proof, outcomes = self._looked_into(stage, proofs)
            if stage.verdict.verdict is Verdict.FAIL or proof is not None:
                tried += tuple(_records(stage.node, outcomes))
            if proof is not None:
                proofs.append(proof)
        faults = frozenset(
            proof.failing.node
            for proof in proofs
            if proof.failing.comparison.verdict.verdict is Verdict.UNKNOWN and not proof.best.alternative.may_be_meant
        )
        return FoundCauses(tuple(self._causes(proofs, compared)), tried, faults)

    def _is_off(self, stage: StageComparison) -> bool:
        """Whether a stage with captured inputs fails, or would if its op's arithmetic were known."""
        verdict = stage.verdict
        if verdict.signal is not Signal.INJECTED or verdict.metric is Metric.INDICES:
            return False
        if stage.segment:
            return verdict.verdict is not Verdict.PASS and len(stage.segment) <= _LONG
        op = self.model.graph[stage.node.stage].op
        is_open = verdict.verdict is Verdict.UNKNOWN and op in self.known.open_ops
        return verdict.verdict is Verdict.FAIL or is_open

    def _looked_into(
        self, stage: StageComparison, proofs: Sequence[_Proof]
    ) -> tuple[_Proof | None, Sequence[_Outcome]]:  # fmt: skip
        """The proof at one stage, and what was tried for it, under each arithmetic that is possible there."""
        node, nearest = stage.node, list[_Outcome]()
        if stage.segment:
            return self._in_segment(stage, proofs)
        for known in self._arithmetics(node):
            prepared = self._prepared(stage, known)
            if known is not self.known and self._error(prepared) <= prepared.bound:
                self._proving[self.model.graph[node.stage].op] = known
                return None, ()
            proof = self._by_known(prepared, proofs)
            if proof is None and self._fruitless.get(node.stage, 0) < _SEARCHES:
                outcomes = self._tried(prepared, self._alternatives(node))
                proof = _proof(prepared, outcomes)
                if proof is None and known is self.known:
                    outcomes = [*outcomes, *self._tried_in_pairs(prepared, outcomes)]
                    proof = _proof(prepared, outcomes)
                nearest = nearest if nearest and proof is None else outcomes
            if proof is not None:
                if known is not self.known:
                    self._proving[self.model.graph[node.stage].op] = known
                return proof, nearest
        self._fruitless[node.stage] = self._fruitless.get(node.stage, 0) + 1
        return None, nearest

    def _in_segment(
        self, stage: StageComparison, proofs: Sequence[_Proof]
    ) -> tuple[_Proof | None, Sequence[_Outcome]]:  # fmt: skip
        """The same where stages in between were not captured: alternatives at each of them, with the usual numbers;
        where none is a proof, two of them.

        What flips of levels may do there hides much, so the model's own way must be far beyond the bound.
        """
        searches = 1 if len(stage.segment) > _SHORT else _SEARCHES
        is_tried = self._fruitless.get(stage.node.stage, 0) >= searches
        if is_tried and not proofs:
            return None, ()
        failing = self._prepared(stage, self.known)
        if self._error(failing) < _FAR * failing.bound:
            return None, ()
        way = self._way(failing)
        known = {part.name for proof in proofs for part in proof.best.parts}
        outcomes: list[_Outcome] = []
        for only in (known, None) if known else (None,):
            if only is None and is_tried:
                break
            outcomes = self._tried_on(way, (), only)
            proof = _proof(failing, outcomes)
            if proof is None and (only is None or len(only) > 1):
                nearest = sorted(outcomes, key=lambda one: one.residue)[:_FIRSTS_OF_SEGMENT]
                near = [one for one in nearest if one.residue < _HELPS * self._error(failing)]
                outcomes += [two for one in near for two in self._tried_on(way, (one.change,), only)]
                proof = _proof(failing, outcomes)
            if proof is not None:
                return proof, outcomes
        self._fruitless[stage.node.stage] = self._fruitless.get(stage.node.stage, 0) + 1
        return None, outcomes

    def _way(self, failing: _Failing) -> _Way:
        arithmetic = Recomputation(self.model, self.known.rounding, self.evaluators, self.known.outputs)
        recomputer = Recomputer(self.model, self.stages, arithmetic)
        return _Way(failing, recomputer, recomputer.on_the_way(failing.node, failing.found.shape[-2]))

    def _tried_on(self, way: _Way, before: Sequence[_Change], only: Collection[str] | None) -> list[_Outcome]:
        """What comes of a failing stage where one of the nodes on the way to it is computed in other ways, or where all
        are that an alternative concerns; on top of the changes made `before`."""
        outcomes: list[_Outcome] = []
        is_long = len(way.nodes) > _SHORT
        for node in way.nodes:
            for alternative in self._alternatives(node):
                is_chosen = only is None or alternative.name in only
                if not is_chosen or (is_long and alternative.may_be_meant):
                    continue
                concerned = frozenset(other for other in way.nodes if alternative.concerns(self.model, other))
                is_last = len(concerned) > 1 and node == max(concerned, key=self.model.graph.order.__getitem__)
                together = [concerned] if is_last else []
                with np.errstate(all="ignore"), suppress(*_LACKING):
                    for attempt in alternative.attempts(self._call_at(way, node), self._implied(node, way.failing)):
                        for at in (frozenset({node}), *together):
                            change = _Change(at, alternative, attempt)
                            if not any(change.at & other.at for other in before):
                                outcomes += self._changed(way, node, (*before, change))
        return outcomes

    def _implied(self, node: Node, failing: _Failing) -> Array | None:
        """What a stage that was not captured must have been, where nothing but a bias was added to it."""
        graph = self.model.graph
        if graph[failing.node.stage].op is not Op.BIAS or graph.inputs(failing.node) != (node,):
            return None
        bias = np.concatenate([weight.dequantize().reshape(-1) for weight in self.model.params(failing.node)])
        return np.asarray(failing.found - bias, np.float32)

    def _call_at(self, way: _Way, node: Node) -> StageCall:
        failing = way.failing
        count = failing.found.shape[-2] if node == failing.node else len(self.stages.tokens)
        position = len(self.stages.tokens) - count
        return replace(
            failing.call, node=node, inputs=tuple(way.recomputer.inputs(node, count)),
            tokens=self.stages.tokens[position:], position=position, seen=_WithWay(way.values, self._seen),
        )  # fmt: skip

    def _changed(self, way: _Way, node: Node, changes: Sequence[_Change]) -> Iterator[_Outcome]:
        """What comes of a failing stage through changed nodes: those before the first of them are known."""
        failing, order = way.failing, self.model.graph.order

        def other(angles: RopeAngles) -> NodeEvaluator:
            engine: NodeEvaluator = self.evaluators(angles)
            for change in changes:
                engine = AlternativeNodes(self.model, angles, engine, change.attempt.compute, change.at, self._seen)
            return engine

        first = min(order[at] for change in changes for at in change.at)
        known = {source: values for source, values in way.values.items() if order[source] < first}
        arithmetic = Recomputation(self.model, self.known.rounding, other, self.known.outputs)
        with suppress(*_LACKING):
            found = way.recomputer.from_known(arithmetic, known).recompute(failing.node, failing.found.shape[-2])
            if found.values.shape == failing.own.shape:
                values = np.ascontiguousarray(found.values)
                *_, last = changes
                alternative, attempt = last.alternative, last.attempt
                if len(changes) > 1:
                    alternative, attempt = _of_changes(changes)
                made = self._outcome(failing, alternative, attempt, values)
                parts = tuple(change.alternative for change in changes)
                at = sorted({one for change in changes for one in change.at}, key=order.__getitem__)
                yield replace(made, node=node, nodes=tuple(at), parts=parts, change=last)

    def _arithmetics(self, node: Node) -> Iterator[KnownArithmetic]:
        """The known arithmetic; where a mistake in all layers kept that of an op from being found, the usual ones."""
        op = self.model.graph[node.stage].op
        if op not in self.known.open_ops:
            yield self.known
            return
        if op in self._proving:
            yield self._proving[op]
        for changes in _OF_PRODUCTS if op in MATRIX_PRODUCTS else _OF_ATTENTION:
            if self._divides(node, changes):
                yield replace(self.known, rounding=replace(self.known.rounding, **changes), open_ops=frozenset())

    def _divides(self, node: Node, changes: Mapping[str, str]) -> bool:
        """Whether the inputs of a product can be cut into the blocks of a rounding."""
        in_blocks = changes.get("matmul_input", "").startswith("q8_")
        return not in_blocks or all(weight.columns % _BLOCK == 0 for weight in self.model.params(node))

    def _alternatives(self, node: Node) -> list[Alternative]:
        if self.model.graph[node.stage].op in MATRIX_PRODUCTS and self._products_are_others:
            return []
        return [alternative for alternative in ALTERNATIVES if alternative.concerns(self.model, node)]

    @property
    def _products_are_others(self) -> bool:
        return Recomputation(self.model, self.known.rounding, self.evaluators).changes_products

    def _by_known(self, failing: _Failing, proofs: Sequence[_Proof]) -> _Proof | None:
        """The cause of another stage, where it is the cause here: with the number that was solved there, which a stage
        that shows it less well would have solved as another."""
        numbers = {proof.best.attempt.words: proof.best for proof in proofs if proof.best.attempt.fitted}
        for best in numbers.values():
            if best.alternative.concerns(self.model, failing.node):
                values = self._values(failing, best.attempt, of_result=best.alternative.of_result)
                if values is not None:
                    outcome = self._outcome(failing, best.alternative, best.attempt, values)
                    if outcome.is_proved:
                        return _Proof(failing, outcome, ())
        words = {proof.best.attempt.words for proof in proofs}
        for same in {proof.best.alternative.name: proof.best.alternative for proof in proofs}.values():
            if not same.concerns(self.model, failing.node):
                continue
            outcomes = [one for one in self._tried(failing, [same]) if one.is_proved and one.attempt.words in words]
            if outcomes:
                return _Proof(failing, outcomes[0])
        return None

    def _prepared(self, stage: StageComparison, known: KnownArithmetic) -> _Failing:
        node, arithmetic = stage.node, Recomputation(self.model, known.rounding, self.evaluators, known.outputs)
        recomputer = Recomputer(self.model, self.stages, arithmetic)
        rows = self.stages.rows(node)
        position = len(self.stages.tokens) - rows
        own = np.ascontiguousarray(recomputer.recompute(node, rows).values)
        inputs, angles = recomputer.inputs(node, rows), RopeAngles(known.rounding.rope_angles)
        call = StageCall(
            self.model, angles, self.evaluators(angles), self._seen, node, tuple(inputs),
            self.stages.tokens[position:], position,
        )  # fmt: skip
        found = np.ascontiguousarray(self.stages.values(node))
        if known is self.known:
            bound = self.spreads.bound(node, Recomputed(own, stage.segment)).bound
        else:
            bound = replay_tolerance(self.model, node, (), known, len(self.stages.tokens)).bound
        return _Failing(stage, call, own, found, bound, known)

    def _tried(self, failing: _Failing, alternatives: Sequence[Alternative]) -> list[_Outcome]:
        return [
            outcome
            for one in alternatives
            for outcome in self._outcomes_of(failing, one, one.attempts(failing.given, failing.found))
        ]

    def _tried_in_pairs(self, failing: _Failing, outcomes: Sequence[_Outcome]) -> list[_Outcome]:
        """Two alternatives at once: of a matrix product those that come nearest, else all, with those of a few numbers;
        until two of them are proved."""
        alternatives = [one for one in self._alternatives(failing.node) if one not in ALONE]
        if self._is_product(failing.node):
            error, seconds = self._error(failing), [one for one in alternatives if one.name in _WITH_PRODUCTS]
            near = [one for one in outcomes if one.residue < error and one.alternative in alternatives]
            nearest = sorted(near, key=lambda one: one.residue)[:_FIRSTS]
            firsts = [(one.alternative, one.attempt) for one in nearest]
        else:
            seconds = alternatives
            firsts = [(one, attempt) for one in alternatives for attempt in distinct(one, failing.given, failing.found)]
        found: list[_Outcome] = []
        for first, attempt in firsts:
            for second in seconds:
                if second is not first and (second.of_result or not first.of_result):
                    attempts = together(attempt, second, failing.given, failing.found)
                    found += self._outcomes_of(failing, paired(first, second), attempts)
            if any(one.is_proved for one in found):
                break
        return sorted(found, key=lambda one: one.residue)[:_PAIRS]

    def _is_product(self, node: Node) -> bool:
        return self.model.graph[node.stage].op in MATRIX_PRODUCTS

    def _outcomes_of(
        self, failing: _Failing, alternative: Alternative, attempts: Iterable[Attempt]
    ) -> Iterator[_Outcome]:  # fmt: skip
        with np.errstate(all="ignore"), suppress(*_LACKING):
            for attempt in attempts:
                values = self._values(failing, attempt, of_result=alternative.of_result)
                if values is not None:
                    yield self._outcome(failing, alternative, attempt, values)

    def _values(self, failing: _Failing, attempt: Attempt, *, of_result: bool) -> Array | None:
        """What an attempt makes of the stage; None where it needs what the capture lacks."""
        node, call, model = failing.node, failing.call, self.model

        def other(angles: RopeAngles) -> NodeEvaluator:
            engine = self.evaluators(angles)
            return AlternativeNodes(model, angles, engine, attempt.compute, frozenset({node}), self._seen)

        evaluators: NodeEvaluators = other
        try:
            if of_result:
                values = attempt.compute(failing.given)
            else:
                if attempt.changed is not None:
                    call = attempt.changed(call)
                    model, engine = call.model, call.engine
                    evaluators = self.evaluators if model is self.model else lambda angles: engine
                run = Recomputation(model, failing.known.rounding, evaluators, failing.known.outputs)
                values = run.evaluate(node, call.inputs, call.tokens, call.position)
        except _LACKING:
            return None
        return None if values.shape != failing.own.shape else np.ascontiguousarray(values, np.float32)

    def _outcome(self, failing: _Failing, alternative: Alternative, attempt: Attempt, values: Array) -> _Outcome:
        residue = self._residue(failing.node, values, failing.found)
        refuted = self._refuted(failing, attempt, values, residue)
        change = _Change(frozenset({failing.node}), alternative, attempt)
        node = failing.node
        return _Outcome(node, alternative, attempt, residue, refuted, (node,), (alternative,), change)

    def _refuted(self, failing: _Failing, attempt: Attempt, values: Array, residue: float) -> str:
        """Why what an attempt leaves is no proof; empty where it is one."""
        own, by_place = self._error(failing), failing.comparison.verdict.metric is Metric.PLACE
        if residue == float("inf"):
            return "has NaN or Inf where the capture has none, or lacks them"
        if residue > failing.bound:
            return f"more than honest engines leave, {failing.bound:.2g}"
        if not by_place and residue * _FAR > own:
            return f"the model's own way leaves {own:.2g}, which is not {_FAR:g} times as much"
        if by_place and _left(values, failing.found) >= _left(failing.own, failing.found):
            return "the model's own way leaves no more"
        affected, enough = _affected(failing), _VALUES_A_NUMBER * attempt.fitted
        if affected < enough:
            solved = f"{counted(attempt.fitted, 'number')} that {'is' if attempt.fitted == 1 else 'are'} solved for"
            return f"{counted(affected, 'value')} off, of {enough} at least that would prove {solved}"
        place = self._standing_out(failing, values)
        return f"a place stands out in it: {place}" if place else ""

    def _error(self, failing: _Failing) -> float:
        return self._residue(failing.node, failing.own, failing.found)

    def _residue(self, node: Node, values: Array, found: Array) -> float:
        """Relative L2 of the worst token; inf where values are NaN or Inf on one side only."""
        metrics = measure(values, found, causal=self.model.graph[node.stage].is_attention_map).metrics
        error = metrics.token_rel_l2
        return float("inf") if metrics.mismatches else 0.0 if error is None else error

    def _standing_out(self, failing: _Failing, values: Array) -> str:
        """The place that stands out in what an alternative leaves; empty where none does."""
        node = failing.node
        first = len(self.stages.tokens) - failing.found.shape[-2]
        pair = StagePair(node, values, failing.found, self.model.graph[node.stage].axes, first, "")
        passed = StageVerdict(node, Verdict.PASS, Metric.TOKEN_REL_L2, 0.0, 0.0, failing.bound, "", Signal.INJECTED)
        judged = self.places.judged(pair, passed)
        return "" if judged.verdict is Verdict.PASS else judged.reason

    def _causes(self, proofs: Sequence[_Proof], compared: Sequence[StageComparison]) -> Iterator[Cause]:
        groups: dict[tuple[str, str], list[_Proof]] = {}
        for proof in proofs:
            groups.setdefault((proof.best.alternative.name, proof.best.attempt.words), []).append(proof)
        for (name, words), of_group in groups.items():
            nodes = tuple(dict.fromkeys(node for proof in of_group for node in proof.best.nodes))
            alike = tuple(dict.fromkeys(one.attempt.words for proof in of_group for one in proof.alike))
            yield Cause(
                name, words, of_group[0].best.alternative.advice, nodes, _is_everywhere(nodes, compared),
                max(self._error(proof.failing) for proof in of_group),
                max(proof.best.residue for proof in of_group),
                max(proof.failing.bound for proof in of_group), alike, self._told_apart_by(of_group) if alike else "",
                apart=tuple(self._uncaptured(of_group)),
            )  # fmt: skip

    def _uncaptured(self, proofs: Sequence[_Proof]) -> list[Node]:
        """Of stages at which alternatives differ that come out alike, those that were not captured."""
        nodes = dict.fromkeys(one.node for p in proofs if p.alike for one in (p.best, *p.alike))
        return [node for node in nodes if not self.stages.rows(node)]

    def _told_apart_by(self, proofs: Sequence[_Proof]) -> str:
        """What would tell alternatives apart that come out alike: the stages at which they differ, or other values."""
        missing = dict.fromkeys(node.stage for node in self._uncaptured(proofs))
        if missing:
            return f"{listed(missing)} of the same run"
        return f"a longer prompt than these {counted(len(self.stages.tokens), 'token')}, if anything does"


def _of_changes(changes: Sequence[_Change]) -> tuple[Alternative, Attempt]:
    """Changes of several nodes as one, in words that say where each is."""
    names = [f"{listed(dict.fromkeys(at.stage for at in change.at))}: {change.attempt.words}" for change in changes]
    last = changes[-1].attempt
    alternative = replace(
        changes[-1].alternative, name=" and ".join(change.alternative.name for change in changes),
        advice="; ".join(change.alternative.advice for change in changes),
    )  # fmt: skip
    return alternative, replace(last, words="; and ".join(names), fitted=sum(c.attempt.fitted for c in changes))


def _affected(failing: _Failing) -> int:
    """How many values are off by more than rounding."""
    own, found = failing.own.astype(np.float64), failing.found.astype(np.float64)
    finite = np.isfinite(own) & np.isfinite(found)
    typical = np.sqrt(np.mean(own[finite] ** 2)) if finite.any() else 0.0
    off = np.abs(own - found)[finite] > failing.bound * typical
    return int(off.sum() + (np.isfinite(own) != np.isfinite(found)).sum())


def _left(values: Array, found: Array) -> float:
    difference = values.astype(np.float64) - found
    return float((difference[np.isfinite(difference)] ** 2).sum())


def _proof(failing: _Failing, outcomes: Sequence[_Outcome]) -> _Proof | None:
    """The first of the alternatives that come nearest, in the order of their table, and the others of them."""
    proved = [outcome for outcome in outcomes if outcome.is_proved]
    if not proved:
        return None
    nearest = min(outcome.residue for outcome in proved)
    near = [one for one in proved if one.residue <= max(_AS_NEAR * nearest, _FLOAT32)]
    fewest = min(one.attempt.fitted for one in near)
    best, *others = [one for one in near if one.attempt.fitted <= fewest + _MORE_NUMBERS]
    return _Proof(failing, best, tuple({one.attempt.words: one for one in others}.values()))


def _records(node: Node, outcomes: Sequence[_Outcome]) -> Iterator[TriedAlternative]:
    for one in sorted(outcomes, key=lambda outcome: outcome.residue):
        yield TriedAlternative(one.node, node, one.alternative.name, one.attempt.words, one.residue, one.refuted)


def _is_everywhere(nodes: Sequence[Node], compared: Sequence[StageComparison]) -> bool:
    """Whether `nodes` are all compared layers of their stages, of which there are several."""
    stages = {node.stage for node in nodes}
    covered = {node for stage in compared for node in (*stage.segment, stage.node)}
    having = {node for node in covered if node.stage in stages}
    return len({node.layer for node in nodes}) > 1 and having == set(nodes)
