"""Which stage to look at first, and which could be to blame.

Where the verdict is FAIL, it is the first stage that injects error, or the first divergent one if none is known to.
Where it is PASS, it is the stage that comes nearest to its bound. Else it is the first stage where the error jumps to
more than rounding and 4-bit weights explain, or the first where it jumps at all: the first that differs is often only
the first rounding, long before the stage that matters. Where no error jumps, it is the stage that differs most.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from aprtui.compare.comparison import ErrorState, Focus, FocusKind, StageComparison
from aprtui.compare.explain.classify import nearest_compared
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.verdict import ROUNDING_REL_L2, Signal, Verdict, is_plausible
from aprtui.trace.graph.names import with_stages_of_its_kind
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph

JUMP = 10.0
"""An honest stage adds noise of the order of its inputs' noise; a stage that multiplies it by this does more."""


def error_of(stage: StageComparison) -> float:
    """rel_l2, which compares across stages; inf for NaN or Inf on one side, 0 where no value is left to compare.

    Indices are alike or not: how far apart two experts are numbered says nothing.
    """
    if stage.verdict.metric is Metric.INDICES:
        return 0.0 if stage.verdict.verdict is Verdict.PASS else math.inf
    if stage.metrics.mismatches:
        return math.inf
    return stage.metrics.rel_l2 or 0.0


def first_failed(stages: Sequence[StageComparison], alike: Collection[Node] = ()) -> StageComparison:
    """The stage to blame: the first of those that fail that injects error, else the first that fails.

    Stages that err `alike` everywhere are to blame only where no other is known to add error: what comes after them may
    inherit theirs. At least one of `stages` must fail.
    """
    failed = [stage for stage in stages if stage.verdict.verdict is Verdict.FAIL]
    if alike:
        failed = [stage for stage in failed if stage.node not in alike and _adds_error(stage)] or failed
    return next((stage for stage in failed if stage.state is ErrorState.INJECTED), failed[0])


def _adds_error(stage: StageComparison) -> bool:
    return stage.verdict.signal is Signal.INJECTED or stage.verdict.metric is Metric.NON_FINITE


def nearest_to_bound(stages: Sequence[StageComparison]) -> StageComparison | None:
    """The stage whose error is the largest part of its bound; None where no stage that differs has a bound.

    Choices of experts that differ and pass have no error that is near to anything: they count where nothing else does.
    """
    bounded = [stage for stage in stages if stage.metrics.max_abs and stage.verdict.bound is not None]
    measured = [stage for stage in bounded if stage.verdict.metric is not Metric.INDICES]
    return max(measured or bounded, key=_share_of_bound, default=None)


def _share_of_bound(stage: StageComparison) -> float:
    metric, error, bound = stage.verdict.metric, stage.verdict.error, stage.verdict.bound
    assert error is not None and bound is not None, "a bound is held against a number"
    room = metric.deviation(bound)
    return metric.deviation(error) / room if room else math.inf


def choose_focus(
    graph: StageGraph, stages: Sequence[StageComparison], verdict: Verdict, alike: Collection[Node] = ()
) -> Focus | None:
    """The stage to look at first; None where no value differs. `alike` are those of an error that is everywhere."""
    if verdict is Verdict.FAIL:
        return Focus(first_failed(stages, alike).node, FocusKind.DIVERGENCE)
    if verdict is Verdict.PASS:
        nearest = nearest_to_bound(stages)
        return None if nearest is None else Focus(nearest.node, FocusKind.NEAREST)
    errors = {stage.node: error_of(stage) for stage in stages}
    jumps = [stage for stage in stages if _jumps(graph, stage.node, errors)]
    if jumps:
        first = next((stage for stage in jumps if not is_plausible(stage.metrics)), jumps[0])
        return Focus(first.node, FocusKind.JUMP)
    worst = max(errors, key=lambda node: errors[node], default=None)
    return Focus(worst, FocusKind.WORST) if worst is not None and errors[worst] else None


def _jumps(graph: StageGraph, node: Node, errors: Mapping[Node, float]) -> bool:
    inherited = max((errors[source] for source in nearest_compared(graph, node, errors)), default=0.0)
    return errors[node] > ROUNDING_REL_L2 and errors[node] >= JUMP * inherited


def blame(
    graph: StageGraph, divergent: Node, compared: Collection[Node], not_selected: Collection[Node]
) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
    """The stages that could be to blame for `divergent`, in execution order: itself and those before it that a capture
    lacks, just itself where all its inputs were `compared`; then the `not_selected` stages right before those."""
    graph = graph if graph.config is not None else with_stages_of_its_kind(graph)
    blamed: set[Node] = set()
    stopped: set[Node] = set()
    pending = [divergent]
    while pending:
        node = pending.pop()
        if node in not_selected:
            stopped.add(node)
        elif node not in blamed:
            blamed.add(node)
            pending += [source for source in graph.inputs(node) if source not in compared]
    return tuple(n for n in graph.nodes if n in blamed), tuple(n for n in graph.nodes if n in stopped)


def at_first_position(graph: StageGraph, divergent: Node, segment: Sequence[Node]) -> tuple[Node, ...]:
    """Those of `segment` that the first position of `divergent` depends on: attention returns its value there, whatever
    queries, keys, scores and mask are, but where sinks take a share of it."""
    if graph.config is not None and graph.config.sinks:
        return tuple(segment)
    reached: set[Node] = set()
    pending = [divergent]
    while pending:
        node = pending.pop()
        if node not in reached:
            reached.add(node)
            sources = graph.inputs(node)
            within = sources[1:] if graph[node.stage].op is Op.ATTEND else sources
            pending += [source for source in within if source in segment]
    return tuple(node for node in segment if node in reached)
