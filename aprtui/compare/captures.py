"""Comparing two captures: tokens first, then stage by stage in execution order, then one verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aprtui.compare.coverage import Coverage, Selection, plan_coverage, segment
from aprtui.compare.locate import Element, first_failing_place, top_elements
from aprtui.compare.metrics import Metric, PairMetrics, compare_values
from aprtui.compare.pairing import StagePair, Unpaired, pair_stage
from aprtui.compare.tokens import TokenAlignment, align_tokens
from aprtui.compare.verdict import (
    DEFAULT_METRIC,
    StageVerdict,
    Tolerance,
    Verdict,
    judge,
    smallest_tolerance,
)
from aprtui.trace.capture import Capture
from aprtui.trace.graph import Node


@dataclass(frozen=True, slots=True)
class DiffOptions:
    """What the user asked for. `limit` is the number of elements shown of the first stage in question."""

    selection: Selection = field(default_factory=Selection)
    tolerances: tuple[Tolerance, ...] = ()
    allow_missing: tuple[str, ...] = ()
    tokens: tuple[int, ...] | None = None
    limit: int = 10


@dataclass(frozen=True, slots=True)
class StageComparison:
    """One compared stage: its numbers, its verdict, how the sides were matched and in which shape."""

    node: Node
    metrics: PairMetrics
    verdict: StageVerdict
    matched: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first divergent stage: where in it, and `segment`, the stages that could be to blame for it."""

    verdict: StageVerdict
    place: dict[str, int]
    segment: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that a comparison of two captures says; a report is a way to write it down.

    `metric` is the one that stages are ranked by, `smallest` the smallest tolerance of it that would pass all of them.
    `focus` is the stage that `elements` are of: the first divergent one, else the first that differs. `reasons` say why
    the verdict is UNKNOWN.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    alignment: TokenAlignment
    stages: tuple[StageComparison, ...]
    skipped: tuple[Unpaired, ...]
    compared: int
    expected: int
    first_divergence: Divergence | None
    focus: Node | None
    elements: tuple[Element, ...]
    metric: Metric
    smallest: Tolerance | None


def compare_captures(
    a: Capture, b: Capture, options: DiffOptions, progress: Callable[[str, int, int], None] | None = None
) -> Comparison:
    """Compare capture `b` with the reference `a`; `progress` is told what is done, how much of it, out of how many.

    Raises `UsageError` for a request that fits neither capture, and `UnreadableError` for broken files.
    """
    coverage = plan_coverage(a, b, options.selection, options.allow_missing)
    alignment = align_tokens(a, b, options.tokens)
    stages: list[StageComparison] = []
    skipped: list[Unpaired] = []
    pair: StagePair | Unpaired | None
    for done, node in enumerate(coverage.nodes):
        if progress:
            progress(f"comparing {node},", done, len(coverage.nodes))
        pair = _pair(a, b, node, coverage, alignment)
        if isinstance(pair, Unpaired):
            skipped.append(pair)
        else:
            stages.append(_compare(pair, options.tolerances))
    expected = len(coverage.expected.union(stage.node for stage in stages))
    reasons = _unknown_reasons(a, b, alignment, stages, expected)
    verdict = _overall(stages, alignment, reasons)
    focus = _focus(stages, verdict)
    pair = _pair(a, b, focus.node, coverage, alignment) if focus else None
    divergence = None
    if verdict is Verdict.FAIL and focus and isinstance(pair, StagePair):
        place = first_failing_place(pair, focus.metrics, focus.verdict)
        divergence = Divergence(focus.verdict, place, segment(coverage.graph, focus.node, {s.node for s in stages}))
    metric = options.tolerances[0].metric if options.tolerances else DEFAULT_METRIC
    return Comparison(
        verdict=verdict,
        reasons=() if verdict is Verdict.FAIL else reasons,
        alignment=alignment,
        stages=tuple(stages),
        skipped=tuple(skipped),
        compared=len(stages),
        expected=expected,
        first_divergence=divergence,
        focus=focus.node if focus else None,
        elements=top_elements(pair, options.limit) if isinstance(pair, StagePair) else (),
        metric=metric,
        smallest=smallest_tolerance((stage.metrics for stage in stages), metric),
    )


def _pair(a: Capture, b: Capture, node: Node, coverage: Coverage, alignment: TokenAlignment) -> StagePair | Unpaired:
    in_a, in_b = node in a.files, node in b.files
    if not in_a and not in_b:
        return Unpaired(node, None, "promised, in neither capture")
    if not in_b:
        return Unpaired(node, "a", "in A only")
    if not in_a:
        return Unpaired(node, "b", "in B only")
    if not alignment.comparable:
        return Unpaired(node, None, "positions are not aligned")
    return pair_stage(a, b, coverage.graph[node.stage], node, alignment)


def _compare(pair: StagePair, tolerances: Sequence[Tolerance]) -> StageComparison:
    metrics = compare_values(pair.a, pair.b, causal=pair.causal)
    verdict = judge(pair.node, metrics, tolerances)
    return StageComparison(pair.node, metrics, verdict, pair.matched, pair.a.shape)


def _unknown_reasons(
    a: Capture,
    b: Capture,
    alignment: TokenAlignment,
    stages: Sequence[StageComparison],
    expected: int,
) -> tuple[str, ...]:
    """Every reason that keeps the verdict from PASS, the one that settles most first."""
    reasons = [alignment.problem] if alignment.problem else []
    if not stages:
        reasons.append("nothing was compared")
    unfinished = [side for side, capture in (("A", a), ("B", b)) if capture.complete is False]
    reasons += [f"{side} is incomplete: its run did not finish" for side in unfinished]
    missing = expected - len(stages)
    if missing:
        reasons.append(f"{missing} of {expected} expected stages could not be compared")
    unjudged = [stage for stage in stages if stage.verdict.verdict is Verdict.UNKNOWN]
    differing = sum(stage.metrics.compared > 0 for stage in unjudged)
    if differing:
        reasons.append(f"values differ in {differing} of {len(stages)} stages, and no tolerance says how far they may")
    if differing < len(unjudged):
        reasons.append(f"{len(unjudged) - differing} stages have no finite value to compare")
    return tuple(reasons)


def _overall(stages: Sequence[StageComparison], alignment: TokenAlignment, reasons: Sequence[str]) -> Verdict:
    failed = any(stage.verdict.verdict is Verdict.FAIL for stage in stages)
    if failed and not alignment.proven_different:
        return Verdict.FAIL
    return Verdict.UNKNOWN if reasons else Verdict.PASS


def _focus(stages: Sequence[StageComparison], verdict: Verdict) -> StageComparison | None:
    for stage in stages:
        if verdict is Verdict.FAIL and stage.verdict.verdict is Verdict.FAIL:
            return stage
        if verdict is not Verdict.FAIL and stage.metrics.max_abs:
            return stage
    return None
