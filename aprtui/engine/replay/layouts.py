"""Finding out from a capture alone in which order its engine keeps channels, stage by stage.

The order must hold in several layers, and must not be what the engine went on with: that is a fault, not a way of
writing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from aprtui.compare.align.layout import REORDERED, Layout, agreed, inherited_layout, legal_layouts, solve_layout
from aprtui.compare.metrics.measure import rel_l2
from aprtui.engine.replay.arithmetic import UNROUNDED, NodeEvaluators, Recomputation
from aprtui.engine.replay.recompute import Array, CapturedStages, Misfit, Recomputer
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.ops import Op, Part
from aprtui.trace.graph.stage import Node, Stage, TokenMixer

_KNOWS_CHANNELS = frozenset({Op.MATMUL, Op.BIAS, Op.RMS_NORM, Op.CONVOLUTION})
"""Ops in which each channel has parameters of its own, so that they come out otherwise in another order."""
_KNOWS_PARTS = frozenset({Op.HEAD_RMS_NORM, Op.ROPE})
"""Ops on queries or keys, which come out otherwise of values or of each other."""


def find_layouts(stages: CapturedStages, evaluators: NodeEvaluators) -> Iterator[str]:
    """Set the layouts of a capture without a manifest, stage by stage in the graph's order; say each in words.

    What a stage is computed from has its layout by then.
    """
    model = stages.model
    config = model.graph.config
    if stages.capture.manifest is not None or config is None:
        return
    recomputer = Recomputer(model, stages, Recomputation(model, UNROUNDED, evaluators))
    for stage in model.graph.stages:
        candidates = legal_layouts(stage, model.graph.rope_parts, config)
        sampled = _sampled(stage, recomputer)
        layout = agreed([_layout_of(node, recomputer, candidates) for node in sampled])
        layout = layout or _inherited(sampled, recomputer, candidates)
        if layout is not None and not _computed_with(stage, layout, recomputer):
            stages.layouts.update({node: layout for node in model.graph.nodes if node.stage == stage.name})
            yield f"{stage.name} is in another order than the model's, and is put in it: {layout.text}"


def _sampled(stage: Stage, recomputer: Recomputer) -> list[Node]:
    """Up to three layers of a stage that holds all tokens (of states the last), with all that it is computed from but
    attention maps, and stages of the recurrence, of which some engines fuse several."""
    model, stages = recomputer.model, recomputer.stages
    rows = 1 if stage.holds_state else len(stages.tokens)

    def computable(node: Node) -> bool:
        missing = [model.graph[found.stage] for found in recomputer.segment(node, rows)]
        return all(found.is_attention_map or found.mixer is TokenMixer.RECURRENCE for found in missing)

    nodes = [node for node in model.graph.nodes if node.stage == stage.name and stages.rows(node) == rows]
    held = list(filter(computable, nodes))
    return [held[index] for index in sorted({0, len(held) // 2, len(held) - 1})] if held else []


def _inherited(nodes: Sequence[Node], recomputer: Recomputer, candidates: Sequence[Layout]) -> Layout | None:
    """The layout of what a stage is computed from, where it makes clearly more of the sampled nodes."""
    graph, stages = recomputer.model.graph, recomputer.stages
    texts = {stages.layouts[source].text for node in nodes for source in graph.inputs(node) if source in stages.layouts}
    return (
        inherited_layout([_expected_and_raw(node, recomputer) for node in nodes], candidates, texts) if texts else None
    )


def _expected_and_raw(node: Node, recomputer: Recomputer) -> tuple[Array, Array]:
    raw = recomputer.stages.raw(node)
    assert not isinstance(raw, Misfit)
    return recomputer.recompute(node, raw.shape[-2]).values, raw


def _computed_with(stage: Stage, layout: Layout, recomputer: Recomputer) -> bool:
    """Whether the engine went on with the order of channels as captured: then it is no way of writing, but a fault."""
    model, stages = recomputer.model, recomputer.stages
    total = len(stages.tokens)
    moved = _moved_parts(layout, model.config.graph)

    def tells(node: Node) -> bool:
        op, parts = model.graph[node.stage].op, {entry.part for entry in model.graph.entries(node)}
        return op in _KNOWS_CHANNELS or (op in _KNOWS_PARTS and parts <= moved)

    users = [
        node
        for node in model.graph.nodes
        if tells(node) and stages.rows(node) == total
        and {source.stage for source in model.graph.inputs(node)} == {stage.name}
        and not recomputer.segment(node, total)
    ]  # fmt: skip
    sampled = [users[index] for index in sorted({0, len(users) // 2, len(users) - 1})] if users else []
    return bool(sampled) and all(_is_reproduced(node, recomputer) for node in sampled)


def _moved_parts(layout: Layout, config: GraphConfig) -> frozenset[Part]:
    """Those of queries, keys and values in whose columns a layout has channels of another one."""
    if layout.order is None or len(layout.order) != config.qkv_width:
        return frozenset()
    order = np.array(layout.order)
    columns = np.arange(len(order))
    return frozenset(
        part
        for part in (Part.Q, Part.K, Part.V)
        if not np.array_equal(np.sort(order[config.part(part)]), columns[config.part(part)])
    )


def _is_reproduced(node: Node, recomputer: Recomputer) -> bool:
    """Whether a stage comes out of its inputs, all as they lie in their files."""
    expected, raw = _expected_and_raw(node, recomputer)
    error = rel_l2(expected, np.ascontiguousarray(raw))
    return error is not None and error <= REORDERED


def _layout_of(node: Node, recomputer: Recomputer, candidates: tuple[Layout, ...]) -> Layout | None:
    return solve_layout(*_expected_and_raw(node, recomputer), candidates)
