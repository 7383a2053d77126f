"""All weights of another layer: a loop over layers that is off by one, or two layers that are exchanged.

Where every stage was captured, each product and each norm shows it by itself. Of a stretch that was captured at its
ends only, no single one of them explains what comes out.
"""

from __future__ import annotations

from collections.abc import Iterator

from aprtui.engine.alternatives.alternative import Alternative, Attempt
from aprtui.engine.alternatives.call import Array, StageCall, layers_with
from aprtui.engine.alternatives.places import layer_words
from aprtui.model.model import Model
from aprtui.trace.graph.ops import BIASES, MATRIX_PRODUCTS, Op
from aprtui.trace.graph.stage import Node

_WEIGHTED = MATRIX_PRODUCTS | BIASES | {Op.RMS_NORM, Op.HEAD_RMS_NORM}


def _layers(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """The nearest layers first: those that a loop takes which is off by one."""
    if found is not None:
        return
    own = call.node
    others = [Node(layer, own.stage) for layer in layers_with(call.model, own.stage) if layer != own.layer]
    for other in sorted(others, key=lambda node: abs((node.layer or 0) - call.layer)):
        yield Attempt(
            f"computed with all weights of {layer_words(own, other)}",
            lambda call, layer=other.layer: call.honest(node=Node(layer, call.node.stage)),  # type: ignore[misc]
        )


def _has_weights(model: Model, node: Node) -> bool:
    return node.layer is not None and len(layers_with(model, node.stage)) > 1 and bool(model.params(node))


OTHER_LAYER_ALTERNATIVES: tuple[Alternative, ...] = (
    Alternative(
        "all weights of another layer", frozenset(_WEIGHTED), _layers,
        "bind each tensor by the number of its own layer; look at the loop over layers", _has_weights,
        only_together=True,
    ),
)  # fmt: skip
