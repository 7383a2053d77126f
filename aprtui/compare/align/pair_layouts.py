"""Finding the stages that two captures have in different orders, so that they are compared in one.

Two captures that both state their layout in a manifest of this format are compared as they are: if one of them has
another order, that is a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from aprtui.compare.align.layout import REORDERED, Layout, agreed, inherited_layout, legal_layouts, solve_layout
from aprtui.compare.align.mapping import STATED
from aprtui.compare.align.pairing import StagePair, Unpaired
from aprtui.compare.metrics.measure import rel_l2
from aprtui.errors import UsageError
from aprtui.trace.capture import Capture
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node, Stage
from aprtui.trace.graph.stage_graph import StageGraph

PairOf = Callable[[Node], StagePair | Unpaired]


def find_pair_layouts(
    a: Capture, b: Capture, graph: StageGraph, pair_of: PairOf, stated: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Layout]:
    """The layout of B for each stage that has another one than A; empty where the dimensions of heads are unknown.

    `stated` are layouts by stage as the user words them. Raises `UsageError` for one that the stage cannot have.
    """
    if a.manifest is not None and b.manifest is not None:
        return {}
    both = [node for node in graph.nodes if node in a.files and node in b.files]
    config = graph.config or _inferred_config(graph, both, pair_of)
    if config is None and stated:
        raise UsageError(
            "--mapping: layout: how many heads there are is not known: capture attn_softmax and attention too"
        )
    if config is None:
        return {}
    found: dict[str, Layout] = {}
    for stage in graph.stages:
        held = [node for node in both if node.stage == stage.name]
        sampled = [held[index] for index in sorted({0, len(held) // 2, len(held) - 1})] if held else []
        pairs = [pair for pair in map(pair_of, sampled) if isinstance(pair, StagePair) and pair.axes]
        if stage.name in stated and pairs:
            layout = _named(stated[stage.name], _candidates(pairs[0], stage, graph, config), stage)
        else:
            layout = agreed([solve_layout(p.a, p.b, _candidates(p, stage, graph, config)) for p in pairs])
            texts = {found[entry.stage].text for entry in stage.inputs if entry.stage in found}
            if layout is None and texts and pairs:
                candidates = _candidates(pairs[0], stage, graph, config)
                layout = inherited_layout([(p.a, p.b) for p in pairs], candidates, texts)
        if layout is not None:
            found[stage.name] = layout
    return found


def _candidates(pair: StagePair, stage: Stage, graph: StageGraph, config: GraphConfig) -> tuple[Layout, ...]:
    sized = replace(stage, width=pair.a.shape[0] if pair.a.ndim == 3 else pair.a.shape[1])
    return legal_layouts(sized, graph.rope_parts, config)


def _named(text: str, candidates: Sequence[Layout], stage: Stage) -> Layout | None:
    if text == STATED:
        return None
    for layout in candidates:
        if layout.text == text:
            return layout
    there = "; ".join([STATED, *(layout.text for layout in candidates)])
    raise UsageError(f"--mapping: layout of {stage.name}: {text!r} is none that it can have: {there}")


def in_layout_of_a(pair: StagePair, layouts: Mapping[str, Layout]) -> StagePair:
    """`pair` with B's values in A's order; `matched` says so."""
    layout = layouts.get(pair.node.stage)
    if layout is None or not pair.axes:
        return pair
    values = layout.apply(pair.b)
    exactly = ", exactly" if np.array_equal(pair.a, values) else ""
    return replace(pair, b=values, matched=f"{pair.matched}; B is A permuted: {layout.text}{exactly}")


def find_swaps(graph: StageGraph, both: Sequence[Node], pair_of: PairOf) -> Iterator[str]:
    """A sentence for each two stages whose values B holds under each other's name in most layers. It is not undone."""
    for stage in graph.stages:
        for other in graph.siblings(stage.name):
            if graph.names.index(other.name) < graph.names.index(stage.name):
                continue
            layers = [node.layer for node in both if node.stage == stage.name and Node(node.layer, other.name) in both]
            found = [_swapped(pair_of(Node(n, stage.name)), pair_of(Node(n, other.name))) for n in layers]
            if found and 2 * sum(found) > len(found):
                yield f"B's {stage.name} is A's {other.name} and the other way round: are their names exchanged?"


def _swapped(first: StagePair | Unpaired, second: StagePair | Unpaired) -> bool:
    if not isinstance(first, StagePair) or not isinstance(second, StagePair) or first.a.shape != second.a.shape:
        return False
    crosswise = [rel_l2(first.a, second.b), rel_l2(second.a, first.b)]
    straight = [rel_l2(pair.a, pair.b) for pair in (first, second)]
    return all(
        cross is not None and own is not None and own > REORDERED and cross < 0.5 * own
        for cross, own in zip(crosswise, straight, strict=True)
    )


def _inferred_config(graph: StageGraph, both: list[Node], pair_of: PairOf) -> GraphConfig | None:
    """The dimensions that the shapes of a layer imply: a map has the number of heads, which share the channels."""
    if graph.has_latent_attention:
        return None
    widths: dict[Op, int] = {}
    rotated: list[int] = []
    for stage in graph.stages:
        node = next((node for node in both if node.stage == stage.name), None)
        pair = None if node is None else pair_of(node)
        if not isinstance(pair, StagePair) or not pair.axes:
            continue
        width = pair.a.shape[0] if pair.causal else pair.a.shape[1]
        widths.setdefault(stage.op, width)
        if stage.op is Op.ROPE:
            rotated.append(width)
    heads = widths.get(Op.SCORES) or widths.get(Op.SOFTMAX)
    attended = widths.get(Op.ATTEND) or max(rotated, default=0)
    if not heads or not attended or attended % heads or (attended // heads) % 2:
        return None
    dim = attended // heads
    kv_heads = min(rotated, default=attended) // dim
    if not kv_heads or heads % kv_heads:
        return None
    return GraphConfig("unknown", graph.layers, attended, heads, kv_heads, dim, 1, 1)
