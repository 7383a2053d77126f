"""Comparing two captures: tokens first, then stage by stage in execution order, then one verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aprtui.compare.comparison import Comparison, Divergence, Focus, FocusKind, StageComparison
from aprtui.compare.coverage import Coverage, Selection, blame, plan_coverage
from aprtui.compare.focus import choose_focus
from aprtui.compare.hints import find_hints
from aprtui.compare.locate import first_failing_place, top_elements
from aprtui.compare.metrics import compare_values
from aprtui.compare.pairing import StagePair, Unpaired, pair_stage
from aprtui.compare.reading import NOT_WRITTEN, is_unfinished
from aprtui.compare.tokens import TokenAlignment, align_tokens
from aprtui.compare.verdict import DEFAULT_METRIC, Tolerance, Verdict, judge, smallest_tolerance
from aprtui.compare.wording import counted
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
    focus = choose_focus(coverage.graph, stages, verdict)
    pair = _pair(a, b, focus.node, coverage, alignment) if focus else None
    metric = options.tolerances[0].metric if options.tolerances else DEFAULT_METRIC
    return Comparison(
        verdict=verdict,
        reasons=() if verdict is Verdict.FAIL else reasons,
        alignment=alignment,
        stages=tuple(stages),
        skipped=tuple(skipped),
        compared=len(stages),
        expected=expected,
        allowed_missing=len(coverage.allowed.difference(stage.node for stage in stages)),
        unfinished=_unfinished(a, b),
        first_divergence=_divergence(a, b, coverage, stages, focus, pair),
        focus=focus,
        elements=top_elements(pair, options.limit) if isinstance(pair, StagePair) else (),
        hints=find_hints(coverage.graph, stages),
        metric=metric,
        smallest=smallest_tolerance((stage.metrics for stage in stages), metric),
    )


def _pair(a: Capture, b: Capture, node: Node, coverage: Coverage, alignment: TokenAlignment) -> StagePair | Unpaired:
    in_a, in_b = node in a.files, node in b.files
    if not in_a or not in_b:
        side = "a" if in_a else "b" if in_b else None
        lost = [name for name, capture in (("A", a), ("B", b)) if _is_lost(capture, node)]
        if lost:
            return Unpaired(node, side, f"{NOT_WRITTEN} ({' and '.join(lost)})")
        return Unpaired(node, side, f"in {side.upper()} only" if side else "promised, in neither capture")
    if not alignment.comparable:
        return Unpaired(node, None, "positions are not aligned")
    return pair_stage(a, b, coverage.graph[node.stage], node, alignment)


def _is_lost(capture: Capture, node: Node) -> bool:
    return node not in capture.files and is_unfinished(capture) and node in capture.promised


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
    reasons += [f"{side} is incomplete: its run did not finish" for side in _unfinished(a, b)]
    missing = expected - len(stages)
    if missing:
        reasons.append(f"{missing} of {counted(expected, 'expected stage')} could not be compared")
    unjudged = [stage for stage in stages if stage.verdict.verdict is Verdict.UNKNOWN]
    differing = sum(stage.metrics.compared > 0 for stage in unjudged)
    if differing:
        of = f"{differing} of {counted(len(stages), 'stage')}"
        reasons.append(f"values differ in {of}, and no tolerance says how far they may")
    if differing < len(unjudged):
        silent = len(unjudged) - differing
        reasons.append(f"{counted(silent, 'stage')} {'has' if silent == 1 else 'have'} no finite value to compare")
    return tuple(reasons)


def _overall(stages: Sequence[StageComparison], alignment: TokenAlignment, reasons: Sequence[str]) -> Verdict:
    failed = any(stage.verdict.verdict is Verdict.FAIL for stage in stages)
    if failed and not alignment.proven_different:
        return Verdict.FAIL
    return Verdict.UNKNOWN if reasons else Verdict.PASS


def _unfinished(a: Capture, b: Capture) -> tuple[str, ...]:
    return tuple(side for side, capture in (("A", a), ("B", b)) if is_unfinished(capture))


def _divergence(
    a: Capture,
    b: Capture,
    coverage: Coverage,
    stages: Sequence[StageComparison],
    focus: Focus | None,
    pair: StagePair | Unpaired | None,
) -> Divergence | None:
    if focus is None or focus.kind is not FocusKind.DIVERGENCE:
        return None
    assert isinstance(pair, StagePair), "a stage that failed was compared"
    failed = next(stage for stage in stages if stage.node == focus.node)
    not_selected = (a.files.keys() & b.files.keys()).difference(coverage.nodes)
    blamed = blame(coverage.graph, focus.node, {stage.node for stage in stages}, not_selected)
    place = first_failing_place(pair, failed.metrics, failed.verdict)
    return Divergence(failed.verdict, place, blamed.segment, blamed.not_selected)
