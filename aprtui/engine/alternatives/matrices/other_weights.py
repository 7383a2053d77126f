"""Weights of another product, or the wrong way round."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from aprtui.engine.alternatives.alternative import (
    MOST_VALUES,
    Alternative,
    Attempt,
    distance,
    parametrised,
    plain,
)
from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.engine.alternatives.matrices import products
from aprtui.engine.alternatives.matrices.channels import SAMPLED, TOKENS, is_small, offsets, some, wrong_channels
from aprtui.engine.alternatives.places import layer_words
from aprtui.model.model import Model
from aprtui.model.weights import Weight
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node

_QKV = ("Q", "K", "V")


def _other_weights(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Weights of another product, of any layer, in place of each that is off."""
    if found is None:
        return
    weights, graph = call.model.params(call.node), call.model.graph
    starts, wrong, tokens = offsets(weights), wrong_channels(call, found), some(np.arange(len(call.x)), TOKENS)
    x = call.x[tokens].astype(np.float64)
    others = {
        (node, place): weight
        for node in graph.nodes
        if graph[node.stage].op in (Op.MATMUL, Op.EMBED)
        for place, weight in enumerate(call.model.params(node))
    }
    chosen: dict[int, tuple[Node, int, Weight]] = {}
    for place, weight in enumerate(weights):
        of_part = wrong[(wrong >= starts[place]) & (wrong < starts[place + 1])]
        if of_part.size < weight.rows / 2:
            continue
        rows = some(of_part, SAMPLED)
        seen, errors = found[tokens][:, rows], {}
        for (node, at), other in others.items():
            if (other.rows, other.columns) == (weight.rows, weight.columns) and (node, at) != (call.node, place):
                errors[node, at] = distance(x @ other.dequantize((rows - starts[place]).tolist()).T, seen)
        if errors:
            node, at = min(errors, key=lambda key: errors[key])
            chosen[place] = node, at, others[node, at]
    if chosen and all(weight.rows * weight.columns <= MOST_VALUES for _, _, weight in chosen.values()):
        words = _weight_words(call, {place: (node, at) for place, (node, at, _) in chosen.items()})
        own = dict(enumerate(weights)) | {place: weight for place, (_, _, weight) in chosen.items()}
        yield parametrised(f"computed with the weights of {words}", lambda c: list(own.values()))


def _weight_words(call: StageCall, chosen: dict[int, tuple[Node, int]]) -> str:
    """Whose weights stand in place of which parts of a product."""
    count = len(call.model.params(call.node))
    nodes = {node for node, _ in chosen.values()}
    in_place = all(at == place for place, (_, at) in chosen.items())
    if count == 1 or (len(chosen) == count and len(nodes) == 1 and in_place):
        return layer_words(call.node, next(iter(nodes)))
    texts = []
    for place, (node, at) in chosen.items():
        part = _QKV[at] if len(call.model.params(node)) == len(_QKV) else ""
        of = "" if node == call.node else layer_words(call.node, node)
        texts.append(f"{part}{' of ' if part and of else ''}{of} in place of {_QKV[place]}")
    return " and ".join(texts)


def _square(model: Model, node: Node) -> bool:
    return products.is_square(model, node) and is_small(model, node)


OTHER_WEIGHT_ALTERNATIVES: tuple[Alternative, ...] = (
    Alternative("weights", frozenset({Op.MATMUL}), _other_weights, "check which tensor is bound to this product"),
    plain(
        "transposed", (Op.MATMUL,), products.transposed, "the matrix is transposed",
        "a GGUF row holds the weights of one output channel", _square,
    ),
)  # fmt: skip
