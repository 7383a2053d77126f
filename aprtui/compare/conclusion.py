"""From judged stages to one conclusion: the verdict of the whole, the first divergence, the stage to look at first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.align.pairing import StagePair, Unpaired
from aprtui.compare.align.tokens import TokenAlignment
from aprtui.compare.causes import cause_of
from aprtui.compare.comparison import (
    Cause,
    Comparison,
    Divergence,
    Element,
    ErrorState,
    Everywhere,
    FloatSteps,
    Focus,
    FocusKind,
    Hypothesis,
    StageComparison,
    TriedAlternative,
)
from aprtui.compare.everywhere import failing_alike, sentence
from aprtui.compare.explain.classify import TokenJudgement, classify, tokens_beyond
from aprtui.compare.explain.focus import at_first_position, blame, choose_focus, first_failed
from aprtui.compare.explain.hints import find_hints
from aprtui.compare.explain.hypotheses import StageEvidence, hypothesise
from aprtui.compare.explain.locate import first_failing_place, top_elements, with_experts
from aprtui.compare.metrics.extras import ulp_histogram
from aprtui.compare.metrics.measure import Metric, PairMetrics
from aprtui.compare.verdict import NO_BOUND, ROUNDING_REL_L2, Signal, Tolerance, Verdict, judge, smallest_tolerance
from aprtui.compare.wording import NOTHING_COMPARED, UNBOUNDED, UNCOMPARED, counted
from aprtui.trace.graph.ops import PLACE_OPS
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph
from aprtui.trace.rank_parts import RankParts


@dataclass(frozen=True, slots=True)
class Findings:
    """What a comparison found, stage by stage, before anything is concluded.

    `expected` nodes must not be missing, `allowed` nodes may be. `unfinished` names the sides whose run did not finish.
    `not_selected` nodes could have been compared and were not asked for. `doubts` are further reasons for UNKNOWN; an
    `unjudgeable` comparison cannot FAIL either. `statements` go to the reader as they are. `known`, where given,
    returns the vectors that a stage is made with, as its bias. `extras` asks for the slower metrics of the stage in
    focus. `everywhere` are errors that no single stage is to blame for: with one, nothing passes. `causes` were proved
    and `alternatives` tried by a replay.
    """

    graph: StageGraph
    alignment: TokenAlignment
    stages: Sequence[StageComparison]
    skipped: Sequence[Unpaired]
    expected: frozenset[Node]
    allowed: frozenset[Node]
    unfinished: tuple[str, ...]
    not_selected: frozenset[Node]
    metric: Metric
    limit: int
    statements: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    unjudgeable: bool = False
    known: Callable[[Node], Mapping[str, NDArray[np.float32]]] | None = None
    extras: bool = False
    everywhere: tuple[Everywhere, ...] = ()
    causes: tuple[Cause, ...] = ()
    alternatives: tuple[TriedAlternative, ...] = ()
    rank_parts: Mapping[Node, RankParts] = field(default_factory=dict)
    """Which parts of stages are from which ranks."""


def conclude(findings: Findings, pair_of: Callable[[Node], StagePair | Unpaired]) -> Comparison:
    """The conclusion from `findings`; `pair_of` opens the stage in focus again, for its largest differences."""
    stages = _with_states(findings.graph, findings.stages)
    expected = len(findings.expected.union(stage.node for stage in stages))
    alignment = findings.alignment
    everywhere = findings.everywhere
    everywhere += tuple(found for found in failing_alike(findings.graph, stages) if not _is_part(found, everywhere))
    doubts = [*(_doubt(found) for found in findings.everywhere if found.may_be_meant), *findings.doubts]
    reasons = _unknown_reasons(alignment, doubts, findings.unfinished, expected, stages)
    verdict = Verdict.UNKNOWN if findings.unjudgeable else _overall(stages, alignment, reasons)
    explained = {node for cause in findings.causes for node in cause.nodes}
    alike = {node for found in everywhere for node in found.nodes} - explained
    focus = None if findings.unjudgeable else choose_focus(findings.graph, stages, verdict, alike)
    pair = pair_of(focus.node) if focus else None
    return Comparison(
        graph=findings.graph,
        verdict=verdict,
        reasons=() if verdict is Verdict.FAIL else reasons,
        alignment=alignment,
        stages=stages,
        skipped=tuple(findings.skipped),
        compared=len(stages),
        expected=expected,
        allowed_missing=len(findings.allowed.difference(stage.node for stage in stages)),
        unfinished=findings.unfinished,
        first_divergence=_divergence(findings, stages, focus, pair, pair_of),
        focus=focus,
        elements=_elements(findings, pair, pair_of),
        hints=find_hints(findings.graph, stages),
        metric=findings.metric,
        smallest=None if findings.unjudgeable else smallest_tolerance(_measured(stages), findings.metric),
        statements=findings.statements,
        hypotheses=_hypotheses(findings, stages, pair, pair_of) if verdict is Verdict.FAIL else (),
        steps=_steps(pair) if findings.extras and isinstance(pair, StagePair) else None,
        everywhere=everywhere if verdict is not Verdict.PASS else findings.everywhere,
        causes=findings.causes,
        alternatives=findings.alternatives,
        judgeable=not findings.unjudgeable,
    )


def _is_part(found: Everywhere, others: Sequence[Everywhere]) -> bool:
    return any(set(found.nodes) & set(other.nodes) for other in others)


def _doubt(found: Everywhere) -> str:
    """Why an error that may be meant keeps a verdict from PASS, and what settles it."""
    return f"{sentence(found)}{'; ' if found.settled_by else ''}{found.settled_by}"


def judge_by_bound(comparison: Comparison, bound: Tolerance) -> Comparison:
    """`comparison` judged again by one `bound` on the difference of all stages, as `--tolerance` does.

    Nothing is measured. In a comparison that was read back from its records, the tokens are not known, and every stage
    is judged as a whole. What depends on the values stays as it is: focus, elements and hints, and the hypotheses where
    they are about the stage that this bound blames.
    """
    if not comparison.judgeable:
        return comparison
    stages = _with_states(comparison.graph, [_by_bound(stage, bound) for stage in comparison.stages])
    alignment = comparison.alignment
    reasons = _unknown_reasons(alignment, (), comparison.unfinished, comparison.expected, stages)
    verdict = _overall(stages, alignment, reasons)
    divergence, hypotheses = None, comparison.hypotheses
    if verdict is Verdict.FAIL:
        failed = first_failed(stages)
        divergence = Divergence(
            failed.verdict, {}, (failed.node,), (), failed.state, "likely: judged here by whole stages",
            "comparing again by this bound, which judges each token",
        )  # fmt: skip
    if divergence is None or comparison.focus is None or comparison.focus.node != divergence.verdict.node:
        hypotheses = ()
    return replace(
        comparison,
        verdict=verdict,
        reasons=() if verdict is Verdict.FAIL else reasons,
        stages=stages,
        first_divergence=divergence,
        metric=bound.metric,
        hypotheses=hypotheses,
        smallest=smallest_tolerance(_measured(stages), bound.metric),
        everywhere=(),
        causes=(),
        alternatives=(),
    )


def _by_bound(stage: StageComparison, bound: Tolerance) -> StageComparison:
    if stage.verdict.metric is Metric.INDICES:
        return replace(stage, injected=(None, None))
    return replace(stage, verdict=judge(stage.node, stage.metrics, (bound,)), injected=(None, None))


def _measured(stages: Sequence[StageComparison]) -> Iterator[PairMetrics]:
    """The numbers of the stages that a tolerance judges: all but indices."""
    return (stage.metrics for stage in stages if stage.verdict.metric is not Metric.INDICES)


def _steps(pair: StagePair) -> FloatSteps:
    begin = time.perf_counter()
    histogram = ulp_histogram(pair.a, pair.b, causal=pair.causal)
    return FloatSteps(histogram, time.perf_counter() - begin)


def _hypotheses(
    findings: Findings, stages: Sequence[StageComparison], pair: StagePair | Unpaired | None,
    pair_of: Callable[[Node], StagePair | Unpaired],
) -> tuple[Hypothesis, ...]:  # fmt: skip
    """The signatures that the error of the `pair` in focus shows; none where its shape is unknown."""
    if not isinstance(pair, StagePair) or not pair.axes or not pair.a.size:
        return ()
    node = pair.node
    stage = findings.graph[node.stage]
    entry = next(entry for entry in stages if entry.node == node)
    judged = entry.verdict
    bound = judged.bound if judged.metric in (Metric.TOKEN_REL_L2, Metric.REL_L2) else None
    siblings = {
        str(other): found.a
        for other in _related(findings.graph, node)
        if isinstance(found := pair_of(other), StagePair) and found.a.shape == pair.a.shape
    }
    sized = replace(stage, width=pair.a.shape[0] if pair.causal else pair.a.shape[1])
    known = findings.known(node) if findings.known else {}
    config, rows = findings.graph.config, _worst(entry)
    ranks = findings.rank_parts.get(node)
    return hypothesise(
        StageEvidence(
            sized, config, pair.a, pair.b, bound or ROUNDING_REL_L2, siblings, known, rows, ranks,
            _sees_places(findings.graph, entry),
        )
    )  # fmt: skip


def _sees_places(graph: StageGraph, stage: StageComparison) -> bool:
    """Whether positions or other tokens may be what is wrong. Without a replay, the error may have come in."""
    if not stage.segment and stage.injected == (None, None):
        return True
    return any(graph[node.stage].op in PLACE_OPS for node in (stage.node, *stage.segment))


def _worst(stage: StageComparison) -> tuple[int, ...]:
    """Rows of the first and of the worst token that differ."""
    differing = np.flatnonzero(np.nan_to_num(stage.tokens) > 0)
    return (int(differing[0]), int(np.nanargmax(stage.tokens))) if differing.size else ()


def _related(graph: StageGraph, node: Node) -> Iterator[Node]:
    """The stages that a stage could be confused with: its inputs, its siblings, itself in the layer before."""
    yield from graph.inputs(node)
    yield from (Node(node.layer, stage.name) for stage in graph.siblings(node.stage))
    if node.layer:
        yield Node(node.layer - 1, node.stage)


def _with_states(graph: StageGraph, stages: Sequence[StageComparison]) -> tuple[StageComparison, ...]:
    states = classify(graph, {stage.node: _judgement(stage) for stage in stages})
    return tuple(replace(stage, state=states[stage.node]) for stage in stages)


def _judgement(stage: StageComparison) -> TokenJudgement:
    verdict = stage.verdict
    if verdict.signal is Signal.INJECTED:
        # Between two captures, an error that the replay does not find injected was inherited. In a replay of one
        # capture, all of the error was injected.
        inherited = stage.tokens > (ROUNDING_REL_L2 if any(stage.injected) else np.inf)
        beyond = None if verdict.verdict is Verdict.UNKNOWN else inherited
        return TokenJudgement(stage.first_token, beyond, injects=verdict.verdict is Verdict.FAIL)
    if not stage.tokens.size and verdict.verdict is not Verdict.UNKNOWN:
        # Read back from records: the whole stage counts as one token.
        return TokenJudgement(0, np.array([verdict.verdict is Verdict.FAIL]))
    return TokenJudgement(stage.first_token, tokens_beyond(verdict, stage.tokens))


def _unknown_reasons(
    alignment: TokenAlignment,
    doubts: Sequence[str],
    unfinished: Sequence[str],
    expected: int,
    stages: Sequence[StageComparison],
) -> tuple[str, ...]:
    """Every reason that keeps a verdict from PASS, the one that settles most first."""
    reasons = [alignment.doubt] if alignment.doubt else []
    reasons += doubts
    if not stages:
        reasons.append(NOTHING_COMPARED)
    reasons += [f"{side} is incomplete: its run did not finish" for side in unfinished]
    missing = expected - len(stages)
    if missing:
        reasons.append(f"{missing} of {counted(expected, 'expected stage')} {UNCOMPARED}")
    unknown = [stage for stage in stages if stage.verdict.verdict is Verdict.UNKNOWN]
    silent = [stage for stage in unknown if not stage.metrics.compared]
    differing = [stage for stage in unknown if stage.metrics.compared]
    unbounded = [stage for stage in differing if stage.verdict.reason.startswith(NO_BOUND)]
    by_reason: dict[str, list[Node]] = {}
    for stage in differing:
        if not stage.verdict.reason.startswith(NO_BOUND):
            by_reason.setdefault(stage.verdict.reason, []).append(stage.node)
    for reason, nodes in by_reason.items():
        reasons.append(f"{len(nodes)} of {counted(len(stages), 'stage')}, {nodes[0]} first: {reason}")
    if unbounded:
        of = f"{len(unbounded)} of {counted(len(stages), 'stage')}"
        reasons.append(f"{of} differ{'s' if len(unbounded) == 1 else ''}, {UNBOUNDED}")
    if silent:
        has = "has" if len(silent) == 1 else "have"
        reasons.append(f"{counted(len(silent), 'stage')} {has} no finite value to compare")
    return tuple(reasons)


def _overall(stages: Iterable[StageComparison], alignment: TokenAlignment, reasons: Sequence[str]) -> Verdict:
    """The verdict of the whole: where the sides were fed different tokens, a difference between them blames no side.

    What a stage adds to its own inputs does, whatever the tokens.
    """
    failed = [stage.verdict for stage in stages if stage.verdict.verdict is Verdict.FAIL]
    if any(verdict.signal is Signal.INJECTED for verdict in failed) or (
        failed and not (alignment.proven_different and alignment.doubt)
    ):
        return Verdict.FAIL
    return Verdict.UNKNOWN if reasons else Verdict.PASS


def _elements(
    findings: Findings, pair: StagePair | Unpaired | None, pair_of: Callable[[Node], StagePair | Unpaired]
) -> tuple[Element, ...]:
    """The elements of the `pair` in focus that differ most."""
    if not isinstance(pair, StagePair):
        return ()
    name = partial(with_experts, pair=pair, stage=findings.graph[pair.node.stage], pair_of=pair_of)
    return tuple(replace(found, place=name(found.place)) for found in top_elements(pair, findings.limit))


def _divergence(
    findings: Findings, stages: Sequence[StageComparison], focus: Focus | None, pair: StagePair | Unpaired | None,
    pair_of: Callable[[Node], StagePair | Unpaired],
) -> Divergence | None:  # fmt: skip
    if focus is None or focus.kind is not FocusKind.DIVERGENCE:
        return None
    assert isinstance(pair, StagePair), "a stage that failed was compared"
    failed = next(stage for stage in stages if stage.node == focus.node)
    compared = {stage.node for stage in stages}
    segment, not_selected = blame(findings.graph, focus.node, compared, findings.not_selected)
    if failed.verdict.signal is Signal.INJECTED and not any(failed.injected):
        # The replay evaluated exactly the stages that the capture lacks: nothing else can be to blame.
        segment, not_selected = (*failed.segment, failed.node), ()
        if _is_wrong_at_first(failed):
            segment = at_first_position(findings.graph, failed.node, segment)
    certainty, settled_by = _certainty(failed, segment)
    proved = cause_of(findings.causes, (failed.node, *segment))
    if proved is not None and len(segment) > 1:
        certainty = "certain: the cause reproduces what was captured; which stage on the way differs is not proved"
    elif len(segment) <= len(failed.segment):
        certainty += "; position 0 is wrong, where attention returns its value whatever queries, keys and mask are"
    place = first_failing_place(pair, failed.metrics, failed.verdict)
    return Divergence(
        failed.verdict, with_experts(place, pair, findings.graph[focus.node.stage], pair_of), segment, not_selected,
        failed.state, certainty, settled_by,
    )  # fmt: skip


def _is_wrong_at_first(failed: StageComparison) -> bool:
    """Whether the first position of the sequence is beyond the bound."""
    bound = failed.verdict.bound
    judged = failed.verdict.metric is Metric.TOKEN_REL_L2 and bound is not None
    return bool(judged and failed.first_token == 0 and failed.tokens.size and failed.tokens[0] > (bound or 0.0))


def _certainty(failed: StageComparison, segment: Sequence[Node]) -> tuple[str, str | None]:
    """How sure it is that `failed` is to blame, and what would settle it."""
    if len(segment) > 1:
        return "one of the stages in the segment is to blame", "capture the stages in between as well"
    if failed.verdict.metric is Metric.NON_FINITE and failed.state is ErrorState.INJECTED:
        return "certain: NaN or Inf appears here and in none of its inputs", None
    if failed.verdict.signal is Signal.INJECTED:
        return "certain: recomputed from what was captured", None
    settled_by = "a replay of each side with its model: --replay --model MODEL"
    if failed.state is ErrorState.INJECTED:
        return "likely: all that it is computed from is within bounds", settled_by
    return "open: what it is computed from is beyond its bound, or was not judged", settled_by
