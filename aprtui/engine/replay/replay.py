"""The walk of a replay: every captured stage against what its own captured inputs give.

The reference (side A) is what the model makes of the inputs, side B the capture; their difference is the error that
each stage injects. One capture and its model suffice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.align.coverage import Coverage, Selection, plan_coverage
from aprtui.compare.align.pairing import StagePair, Unpaired
from aprtui.compare.align.saved_as_inf import saved_as_inf_statement, without_saved_as_inf
from aprtui.compare.align.tokens import USER_SOURCE, TokenAlignment
from aprtui.compare.captures import Bounds, Criteria
from aprtui.compare.choice import judge_choice
from aprtui.compare.comparison import Comparison, Everywhere, StageComparison
from aprtui.compare.conclusion import Findings, conclude
from aprtui.compare.deviations import GROUPS_BY_TWO, deviations_in
from aprtui.compare.explain.locate import most_differing_place, with_experts
from aprtui.compare.left_zero import left_zero
from aprtui.compare.metrics.measure import Metric, measure
from aprtui.compare.survey import is_unfinished
from aprtui.compare.verdict import QUANTISED_OTHERWISE, Signal, StageVerdict, Verdict, judge
from aprtui.compare.wording import counted
from aprtui.engine.reference.ops import choose_experts
from aprtui.engine.replay.arithmetic import KnownArithmetic, NodeEvaluators, Recomputation
from aprtui.engine.replay.behind_layers import doubted_behind_layers
from aprtui.engine.replay.bounds import OUTPUT_STEP
from aprtui.engine.replay.causes.failing import SearchedRun
from aprtui.engine.replay.causes.finder import CauseFinder
from aprtui.engine.replay.common_error import CommonError
from aprtui.engine.replay.errors_by_place import ErrorsByPlace
from aprtui.engine.replay.identify import IdentifiedCapture, identify_capture
from aprtui.engine.replay.misfit import misfit, padding
from aprtui.engine.replay.not_selected import NotSelected, passes
from aprtui.engine.replay.other_layers import OtherLayers
from aprtui.engine.replay.place import captured_range, position_ranges, row_positions
from aprtui.engine.replay.recompute import CapturedStages, Misfit, Recomputed, Recomputer
from aprtui.engine.replay.spread import Spreads
from aprtui.engine.replay.token_ids import TABLE_SOURCE, tokens_of
from aprtui.engine.weight_rounding import OWN_WEIGHTS
from aprtui.model.model import Model
from aprtui.progress import Progress, no_progress
from aprtui.trace.capture import Capture
from aprtui.trace.graph.config import GroupScore
from aprtui.trace.graph.ops import MATRIX_PRODUCTS, Op
from aprtui.trace.graph.stage import Node

ANYWHERE = (
    "no stage shows that the capture begins with the first token{positions}: give the ids of all tokens from the first "
    "on with --tokens, and each sequence as a capture of its own"
)
_KNOWS_PLACE = frozenset({Op.ROPE, Op.POSITION_SCALE, Op.SCORES, Op.ATTEND})
"""Ops whose result depends on where a token stands, and on those before it."""

_FOREIGN_WEIGHTS = 0.9
"""Share of the matrix products that must be off, and nothing without weights, to say that the weights are others."""


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """The options of a replay; `rounding` is what `--rounding` states, the rest is found out. `bounds` are the user's
    own; where they give none for a stage, what honest engines inject is its bound."""

    selection: Selection = field(default_factory=Selection)
    rounding: Mapping[str, str] = field(default_factory=dict)
    bounds: Bounds | None = None
    allow_missing: tuple[str, ...] = ()
    tokens: tuple[int, ...] | None = None
    limit: int = 10


def replay_capture(
    capture: Capture, model: Model, options: ReplayOptions, evaluators: NodeEvaluators,
    progress: Progress | None = None, identified: IdentifiedCapture | None = None,
) -> Comparison:  # fmt: skip
    """Replay every selected stage of `capture` with the weights of `model`.

    `identified` is the capture on the same tokens, where its engine was found out before and no rounding is stated. A
    file that cannot be read costs its stage. Raises `UsageError` for a selection that selects nothing.
    """
    coverage = plan_coverage(capture, capture, options.selection, options.allow_missing)
    tokens, source = _tokens(capture, model, options)
    problem = misfit(capture, model, tokens)
    if problem is None and tokens is not None and source == TABLE_SOURCE:
        problem = padding(model, tokens)
    if tokens is None or problem:
        return _unjudged(capture, coverage, options, problem)
    held = captured_range(capture, model, tokens)
    tokens = tokens[: held.stop]
    if identified is None or tuple(identified.stages.tokens) != tokens or identified.stages.last != len(held):
        stages = CapturedStages(capture, model, tokens, last=len(held))
        identified = identify_capture(stages, options.rounding, evaluators, progress)
    return _Replay(capture, model, options, evaluators, coverage, source, held, identified).run(progress)


def _tokens(capture: Capture, model: Model, options: ReplayOptions) -> tuple[tuple[int, ...] | None, str]:
    if capture.tokens is not None:
        return capture.tokens, capture.token_source or ""
    if options.tokens is not None:
        return options.tokens, USER_SOURCE
    return tokens_of(capture, model), TABLE_SOURCE


def _unjudged(capture: Capture, coverage: Coverage, options: ReplayOptions, problem: str | None) -> Comparison:
    alignment = TokenAlignment(0, (None, None), (None, None), problem)
    skipped = [Unpaired(node, None, "cannot be recomputed") for node in coverage.nodes]
    findings = Findings(
        coverage.graph, alignment, (), skipped, coverage.expected, coverage.allowed, _unfinished(capture),
        frozenset(), Metric.TOKEN_REL_L2, options.limit,
    )  # fmt: skip
    return conclude(findings, lambda node: Unpaired(node, None, "cannot be recomputed"))


def _unfinished(capture: Capture) -> tuple[str, ...]:
    return ("the capture",) if is_unfinished(capture) else ()


def _searched(known: KnownArithmetic) -> KnownArithmetic:
    """The arithmetic in which causes are looked for: with the model's own weights where an engine rounds them to the
    type that it keeps results in, which errs by more. Alternatives are computed with those."""
    rounding = known.rounding
    if rounding.weights == rounding.stage_output and rounding.weights in OUTPUT_STEP:
        return replace(known, rounding=replace(rounding, weights=OWN_WEIGHTS))
    return known


class _Replay:
    def __init__(
        self, capture: Capture, model: Model, options: ReplayOptions, evaluators: NodeEvaluators, coverage: Coverage,
        source: str, held: range, identified: IdentifiedCapture,
    ) -> None:  # fmt: skip
        self.capture, self.model, self.options, self.coverage = capture, model, options, coverage
        self.source, self.evaluators, self.held = source, evaluators, held
        self.stages, self.layouts, self.engine = identified.stages, identified.layouts, identified.engine
        self.tokens = tuple(self.stages.tokens)
        known = self.engine.arithmetic
        recomputation = Recomputation(model, known.rounding, evaluators, known.outputs)
        self.recomputer = Recomputer(model, self.stages, recomputation)
        self.spreads = Spreads(model, self.stages, known, evaluators)
        self.common = CommonError(model, self.stages, self.engine, evaluators)
        self.places = ErrorsByPlace(model, self.stages, known)
        self.others = OtherLayers(self.spreads)
        run = SearchedRun(model, self.stages, _searched(known), evaluators, self.spreads, options.rounding)
        self.causes = CauseFinder(run, self.places)

    def run(self, progress: Progress | None) -> Comparison:
        compared: list[StageComparison] = []
        skipped: list[Unpaired] = []
        for done, node in enumerate(self.coverage.nodes):
            if progress:
                progress(f"replaying {node},", done, len(self.coverage.nodes))
            result = self._compare(node)
            (skipped if isinstance(result, Unpaired) else compared).append(result)  # type: ignore[arg-type]
            if node.layer is not None:
                self.recomputer.forget_before(node.layer)
                self.spreads.forget_before(node.layer)
        selected = {stage.node for stage in compared}
        compared = self._with_what_they_rest_on(compared, progress)
        compared = self.others.judged(self._where_place_is_known(compared))
        doubts = tuple(self._doubts(compared))
        everywhere: tuple[Everywhere, ...] = ()
        if not self._bounded(compared):
            compared = self.common.judged(compared, foreign=bool(doubts))
            everywhere = tuple(f for f in self.common.findings(compared) if not selected.isdisjoint(f.nodes))
        compared = self._where_weights_are_known([stage for stage in compared if stage.node in selected])
        if not all(found.may_be_meant for found in everywhere):
            doubts = ()
        explained = frozenset(node for found in everywhere for node in found.nodes)
        found_causes = self.causes.find(compared, explained, progress or no_progress)
        compared = found_causes.judged(compared)
        compared = doubted_behind_layers(compared, self.stages, self.engine.rounding, self.engine.told)
        count = len(self.tokens)
        saved_as_inf = [stage.node for stage in compared if self.stages.is_saved_as_inf(stage.node)]
        found = [saved_as_inf_statement(saved_as_inf)] if saved_as_inf else []
        found += [f"{stage.node}: {words}" for stage in compared if (words := self.stages.served_as(stage.node))]
        found += deviations_in(dict.fromkeys(stage.verdict.reason for stage in compared))
        if self.model.rebuilt:
            found.append(self.model.rebuilt.statement)
        found += found_causes.statements
        if self.held.start:
            found.append(f"the capture holds tokens {self.held[0]} to {self.held[-1]} of the prompt")
        findings = Findings(
            self.model.graph, TokenAlignment(count, (count, count), (self.source, self.source)), compared, skipped,
            self.coverage.owed(skipped), self.coverage.allowed, _unfinished(self.capture),
            frozenset(self.capture.files.keys() - set(self.coverage.nodes)), Metric.TOKEN_REL_L2, self.options.limit,
            (*self.engine.statements, *self.layouts, *found), (*doubts, *self._of_ranks()),
            unjudgeable=bool(doubts) and not self.common.local, known=self._known, everywhere=everywhere,
            causes=found_causes.causes, alternatives=found_causes.alternatives, rank_parts=self.capture.rank_parts,
        )  # fmt: skip
        return conclude(findings, self._pair)

    def _with_what_they_rest_on(
        self, selected: Sequence[StageComparison], progress: Progress | None
    ) -> list[StageComparison]:  # fmt: skip
        """The `selected` stages, and those of the others that what is said of these rests on, in execution order."""
        nodes, graph = {stage.node for stage in selected}, self.model.graph
        others = [node for node in graph.nodes if node in self.capture.files and node not in nodes]
        rest = NotSelected(others, self._compare, progress)
        failed = [stage for stage in selected if stage.verdict.verdict is Verdict.FAIL]
        if self.engine.cause is not None and not nodes.isdisjoint(self.engine.cause.found.nodes):
            rest.look_at_all()
        if any(map(self._rests_on_weights, failed)) and not self._has_products_that_pass(selected, rest):
            rest.look_at_all()
        if self._is_place_open(selected):
            rest.look_until(lambda node: self._knows_place(node, self._segment(node)), passes)
        rest.look_at_stages({node.stage for node in self.others.beyond.keys() & nodes})
        return sorted([*selected, *rest.found.values()], key=lambda stage: graph.order[stage.node])

    def _has_products_that_pass(self, selected: Sequence[StageComparison], rest: NotSelected) -> bool:
        """Whether too many matrix products pass for all weights to be another model's."""
        own = [stage for stage in selected if self._is_product(stage.node)]
        count = len(own) + sum(map(self._is_product, rest.nodes))
        fewest = count - math.ceil(_FOREIGN_WEIGHTS * count) + 1 - sum(map(passes, own))
        return fewest <= 0 or rest.look_until(self._is_product, passes, fewest)

    def _of_ranks(self) -> tuple[str, ...]:
        return (self.capture.ranks_differ,) if self.capture.ranks_differ else ()

    def _bounded(self, compared: Sequence[StageComparison]) -> bool:
        """Whether the user's own bounds judge all of it."""
        bounds = self.options.bounds
        return bounds is not None and all(bounds(stage.node) for stage in compared)

    def _compare(self, node: Node) -> StageComparison | Unpaired:
        recomputed = self._recomputed(node)
        if isinstance(recomputed, Unpaired):
            return recomputed
        found = self._judged(node, recomputed, self.spreads)
        other = self.common.instead(node, recomputed) if found.verdict.verdict is not Verdict.PASS else None
        if other is None:
            if not self.options.bounds:
                self.others.look_at(recomputed, found.verdict)
            return found
        as_own = self._judged(node, *other)
        return as_own if as_own.verdict.verdict is Verdict.PASS else found

    def _judged(self, node: Node, recomputed: Recomputed, spreads: Spreads) -> StageComparison:
        pair = self._paired(node, recomputed)
        measured = measure(pair.a, pair.b, causal=pair.causal)
        given = self.options.bounds(node) if self.options.bounds else ()
        bounds = given or (spreads.close_bound(node, recomputed.segment),)
        if self.model.graph[node.stage].holds_indices:
            verdict = self._judged_choice(node, recomputed, pair)
        else:
            verdict = judge(node, measured.metrics, bounds)
            if not given and verdict.verdict is Verdict.FAIL and not measured.metrics.mismatches:
                verdict = judge(node, measured.metrics, (spreads.bound(node, recomputed),))
        if not given and not recomputed.segment:
            verdict = self.places.judged(pair, verdict)
        zeros = left_zero(pair) if not given and recomputed.segment and self._is_product(node) else None
        verdict = replace(zeros or verdict, signal=Signal.INJECTED)
        place = most_differing_place(pair, measured.metrics)
        return StageComparison(
            node, measured.metrics, measured.tokens, verdict, pair.matched, pair.a.shape, pair.first_token,
            segment=() if zeros else recomputed.segment,
            place=with_experts(place, pair, self.model.graph[node.stage], self._pair),
        )  # fmt: skip

    def _judged_choice(self, node: Node, recomputed: Recomputed, pair: StagePair) -> StageVerdict:
        (router,) = self.model.graph.inputs(node)
        rows = pair.b.shape[0]
        captured = self.stages.rows(router) >= rows
        probabilities = self.stages.values(router) if captured else self.recomputer.recompute(router, rows).values
        bound = self.spreads.close_bound(node, recomputed.segment).bound
        # The engine chose before its probabilities were stored in fewer digits.
        noise = bound + OUTPUT_STEP[self.engine.arithmetic.stored]
        routers = probabilities[-rows:]
        groups = self.model.config.graph.expert_groups
        verdict = judge_choice(node, pair.a, pair.b, routers, routers, noise, any_order=True, groups=groups)
        if groups is None or groups.score is GroupScore.TWO_LARGEST or verdict.verdict is not Verdict.FAIL:
            return verdict
        groups = replace(groups, score=GroupScore.TWO_LARGEST)
        expected = choose_experts(routers, pair.b.shape[1], groups)
        other = judge_choice(node, expected, pair.b, routers, routers, noise, any_order=True, groups=groups)
        return verdict if other.verdict is Verdict.FAIL else replace(other, reason=GROUPS_BY_TWO.said())

    def _where_place_is_known(self, compared: Sequence[StageComparison]) -> list[StageComparison]:
        """`compared`, but UNKNOWN what fails for where its tokens stand.

        The embedding tells which tokens they are, not what stood before them, and RoPE may show another place than the
        ids do; one stage that rests on the place of all tokens and passes settles it.
        """
        if not self._is_place_open(compared):
            return list(compared)
        positions = row_positions(self.stages, self.evaluators)
        shown = f", and RoPE turned its rows as of positions {position_ranges(positions)}" if positions else ""
        changes = {"verdict": Verdict.UNKNOWN, "reason": ANYWHERE.format(positions=shown)}
        return [
            replace(stage, verdict=replace(stage.verdict, **changes))  # type: ignore[arg-type]
            if stage.verdict.verdict is Verdict.FAIL and self._rests_on_place(stage)
            else stage
            for stage in compared
        ]

    def _is_place_open(self, compared: Sequence[StageComparison]) -> bool:
        """Whether some of `compared` fail that rest on where the tokens stand, and nothing tells that."""
        resting = [stage for stage in compared if self._rests_on_place(stage)]
        if not any(stage.verdict.verdict is Verdict.FAIL for stage in resting) or any(map(passes, resting)):
            return False
        positions = row_positions(self.stages, self.evaluators)
        expected = range(len(self.tokens) - len(positions or ()), len(self.tokens))
        stated = self.capture.manifest is not None or positions is None or positions == tuple(expected)
        return self.source == TABLE_SOURCE or not stated

    def _where_weights_are_known(self, compared: Sequence[StageComparison]) -> list[StageComparison]:
        """`compared`, but UNKNOWN what fails by a matrix whose quantised values lie otherwise in another file."""

        def is_open(stage: StageComparison) -> bool:
            failed = stage.verdict.verdict is Verdict.FAIL and stage.verdict.metric is not Metric.NON_FINITE
            return failed and any(map(self.model.uses_rebuilt, (*stage.segment, stage.node)))

        unknown = {"verdict": Verdict.UNKNOWN, "reason": QUANTISED_OTHERWISE}
        return [
            replace(stage, verdict=replace(stage.verdict, **unknown)) if is_open(stage) else stage  # type: ignore[arg-type]
            for stage in compared
        ]

    def _rests_on_place(self, stage: StageComparison) -> bool:
        return self._knows_place(stage.node, stage.segment)

    def _knows_place(self, node: Node, segment: Sequence[Node]) -> bool:
        return any(self.model.graph[one.stage].op in _KNOWS_PLACE for one in (*segment, node))

    def _segment(self, node: Node) -> tuple[Node, ...]:
        return self.recomputer.segment(node, self.stages.rows(node) or 1)

    def _is_product(self, node: Node) -> bool:
        return self.model.graph[node.stage].op in MATRIX_PRODUCTS

    def _recomputed(self, node: Node) -> Recomputed | Unpaired:
        if node.stage not in self.model.graph or node not in self.model.graph.order:
            return Unpaired(node, None, "the model has no such stage")
        if node not in self.capture.files:
            return Unpaired(node, None, "promised, not there")
        raw = self.stages.raw(node)
        if isinstance(raw, Misfit):
            return Unpaired(node, None, raw.reason)
        return self.recomputer.recompute(node, raw.shape[-2])

    def _paired(self, node: Node, recomputed: Recomputed) -> StagePair:
        stage = self.model.graph[node.stage]
        values = self.stages.values(node)
        matched = "from captured inputs"
        layout = self.stages.layouts.get(node)
        if layout is not None:
            matched = f"{matched}; B is A permuted: {layout.text}"
        if recomputed.segment:
            matched = f"through {counted(len(recomputed.segment), 'uncaptured stage')}"
        first = len(self.tokens) - values.shape[-2]
        pair = StagePair(node, np.ascontiguousarray(recomputed.values), values, stage.axes, first, matched)
        return without_saved_as_inf(pair, False, self.stages.is_saved_as_inf(node))

    def _pair(self, node: Node) -> StagePair | Unpaired:
        recomputed = self._recomputed(node)
        return recomputed if isinstance(recomputed, Unpaired) else self._paired(node, recomputed)

    def _known(self, node: Node) -> Mapping[str, NDArray[np.float32]]:
        """The bias that a stage adds, if it does."""
        if self.model.graph[node.stage].op is not Op.BIAS:
            return {}
        return {"bias": np.concatenate([weight.dequantize().reshape(-1) for weight in self.model.params(node)])}

    def _doubts(self, compared: Sequence[StageComparison]) -> Iterator[str]:
        """Whether what fails are the weights as a whole: then MODEL is not what the capture was made with."""
        failed = {stage.node for stage in compared if stage.verdict.verdict is Verdict.FAIL}
        matmuls = {stage.node for stage in compared if self._is_product(stage.node)}
        if len(matmuls) < 2 or len(failed & matmuls) < _FOREIGN_WEIGHTS * len(matmuls):
            return
        if all(self._rests_on_weights(stage) for stage in compared if stage.node in failed):
            yield (
                f"{len(failed & matmuls)} of {len(matmuls)} matrix products differ and nothing without weights does: "
                "the weights are not those of MODEL, or its inputs are rounded in a way that is not known here"
            )

    def _rests_on_weights(self, stage: StageComparison) -> bool:
        return any(self.model.params(node) for node in (*stage.segment, stage.node))


def criteria_by_replay(a: Comparison | None, b: Comparison | None) -> Criteria:
    """The results of the replays of A and B; None for a side without a model, whose stages stay unjudged.

    A side whose replay cannot be judged makes the comparison UNKNOWN.
    """
    sides = {"A": a, "B": b}
    statements = [
        f"{name}: {statement}" for name, side in sides.items() if side is not None for statement in side.statements
    ]
    doubts = [
        f"the replay of {name}: {reason}"
        for name, side in sides.items()
        if side is not None and side.verdict is Verdict.UNKNOWN
        for reason in side.reasons
    ]
    doubts += [f"{name} was not replayed: give its model" for name, side in sides.items() if side is None]
    found_a, found_b = _verdicts("A", a), _verdicts("B", b)
    injected = {node: (found_a.get(node), found_b.get(node)) for node in {**found_a, **found_b}}
    everywhere = tuple(
        replace(found, side=name) for name, side in sides.items() if side is not None for found in side.everywhere
    )
    replayed = [(name, side) for name, side in sides.items() if side is not None]
    return Criteria(
        injected=injected, statements=tuple(statements), doubts=tuple(doubts), unjudgeable=False, everywhere=everywhere,
        causes=tuple(replace(cause, side=name) for name, side in replayed for cause in side.causes),
        alternatives=tuple(replace(one, side=name) for name, side in replayed for one in side.alternatives),
    )  # fmt: skip


def _verdicts(name: str, side: Comparison | None) -> dict[Node, StageVerdict]:
    """The verdict on each stage of one side; the reason of a failure names the side."""
    if side is None or side.verdict is Verdict.UNKNOWN:
        return {}
    return {stage.node: of_side(name, stage.verdict) for stage in side.stages}


def of_side(name: str, verdict: StageVerdict) -> StageVerdict:
    """`verdict` of a replay of one side; the reason of a failure names the side."""
    failed = verdict.verdict is Verdict.FAIL
    return replace(verdict, reason=f"injected in {name}, {verdict.reason}") if failed else verdict
