"""A capture with one stage behind whole layers, mostly its logits: what it is reproduced by says little.

A mistake in all layers puts it off as a coarse arithmetic does, and comes nearest under one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from aprtui.compare.comparison import StageComparison
from aprtui.compare.verdict import Verdict
from aprtui.engine.protocol import Rounding
from aprtui.trace.graph.stage_graph import StageGraph

_OF_A_LAYER = 24
"""Stages between captured ones up to which alternatives are tried at each of them: a layer has fewer."""
_COARSE = ("fp8", "int8", "q4_0")
"""Types that keep four bits of a value or fewer, or a scale for many."""


def is_behind_layers(stage: StageComparison) -> bool:
    """Whether whole layers lie between a stage and what was captured before it."""
    return len(stage.segment) > _OF_A_LAYER


def stands_alone(stage: StageComparison, compared: Sequence[StageComparison], graph: StageGraph) -> bool:
    """Whether a stage behind whole layers is all that tells of an engine's arithmetic."""
    others = [
        one for one in compared
        if one is not stage and graph.inputs(one.node) and not graph[one.node.stage].holds_logits
    ]  # fmt: skip
    return is_behind_layers(stage) and not others


def doubted_alone(
    compared: Sequence[StageComparison], graph: StageGraph, rounding: Rounding, told: Collection[str]
) -> list[StageComparison]:
    """`compared`, with UNKNOWN where a stage alone passes by a coarse type of the `rounding` that was found; `told` are
    the names of those that were not found but stated."""
    coarse = [
        f"{name}={kind}"
        for name, kind in (("matmul_input", rounding.matmul_input), ("kv_cache", rounding.kv_cache))
        if name not in told and kind.startswith(_COARSE)
    ]
    if not coarse:
        return list(compared)
    reason = (
        f"reproduced by {' and '.join(coarse)}, as a mistake in all layers may be, too: state it with --rounding, or "
        "capture the outputs of layers"
    )
    return [
        replace(stage, verdict=replace(stage.verdict, verdict=Verdict.UNKNOWN, reason=reason))
        if stage.verdict.verdict is Verdict.PASS and stage.verdict.floor is not None
        and stands_alone(stage, compared, graph)
        else stage
        for stage in compared
    ]  # fmt: skip
