"""Alternatives of what an op reads that take more than another captured stage of its layer: sums, and layers far
before."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from aprtui.engine.alternatives.alternative import Alternative, Attempt
from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.engine.alternatives.places import layer_words
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import ENTRY, LAYER_OUTPUT, Node

_NEIGHBOURS = 1


def _sums(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """A norm of its input and what entered the layer, or the block, together."""
    if call.node.layer is None:
        return
    graph, source = call.model.graph, call.model.graph.inputs(call.node)[0]
    entered = Node(call.layer - 1, LAYER_OUTPUT) if call.layer else Node(0, ENTRY)
    for other in (entered, Node(call.layer, "post_attn_residual")):
        if other in graph.order and graph.order[other] < graph.order[call.node] and other != source:
            values = _rows(call, other)
            if values is not None and values.shape == call.x.shape:
                yield Attempt(
                    f"reads the sum of {layer_words(call.node, source)} and {_name(call.node, other)}",
                    lambda c, values=values: c.honest(np.asarray(c.x + values, np.float32)),  # type: ignore[misc]
                )


def _far(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """The residual stream as it left a layer far before."""
    graph = call.model.graph
    layer = graph.layers if call.node.layer is None else call.layer
    source = graph.inputs(call.node)[0]
    for other in (Node(0, ENTRY), *(Node(number, LAYER_OUTPUT) for number in range(layer - _NEIGHBOURS))):
        values = _rows(call, other)
        if other != source and values is not None and values.shape == call.x.shape:
            yield Attempt(
                f"reads {_name(call.node, other)} in place of {_name(call.node, source)}",
                lambda c, values=values: c.honest(values, *c.inputs[1:]),  # type: ignore[misc]
            )


def _name(node: Node, other: Node) -> str:
    if other.stage == ENTRY:
        return ENTRY
    return f"{other.stage} of layer {other.layer}" if other.layer != node.layer else other.stage


def _rows(call: StageCall, node: Node) -> Array | None:
    if node not in set(call.seen) or len(call.seen[node]) < len(call.x):
        return None
    return np.ascontiguousarray(call.seen[node][-len(call.x) :])


WIRE_ALTERNATIVES: tuple[Alternative, ...] = (
    Alternative("sum on its way in", frozenset({Op.RMS_NORM}), _sums,
                "add the residual where the architecture does: behind this norm"),
    Alternative("layer far before", frozenset({Op.RMS_NORM, Op.ADD}), _far,
                "check which buffers take turns, and which layers run"),
)  # fmt: skip
