"""Comparing two captures: tokens first, then stage by stage in execution order, then one verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from aprtui.compare.align.coverage import Coverage, Selection, plan_coverage, unavailable_in
from aprtui.compare.align.expert_order import in_expert_order_of_a
from aprtui.compare.align.layer_numbers import counted_from_one
from aprtui.compare.align.mapping import StageMapping, mapped
from aprtui.compare.align.pair_layouts import find_pair_layouts, find_swaps, in_layout_of_a
from aprtui.compare.align.pairing import StagePair, Unpaired, pair_stage
from aprtui.compare.align.saved_as_inf import is_saved_as_inf, saved_as_inf_statement, without_saved_as_inf
from aprtui.compare.align.served_logits import served_alike
from aprtui.compare.align.tokens import USER_SOURCE, TokenAlignment, align_tokens
from aprtui.compare.choice import judge_choice_of_groups
from aprtui.compare.comparison import Cause, Comparison, Everywhere, StageComparison, TriedAlternative
from aprtui.compare.conclusion import Findings, conclude
from aprtui.compare.deviations import deviations_in
from aprtui.compare.explain.locate import most_differing_place, with_experts
from aprtui.compare.metrics.logits import measure_indices, measure_logits
from aprtui.compare.metrics.measure import Metric, PairMetrics, measure
from aprtui.compare.survey import NOT_WRITTEN, is_unfinished
from aprtui.compare.verdict import DEFAULT_METRIC, StageVerdict, Tolerance, Verdict, is_plausible, judge, judge_indices
from aprtui.progress import Progress
from aprtui.trace.capture import Capture
from aprtui.trace.graph.config import ExpertGroups
from aprtui.trace.graph.ops import Axis, Op
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph

Bounds = Callable[[Node], Sequence[Tolerance]]
"""The bounds of each stage; none for a stage where nothing says how far it may differ."""
Gate = Callable[[StagePair, PairMetrics], str | None]
"""A further test of a stage that is within its bounds: the reason why it fails all the same, or None."""


PROVEN = "yet each side's stages follow from their own inputs, all of them: what came in has grown, and is no fault"


@dataclass(frozen=True, slots=True)
class DiffOptions:
    """What the user asked for. `tokens`, from `token_source`, are for sides that record none; `limit` is the number of
    elements listed of the stage to look at first."""

    selection: Selection = field(default_factory=Selection)
    tolerances: tuple[Tolerance, ...] = ()
    allow_missing: tuple[str, ...] = ()
    tokens: tuple[int, ...] | None = None
    token_source: str = USER_SOURCE
    limit: int = 10
    mapping: StageMapping = field(default_factory=StageMapping)
    extras: bool = False
    shared_tokens: bool = False
    """Whether tokens that one side alone has are meant to be left out, rather than a reason for UNKNOWN."""


@dataclass(frozen=True, slots=True)
class Criteria:
    """What a comparison is judged by beyond the user's tolerances.

    Either `bounds` from floors or a policy, with a `gate` behind them, or the verdicts of a replay on each stage
    (`injected`, of side A and B), which then decide. `statements` tell the reader what was taken. `doubts` are reasons
    for UNKNOWN; an `unjudgeable` comparison cannot FAIL either. `widths` are those that the model's stages have, which
    tell rows in captures that state no shapes. `everywhere` are errors of a side that no single stage is to blame for.
    `causes` were proved by replays of the sides, and `alternatives` tried there.
    `proven` are stages that follow from their inputs on both sides, as all before them do: no floor fails them.
    `groups` are those that the model chooses its experts by, for captures that do not state its dimensions.
    """

    bounds: Bounds | None = None
    gate: Gate | None = None
    injected: Mapping[Node, tuple[StageVerdict | None, StageVerdict | None]] | None = None
    statements: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    unjudgeable: bool = False
    widths: Mapping[str, int] = field(default_factory=dict)
    everywhere: tuple[Everywhere, ...] = ()
    causes: tuple[Cause, ...] = ()
    alternatives: tuple[TriedAlternative, ...] = ()
    proven: frozenset[Node] = frozenset()
    groups: ExpertGroups | None = None


NO_CRITERIA = Criteria()


def compare_captures(
    a: Capture, b: Capture, options: DiffOptions, progress: Progress | None = None, criteria: Criteria = NO_CRITERIA
) -> Comparison:
    """Compare capture `b` with the reference `a`.

    A file that cannot be read costs its stage. Raises `UsageError` for a request that fits neither capture.
    """
    if options.mapping != StageMapping():
        b = mapped(b, a.graph, options.mapping)
    if not criteria.unjudgeable and (problem := counted_from_one(a, b)):
        criteria = replace(criteria, doubts=(*criteria.doubts, problem), unjudgeable=True)
    coverage = plan_coverage(a, b, options.selection, options.allow_missing)
    alignment = align_tokens(a, b, options.tokens)
    left, right = (options.token_source if source == USER_SOURCE else source for source in alignment.sources)
    alignment = replace(alignment, sources=(left, right), shared_only=options.shared_tokens)

    def as_captured(node: Node) -> StagePair | Unpaired:
        return _pair(a, b, node, coverage, alignment, criteria.widths)

    layouts = find_pair_layouts(a, b, coverage.graph, as_captured, options.mapping.layouts)
    saved_as_inf: set[Node] = set()

    def pair_of(node: Node) -> StagePair | Unpaired:
        pair = as_captured(node)
        if isinstance(pair, Unpaired):
            return pair
        pair = in_expert_order_of_a(in_layout_of_a(pair, layouts), coverage.graph, as_captured)
        if not (np.isinf(pair.a).any() or np.isinf(pair.b).any()):
            return pair
        finite = without_saved_as_inf(pair, *(is_saved_as_inf(side, node, coverage.graph) for side in (a, b)))
        if finite is not pair:
            saved_as_inf.add(node)
        return finite

    stages: list[StageComparison] = []
    skipped: list[Unpaired] = []
    for done, node in enumerate(coverage.nodes):
        if progress:
            progress(f"comparing {node},", done, len(coverage.nodes))
        pair = pair_of(node)
        if isinstance(pair, Unpaired):
            skipped.append(pair)
        else:
            stages.append(_compare(pair, coverage.graph, options.tolerances, criteria, pair_of))
    metric = options.tolerances[0].metric if options.tolerances else DEFAULT_METRIC
    # Names may be exchanged only where sides are far apart.
    far = [stage.node for stage in stages if not is_plausible(stage.metrics)]
    statements = [*criteria.statements, *find_swaps(coverage.graph, far, pair_of)]
    if saved_as_inf:
        statements.append(saved_as_inf_statement(saved_as_inf))
    reasons = dict.fromkeys(stage.verdict.reason for stage in stages)
    statements += deviations_in(reasons)
    findings = Findings(
        coverage.graph, alignment, stages, skipped, coverage.owed(skipped), coverage.allowed,
        tuple(side for side, capture in (("A", a), ("B", b)) if is_unfinished(capture)),
        frozenset((a.files.keys() & b.files.keys()).difference(coverage.nodes)),
        stages[0].verdict.metric if stages and criteria.bounds else metric, options.limit,
        tuple(statements), (*criteria.doubts, *(capture.ranks_differ for capture in (a, b) if capture.ranks_differ)),
        criteria.unjudgeable, extras=options.extras, rank_parts={**a.rank_parts, **b.rank_parts},
        everywhere=criteria.everywhere, causes=criteria.causes, alternatives=criteria.alternatives,
    )  # fmt: skip
    return conclude(findings, pair_of)


def _pair(
    a: Capture, b: Capture, node: Node, coverage: Coverage, alignment: TokenAlignment, widths: Mapping[str, int]
) -> StagePair | Unpaired:
    in_a, in_b = node in a.files, node in b.files
    if not in_a or not in_b:
        side = "a" if in_a else "b" if in_b else None
        lost = [
            name
            for name, capture in (("A", a), ("B", b))
            if node not in capture.files and is_unfinished(capture) and node in capture.promised
        ]
        if lost:
            return Unpaired(node, side, f"{NOT_WRITTEN} ({' and '.join(lost)})")
        why = unavailable_in(node, a, b)
        only = f"in {side.upper()} only" if side else "promised, in neither capture"
        return Unpaired(node, side, only if why is None else f"{only}; the other side's manifest: {why}")
    if alignment.aligned == 0:
        return Unpaired(node, None, "positions are not aligned")
    stage = coverage.graph[node.stage]
    pair = pair_stage(a, b, replace(stage, width=widths.get(stage.name, stage.width)), node, alignment)
    return served_alike(pair) if isinstance(pair, StagePair) and stage.holds_logits else pair


def _compare(
    pair: StagePair, graph: StageGraph, tolerances: Sequence[Tolerance], criteria: Criteria,
    pair_of: Callable[[Node], StagePair | Unpaired],
) -> StageComparison:  # fmt: skip
    measured = measure(pair.a, pair.b, causal=pair.causal)
    bounds = [*tolerances, *(criteria.bounds(pair.node) if criteria.bounds else ())]
    if graph[pair.node.stage].holds_indices:
        groups = criteria.groups or (None if graph.config is None else graph.config.expert_groups)
        verdict = _judged_choice(pair, _routers(pair.node, graph, pair_of), groups)
    else:
        verdict = _judged(pair, measured.metrics, bounds, criteria)
        if pair.node in criteria.proven and not tolerances:
            verdict = _as_proven(verdict)
    injected = (criteria.injected or {}).get(pair.node, (None, None))
    if criteria.injected is not None:
        verdict = _decisive(injected) or verdict
    return StageComparison(
        pair.node, measured.metrics, measured.tokens, verdict, pair.matched, pair.a.shape, pair.first_token,
        injected=injected, logits=measure_logits(pair.a, pair.b) if Axis.VOCABULARY in pair.axes else None,
        place=with_experts(most_differing_place(pair, measured.metrics), pair, graph[pair.node.stage], pair_of),
    )  # fmt: skip


def _judged_choice(pair: StagePair, routers: Iterable[StagePair], groups: ExpertGroups | None) -> StageVerdict:
    """The verdict on indices; where both sides hold their routers, in the light of those."""
    for router in routers:
        if pair.a.ndim == 2 and router.a.shape[:-1] == pair.a.shape[:-1]:
            return judge_choice_of_groups(pair.node, pair.a, pair.b, router.a, router.b, groups)
    return judge_indices(pair.node, measure_indices(pair.a, pair.b))


def _routers(
    node: Node, graph: StageGraph, pair_of: Callable[[Node], StagePair | Unpaired]
) -> Iterator[StagePair]:  # fmt: skip
    """What the choice `node` was made by, where both sides have it: probabilities, else the logits of them, whose order
    is the same. transformers keeps its probabilities to itself."""
    for source in graph.inputs(node):
        found = pair_of(source)
        if isinstance(found, StagePair):
            yield found
        elif graph[source.stage].op is Op.ROUTER_SOFTMAX:
            yield from _routers(source, graph, pair_of)


def _judged(pair: StagePair, metrics: PairMetrics, bounds: Sequence[Tolerance], criteria: Criteria) -> StageVerdict:
    verdict = judge(pair.node, metrics, bounds)
    if criteria.gate is None or verdict.verdict is not Verdict.PASS or metrics.equal:
        return verdict
    failure = criteria.gate(pair, metrics)
    return verdict if failure is None else replace(verdict, verdict=Verdict.FAIL, reason=failure)


def _as_proven(verdict: StageVerdict) -> StageVerdict:
    if verdict.verdict is not Verdict.FAIL or verdict.metric is Metric.NON_FINITE:
        return verdict
    reason = f"{verdict.reason} ({verdict.bound:.3g}), {PROVEN}"
    return replace(verdict, verdict=Verdict.PASS, bound=None, reason=reason)


def _decisive(injected: tuple[StageVerdict | None, StageVerdict | None]) -> StageVerdict | None:
    """The verdict of the side that decides: a FAIL of either side, then an UNKNOWN of either side, else that of B."""
    for verdict in (Verdict.FAIL, Verdict.UNKNOWN):
        for side in reversed(injected):
            if side is not None and side.verdict is verdict:
                return side
    return injected[1] or injected[0]
