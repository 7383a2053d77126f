"""Captures that hold nothing but stages behind whole layers, as logits alone, or the output of every fourth layer: what
they are reproduced by says little.

A mistake in all layers puts them off as a coarse arithmetic does, and they come nearest under one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from aprtui.compare.comparison import StageComparison
from aprtui.compare.verdict import StageVerdict, Verdict
from aprtui.engine.protocol import Rounding
from aprtui.engine.replay.head_input import is_rounded_to
from aprtui.engine.replay.recompute import CapturedStages
from aprtui.trace.graph.stage_graph import StageGraph

_OF_A_LAYER = 24
"""Stages between captured ones up to which alternatives are tried at each of them: a layer has fewer."""
_FLOAT32 = 1e-4
"""Engines of float32 leave less behind all layers of a model, and so does an arithmetic that is the engine's own."""
_COARSE = ("fp8", "int8", "q4_0")
"""Types that keep four bits of a value or fewer, or a scale for many."""


def is_behind_layers(stage: StageComparison) -> bool:
    """Whether whole layers lie between a stage and what was captured before it."""
    return len(stage.segment) > _OF_A_LAYER


def passes_by_floor(verdict: StageVerdict) -> bool:
    """Whether a stage passes for what honest engines err by, and not for being the same."""
    return verdict.verdict is Verdict.PASS and verdict.floor is not None and (verdict.error or 0.0) > _FLOAT32


def stands_alone(stage: StageComparison, compared: Sequence[StageComparison], graph: StageGraph) -> bool:
    """Whether a stage behind whole layers is all that tells of an engine's arithmetic."""
    return is_behind_layers(stage) and not any(one is not stage for one in _telling(compared, graph))


def _telling(compared: Sequence[StageComparison], graph: StageGraph) -> Iterator[StageComparison]:
    """The stages that tell of an engine's arithmetic, logits aside, which many engines compute in another one."""
    return (one for one in compared if graph.inputs(one.node) and not graph[one.node.stage].holds_logits)


def doubted_behind_layers(
    compared: Sequence[StageComparison], stages: CapturedStages, rounding: Rounding, told: Collection[str]
) -> list[StageComparison]:
    """`compared`, with UNKNOWN where stages behind whole layers pass by a `rounding` that was found, is coarse, or not
    that of the logits, and no other stage tells of it; `told` are the names of those that were not found but stated."""
    graph = stages.model.graph
    passing = {one.node for one in compared if is_behind_layers(one) and passes_by_floor(one.verdict)}
    if not passing or not all(map(is_behind_layers, _telling(compared, graph))):
        return list(compared)
    doubtful = list(_doubtful(stages, rounding, told))
    if not doubtful:
        return list(compared)
    reason = (
        f"reproduced by {' and '.join(doubtful)}; a mistake in the layers may come out so, too: state it with "
        "--rounding, or capture the outputs of layers"
    )

    def doubted(one: StageComparison) -> StageComparison:
        return replace(one, verdict=replace(one.verdict, verdict=Verdict.UNKNOWN, reason=reason))

    return [doubted(one) if one.node in passing else one for one in compared]


def _doubtful(stages: CapturedStages, rounding: Rounding, told: Collection[str]) -> Iterator[str]:
    """What nothing shows of a rounding but that it comes nearest."""
    inputs, cache = rounding.matmul_input, rounding.kv_cache
    if "matmul_input" not in told and inputs.startswith(("q8", *_COARSE)):
        is_rounded = is_rounded_to(stages, inputs)
        if is_rounded is False:
            yield f"matmul_input={inputs} (the input of lm_head, as the logits tell it, was not rounded so)"
        elif is_rounded is None and inputs.startswith(_COARSE):
            yield f"matmul_input={inputs}"
    if "kv_cache" not in told and any(kind.startswith(_COARSE) for kind in cache.split("+")):
        yield f"kv_cache={cache}"
