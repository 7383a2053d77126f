"""A forward pass under any rounding, node by node: the runs that floors are measured between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.replay.arithmetic import Recomputation
from aprtui.model.model import Model
from aprtui.trace.graph import Node, Op

Array = NDArray[np.float32]
Disturb = Callable[[Node, Array], Array]


def run_forward(
    model: Model, tokens: Sequence[int], recomputation: Recomputation, disturb: Disturb | None = None
) -> Iterator[tuple[Node, Array]]:
    """Each node of the graph with its stage tensor for all `tokens`, in execution order; logits of the last position.

    `disturb` changes each tensor before it is given out and used. Keeps the tensors of two layers.
    """
    graph, config = model.graph, model.config.graph
    recent: dict[Node, Array] = {}
    for node in graph.nodes:
        stage = graph[node.stage]
        inputs = []
        for entry, source in zip(stage.inputs, graph.inputs(node), strict=True):
            tensor = recent[source]
            inputs.append(tensor if tensor.ndim == 3 else tensor[:, config.part(entry.part)])
        last = node == graph.nodes[-1]
        rows = inputs[0][-1:] if last else None
        values = recomputation.evaluate(
            node, inputs if rows is None else [rows], tokens[-1:] if last else tokens, len(tokens) - 1 if last else 0
        )
        recent[node] = values if disturb is None else disturb(node, values)
        yield node, recent[node]
        _forget(recent, node, graph[node.stage].op)


def _forget(recent: dict[Node, Array], node: Node, op: Op) -> None:
    """Maps are used once and large; of the layers before, only what entered this one is needed."""
    if op is Op.ATTEND:
        for found in [n for n, tensor in recent.items() if tensor.ndim == 3]:
            del recent[found]
    if node.layer is not None:
        for found in [n for n in recent if n.layer is not None and n.layer < node.layer - 1]:
            del recent[found]
