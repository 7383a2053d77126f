"""Patterns in the numbers of a comparison that have a known cause. None of them changes a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from aprtui.compare.comparison import Hint, StageComparison
from aprtui.compare.explain.classify import nearest_compared
from aprtui.compare.metrics.measure import PairMetrics
from aprtui.compare.verdict import PLAUSIBLE_REL_L2, is_plausible
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph

_REORDERED = (1.0, 1.6)
"""rel_l2 of a stage against itself in another order: √2, less the channels that stay in place (2 of each head) and what
all channels have in common."""

_EQUAL_NORMS = 0.1
"""How far rel_l2² may be from 2·(1 − cosine), which it equals where both sides have the same norm."""


def find_hints(graph: StageGraph, stages: Sequence[StageComparison]) -> tuple[Hint, ...]:
    nodes = tuple(_in_other_rope_order(graph, {stage.node: stage.metrics for stage in stages}))
    if not nodes:
        return ()
    names = ", ".join(dict.fromkeys(node.stage for node in nodes))
    text = (
        f"{names}: another order of channels? rel_l2 is about √2 at equal norms, while what they are made from and "
        "attn_scores agree: this looks like the other RoPE layout (half-split, interleaved). Where both manifests "
        "state rope_layout, channels are compared in one order"
    )
    return (Hint(nodes, text),)


def _in_other_rope_order(graph: StageGraph, metrics: Mapping[Node, PairMetrics]) -> Iterator[Node]:
    """The stages in RoPE order of each layer whose rotated stages look reordered and whose neighbours agree."""
    by_layer = groupby((node for node in metrics if node.layer is not None), key=lambda node: node.layer)
    for _, group in by_layer:
        layer = list(group)
        ordered = [node for node in layer if node.stage in graph.rope_parts]
        rotated = [node for node in ordered if graph[node.stage].op is Op.ROPE]
        scores = [node for node in layer if graph[node.stage].op is Op.SCORES]
        sources = {
            source
            for node in ordered
            for source in nearest_compared(graph, node, metrics)
            if source.stage not in graph.rope_parts
        }
        if (
            rotated
            and scores
            and all(_looks_reordered(metrics[node]) for node in rotated)
            and all(is_plausible(metrics[node]) for node in (*scores, *sources))
        ):
            yield from (node for node in ordered if (metrics[node].rel_l2 or 0.0) > PLAUSIBLE_REL_L2)


def _looks_reordered(metrics: PairMetrics) -> bool:
    if metrics.rel_l2 is None or metrics.cosine is None or metrics.mismatches:
        return False
    low, high = _REORDERED
    same_norm = abs(metrics.rel_l2**2 - 2 * (1 - metrics.cosine)) <= _EQUAL_NORMS
    return low <= metrics.rel_l2 <= high and same_norm
