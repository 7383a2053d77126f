"""Which stage to look at first.

Where the verdict is FAIL, the first that injects error; the first divergent one if nothing tells which do. Else the
first stage where the error jumps: the first that differs at all is often only the first rounding, long before what
matters. Where nothing jumps, the stage that differs most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from aprtui.compare.comparison import Focus, FocusKind, StageComparison
from aprtui.compare.explain.ancestors import nearest
from aprtui.compare.explain.classify import ErrorState
from aprtui.compare.verdict import ROUNDING_REL_L2, Verdict
from aprtui.trace.graph import StageGraph

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
        failed = [stage for stage in stages if stage.verdict.verdict is Verdict.FAIL]
        own = next((stage for stage in failed if stage.state is ErrorState.INJECTED), failed[0])
        return Focus(own.node, FocusKind.DIVERGENCE)
    errors = {stage.node: error_of(stage) for stage in stages}
    for node, error in errors.items():
        inherited = max((errors[source] for source in nearest(graph, node, errors)), default=0.0)
        if error > ROUNDING_REL_L2 and error >= JUMP * inherited:
            return Focus(node, FocusKind.JUMP)
    worst = max(errors, key=lambda node: errors[node], default=None)
    return Focus(worst, FocusKind.WORST) if worst is not None and errors[worst] else None
