"""A check of one capture against the model that made it: no stage may add more error than its engine rounds."""

from __future__ import annotations

from aprtui.compare.align.coverage import Selection
from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import StageVerdict, Verdict
from aprtui.compare.wording import counted
from aprtui.contracts.checks.arguments import LAYERS, OnCapture, layers_text, named_stages
from aprtui.contracts.checks.judgement import Judgement, unknown
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture


def replay_holds(asked: OnCapture) -> Judgement:
    """Every stage in question, computed again from its captured inputs, is within the bound of an honest engine."""
    model = asked.require_model()
    names = named_stages(asked.parameters)
    selection = Selection(
        stages=",".join(names) if names else None,
        layers=_layers(asked) if LAYERS in asked.parameters else None,
    )
    with Evaluators(model) as evaluators:
        comparison = replay_capture(asked.capture, model, ReplayOptions(selection), evaluators)
    if comparison.verdict is Verdict.UNKNOWN:
        return unknown("; ".join(comparison.reasons))
    if comparison.first_divergence is None:
        return _held(comparison)
    found = comparison.first_divergence.verdict
    blamed = tuple(node for node in comparison.first_divergence.segment if node in asked.nodes) or (found.node,)
    return Judgement(
        Verdict.FAIL, f"first at {found.node}: {found.reason}", found.metric, found.error, found.bound, blamed
    )


def _layers(asked: OnCapture) -> str:
    value = asked.parameters[LAYERS]
    return ",".join(map(str, value)) if isinstance(value, list) else layers_text(asked.parameters)


def _held(comparison: Comparison) -> Judgement:
    """The stage that comes nearest to its bound; where all are equal to the bit, any."""
    worst = max((stage.verdict for stage in comparison.stages), key=_share)
    reason = f"{counted(comparison.compared, 'stage')} replayed, nearest to its bound: {worst.node}"
    nodes = tuple(stage.node for stage in comparison.stages)
    return Judgement(Verdict.PASS, reason, worst.metric, worst.error or 0.0, worst.bound or 0.0, nodes)


def _share(verdict: StageVerdict) -> float:
    return (verdict.error or 0.0) / verdict.bound if verdict.bound else 0.0
