"""Finding stages that a foreign capture has in another order than the model, before anything is judged."""

from __future__ import annotations

from collections.abc import Iterator

from aprtui.compare.align.layout import Layout, agreed, legal_layouts, solve_layout
from aprtui.engine.replay.arithmetic import Recomputation
from aprtui.engine.replay.captured import CapturedStages, Misfit
from aprtui.engine.replay.recompute import Recomputer
from aprtui.model.model import Model
from aprtui.trace.graph import Node, Stage


def find_layouts(recomputer: Recomputer, recomputation: Recomputation) -> Iterator[str]:
    """Set the layouts of a capture without a manifest, stage by stage in the graph's order; say each in words.

    What a stage is computed from has its layout by then.
    """
    stages, model = recomputer.stages, recomputer.model
    config = model.graph.config
    if stages.capture.manifest is not None or config is None:
        return
    for stage in model.graph.stages:
        candidates = legal_layouts(stage, model.graph.rope_parts, config)
        found = [_layout_of(node, recomputer, recomputation, candidates) for node in _sampled(stage, model, stages)]
        layout = agreed(found)
        if layout is not None:
            stages.layouts.update({node: layout for node in model.graph.nodes if node.stage == stage.name})
            yield f"{stage.name} is in another order than the model's, and is put in it: {layout.text}"


def _sampled(stage: Stage, model: Model, stages: CapturedStages) -> list[Node]:
    """Up to three layers of a stage that holds all tokens, with all that it is computed from."""
    total = len(stages.tokens)
    held = [
        node
        for node in model.graph.nodes
        if node.stage == stage.name and all(stages.rows(n) == total for n in (node, *model.graph.inputs(node)))
    ]
    return [held[index] for index in sorted({0, len(held) // 2, len(held) - 1})] if held else []


def _layout_of(
    node: Node, recomputer: Recomputer, recomputation: Recomputation, candidates: tuple[Layout, ...]
) -> Layout | None:
    raw = recomputer.stages.raw(node)
    assert not isinstance(raw, Misfit)
    expected = recomputer.recompute(node, recomputation, len(recomputer.stages.tokens)).values
    return solve_layout(expected, raw, candidates)
