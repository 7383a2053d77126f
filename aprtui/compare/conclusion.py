"""From judged stages to one conclusion: the verdict of the whole, the first divergence, what to look at first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.align.coverage import blame
from aprtui.compare.align.pairing import StagePair, Unpaired
from aprtui.compare.align.tokens import TokenAlignment
from aprtui.compare.comparison import Comparison, Divergence, FloatSteps, Focus, FocusKind, StageComparison
from aprtui.compare.explain.classify import ErrorState, TokenJudgement, classify, tokens_beyond
from aprtui.compare.explain.focus import choose_focus
from aprtui.compare.explain.hints import find_hints
from aprtui.compare.explain.hypotheses import Hypothesis, StageEvidence, hypothesise
from aprtui.compare.explain.locate import first_failing_place, top_elements
from aprtui.compare.metrics.extras import ulp_histogram
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.verdict import ROUNDING_REL_L2, Signal, Verdict, smallest_tolerance
from aprtui.compare.wording import counted
from aprtui.trace.graph import Node, StageGraph


@dataclass(frozen=True, slots=True)
class Findings:
    """What a comparison found, stage by stage, before anything is concluded.

    `expected` nodes must not be missing, `allowed` may be. `unfinished` names the sides whose run did not finish.
    `not_selected` nodes could have been compared and were not asked for. `doubts` are further reasons for UNKNOWN, and
    where `unjudgeable` they keep a FAIL from being said too. `statements` are told to the reader as they are. `known`
    gives vectors that a stage is made with, as its bias, where somebody has them. `extras` asks for the slower looks at
    the stage in focus.
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


def conclude(findings: Findings, pair_of: Callable[[Node], StagePair | Unpaired]) -> Comparison:
    """The conclusion; `pair_of` opens the stage in focus once more, for its largest differences."""
    stages = _with_states(findings)
    expected = len(findings.expected.union(stage.node for stage in stages))
    reasons = _unknown_reasons(findings, stages, expected)
    verdict = _overall(findings, stages, reasons)
    focus = choose_focus(findings.graph, stages, verdict)
    pair = pair_of(focus.node) if focus else None
    return Comparison(
        verdict=verdict,
        reasons=() if verdict is Verdict.FAIL else reasons,
        alignment=findings.alignment,
        stages=stages,
        skipped=tuple(findings.skipped),
        compared=len(stages),
        expected=expected,
        allowed_missing=len(findings.allowed.difference(stage.node for stage in stages)),
        unfinished=findings.unfinished,
        first_divergence=_divergence(findings, stages, focus, pair),
        focus=focus,
        elements=top_elements(pair, findings.limit) if isinstance(pair, StagePair) else (),
        hints=find_hints(findings.graph, stages),
        metric=findings.metric,
        smallest=smallest_tolerance((stage.metrics for stage in stages), findings.metric),
        statements=findings.statements,
        hypotheses=_hypotheses(findings, stages, focus, pair_of) if verdict is Verdict.FAIL else (),
        steps=_steps(pair) if findings.extras and isinstance(pair, StagePair) else None,
    )


def _steps(pair: StagePair) -> FloatSteps:
    begin = time.perf_counter()
    histogram = ulp_histogram(pair.a, pair.b, causal=pair.causal)
    return FloatSteps(histogram, time.perf_counter() - begin)


def _hypotheses(
    findings: Findings,
    stages: Sequence[StageComparison],
    focus: Focus | None,
    pair_of: Callable[[Node], StagePair | Unpaired],
) -> tuple[Hypothesis, ...]:
    """What the error at the stage in focus looks like; nothing where its shape is unknown."""
    node = focus.node if focus else None
    pair = pair_of(node) if node else None
    if node is None or not isinstance(pair, StagePair) or not pair.axes or not pair.a.size:
        return ()
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
    return hypothesise(
        StageEvidence(
            sized, findings.graph.config, pair.a, pair.b, bound or ROUNDING_REL_L2, siblings, known, _worst(entry)
        )
    )


def _worst(stage: StageComparison) -> tuple[int, ...]:
    """Rows of the first and of the worst token that differ."""
    differing = np.flatnonzero(np.nan_to_num(stage.tokens) > 0)
    return (int(differing[0]), int(np.nanargmax(stage.tokens))) if differing.size else ()


def _related(graph: StageGraph, node: Node) -> Iterator[Node]:
    """What a stage could be confused with: its inputs, the products beside it, itself in the layer before."""
    yield from graph.inputs(node)
    yield from (Node(node.layer, stage.name) for stage in graph.siblings(node.stage))
    if node.layer:
        yield Node(node.layer - 1, node.stage)


def _with_states(findings: Findings) -> tuple[StageComparison, ...]:
    judged = {stage.node: _judgement(stage) for stage in findings.stages}
    states = classify(findings.graph, judged)
    return tuple(replace(stage, state=states[stage.node]) for stage in findings.stages)


def _judgement(stage: StageComparison) -> TokenJudgement:
    verdict = stage.verdict
    if verdict.signal is Signal.INJECTED:
        # Between two captures, what a replay does not find injected and is there was inherited; in a replay of one
        # capture all that is there was injected.
        inherited = stage.tokens > (ROUNDING_REL_L2 if any(stage.injected) else np.inf)
        beyond = None if verdict.verdict is Verdict.UNKNOWN else inherited
        return TokenJudgement(stage.first_token, beyond, injects=verdict.verdict is Verdict.FAIL)
    return TokenJudgement(stage.first_token, tokens_beyond(verdict, stage.tokens))


def _unknown_reasons(findings: Findings, stages: Sequence[StageComparison], expected: int) -> tuple[str, ...]:
    judged = [(stage.verdict.verdict, stage.metrics.compared > 0) for stage in stages]
    return unknown_reasons(findings.alignment.problem, findings.doubts, findings.unfinished, expected, judged)


def unknown_reasons(
    problem: str | None,
    doubts: Sequence[str],
    unfinished: Sequence[str],
    expected: int,
    judged: Sequence[tuple[Verdict, bool]],
) -> tuple[str, ...]:
    """Every reason that keeps a verdict from PASS, the one that settles most first.

    `problem` is of the alignment, `unfinished` are sides; `judged` are of each stage its verdict and whether it holds
    anything to compare.
    """
    reasons = [problem] if problem else []
    reasons += doubts
    if not judged:
        reasons.append("nothing was compared")
    reasons += [f"{side} is incomplete: its run did not finish" for side in unfinished]
    missing = expected - len(judged)
    if missing:
        reasons.append(f"{missing} of {counted(expected, 'expected stage')} could not be compared")
    unjudged = [comparable for verdict, comparable in judged if verdict is Verdict.UNKNOWN]
    differing = sum(unjudged)
    if differing:
        of = f"{differing} of {counted(len(judged), 'stage')}"
        reasons.append(f"values differ in {of}, and nothing says how far they may: no floor, policy or tolerance")
    if differing < len(unjudged):
        silent = len(unjudged) - differing
        reasons.append(f"{counted(silent, 'stage')} {'has' if silent == 1 else 'have'} no finite value to compare")
    return tuple(reasons)


def _overall(findings: Findings, stages: Sequence[StageComparison], reasons: Sequence[str]) -> Verdict:
    unjudgeable = findings.alignment.proven_different or findings.unjudgeable
    return overall((stage.verdict.verdict for stage in stages), unjudgeable, reasons)


def overall(verdicts: Iterable[Verdict], unjudgeable: bool, reasons: Sequence[str]) -> Verdict:
    """The verdict of the whole; where it is `unjudgeable`, as of different tokens, it cannot be FAIL."""
    if Verdict.FAIL in verdicts and not unjudgeable:
        return Verdict.FAIL
    return Verdict.UNKNOWN if reasons else Verdict.PASS


def _divergence(
    findings: Findings, stages: Sequence[StageComparison], focus: Focus | None, pair: StagePair | Unpaired | None
) -> Divergence | None:
    if focus is None or focus.kind is not FocusKind.DIVERGENCE:
        return None
    assert isinstance(pair, StagePair), "a stage that failed was compared"
    failed = next(stage for stage in stages if stage.node == focus.node)
    blamed = blame(findings.graph, focus.node, {stage.node for stage in stages}, findings.not_selected)
    segment, not_selected = blamed.segment, blamed.not_selected
    if failed.verdict.signal is Signal.INJECTED:
        # A replay evaluated through exactly what the capture lacks: nothing else can be to blame.
        segment, not_selected = (*failed.segment, failed.node), ()
    certainty, settled_by = _certainty(failed, segment)
    return Divergence(
        failed.verdict, first_failing_place(pair, failed.metrics, failed.verdict), segment, not_selected,
        failed.state, certainty, settled_by,
    )  # fmt: skip


def _certainty(failed: StageComparison, segment: Sequence[Node]) -> tuple[str, str | None]:
    """How sure it is that `failed` is to blame, and what would settle it."""
    if len(segment) > 1:
        return "one of the stages in the segment is to blame", "capture the stages in between as well"
    if failed.verdict.metric is Metric.NON_FINITE and failed.state is ErrorState.INJECTED:
        return "certain: NaN or Inf appears here and in none of its inputs", None
    if failed.verdict.signal is Signal.INJECTED:
        return "certain: recomputed from the stage's own captured inputs", None
    settled_by = "a replay of each side with its model: --replay --model MODEL"
    if failed.state is ErrorState.INJECTED:
        return "likely: all that it is computed from is within bounds", settled_by
    return "open: what it is computed from is beyond its bound, or was not judged", settled_by
