"""Which stage to look at first.

Where the verdict is FAIL, the first divergent one. Else the first stage where the error jumps: the first that differs
at all is often only the first rounding, long before what matters. Where nothing jumps, the stage that differs most.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

from aprtui.compare.comparison import Focus, FocusKind, StageComparison
from aprtui.compare.verdict import ROUNDING_REL_L2, Verdict
from aprtui.trace.graph import Node, StageGraph

JUMP = 10.0
"""An honest stage adds noise of the order of its inputs' noise; what multiplies it by this does something else."""


def error_of(stage: StageComparison) -> float:
    """rel_l2, which compares across stages; inf for NaN or Inf on one side, 0 where no value is left to compare."""
    if stage.metrics.mismatches:
        return math.inf
    return stage.metrics.rel_l2 or 0.0


def choose_focus(graph: StageGraph, stages: Sequence[StageComparison], verdict: Verdict) -> Focus | None:
    """The stage to look at first; None where no value differs."""
    if verdict is Verdict.FAIL:
        failed = (stage.node for stage in stages if stage.verdict.verdict is Verdict.FAIL)
        return Focus(next(failed), FocusKind.DIVERGENCE)
    errors = {stage.node: error_of(stage) for stage in stages}
    for node, error in errors.items():
        inherited = max((errors[source] for source in nearest(graph, node, errors)), default=0.0)
        if error > ROUNDING_REL_L2 and error >= JUMP * inherited:
            return Focus(node, FocusKind.JUMP)
    worst = max(errors, key=lambda node: errors[node], default=None)
    return Focus(worst, FocusKind.WORST) if worst is not None and errors[worst] else None


def nearest(graph: StageGraph, node: Node, compared: Collection[Node]) -> Iterator[Node]:
    """The nearest ancestors of `node` that were compared: its inputs, or what lies behind those that were not."""
    seen: set[Node] = set()
    pending = list(graph.inputs(node))
    while pending:
        source = pending.pop()
        if source in seen:
            continue
        seen.add(source)
        if source in compared:
            yield source
        else:
            pending += graph.inputs(source)
