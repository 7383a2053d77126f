"""Wrong ways of latent attention: which channels of a head are turned, how heads are joined, and whose matrix is used.

Each head has channels that stay as they are in front of those that are turned; implementations differ in that order.
"""

from __future__ import annotations

import numpy as np

from aprtui.engine.alternatives.alternative import Alternative, plain
from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.engine.reference import ops
from aprtui.model.model import Model
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node


def has_latent_attention(model: Model, node: Node) -> bool:
    return model.config.graph.latent is not None


def other_end_of_heads(call: StageCall) -> Array:
    """The front of each head is read at its end, or its back at the beginning."""
    stage = call.model.graph[call.node.stage]
    take = ops.head_back if call.op is Op.HEAD_FRONT else ops.head_front
    return take(call.x, stage.heads, stage.head_size)


def parts_exchanged(call: StageCall) -> Array:
    """Heads whose turned channels come first."""
    stage = call.model.graph[call.node.stage]
    front = call.x.reshape(len(call.x), stage.heads, -1)
    back = call.inputs[1].reshape(len(call.x), -1, stage.head_size - front.shape[2])
    back = np.broadcast_to(back, (*front.shape[:2], back.shape[2]))
    return np.concatenate([back, front], axis=2).reshape(len(call.x), -1)


def back_of_the_first_head(call: StageCall) -> Array:
    """All heads have the turned channels of the first."""
    stage = call.model.graph[call.node.stage]
    back = stage.head_size - call.x.shape[1] // stage.heads
    shared = np.tile(call.inputs[1][:, :back], (1, call.inputs[1].shape[1] // back))
    return call.honest(call.x, shared)


def has_several_backs(model: Model, node: Node) -> bool:
    first, second = (model.graph[source.stage] for source in model.graph.inputs(node))
    return has_latent_attention(model, node) and first.heads == second.heads > 1


def of_the_next_head(call: StageCall) -> Array:
    """Each head meets the matrix of the next one."""
    (weight,) = call.model.params(call.node)
    each = weight.dequantize().reshape(weight.experts, -1, weight.columns)
    rolled = np.ascontiguousarray(np.roll(each, -1, axis=0)).reshape(weight.rows, weight.columns)
    return call.with_params(weight.of_values(rolled)).honest()


LATENT_ALTERNATIVES: tuple[Alternative, ...] = (
    plain(
        "other end of heads", (Op.HEAD_FRONT, Op.HEAD_BACK), other_end_of_heads,
        "read at the other end of each head: the turned channels are taken for the first ones",
        "a head's first channels stay as they are, its last ones are turned", has_latent_attention,
    ),
    plain(
        "parts of heads exchanged", (Op.HEAD_JOIN,), parts_exchanged,
        "the turned channels of a head come before those that stay as they are",
        "join the channels that stay as they are and those that are turned in this order", has_latent_attention,
    ),
    plain(
        "turned part of the first head", (Op.HEAD_JOIN,), back_of_the_first_head,
        "all heads have the turned channels of the first", "of keys alone, heads share the turned channels",
        has_several_backs,
    ),
    plain(
        "matrix of the next head", (Op.HEAD_MATMUL,), of_the_next_head,
        "each head is multiplied by the matrix of the next one", "matrix h is that of head h",
    ),
)  # fmt: skip
