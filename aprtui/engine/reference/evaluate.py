"""One node of the stage graph from its inputs: the step that an engine repeats and a replay does once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.reference import ops, recurrence
from aprtui.engine.rounding import Arithmetic, unrounded_input
from aprtui.model.config import ModelConfig, RopeAngles
from aprtui.model.model import Model
from aprtui.trace.graph.ops import RECURRENT_OPS, Op
from aprtui.trace.graph.stage import Node, Stage

Array = NDArray[np.float32]


def evaluate(
    model: Model, node: Node, inputs: Sequence[Array], *, tokens: Sequence[int], position: int, arithmetic: Arithmetic,
    initial: Array | None = None,
) -> Array:  # fmt: skip
    """The stage tensor of `node` for the positions `position …`, given the tensors of its input nodes.

    `inputs` stand in the order of the graph, already cut to the `part` that the stage uses; keys and values cover all
    positions from 0, and so does what goes into a state (`history.HISTORY`), unless `initial` is the state before the
    first of them. `tokens` are the ids at the positions.
    """
    stage = model.graph[node.stage]
    config, params = model.config, model.params(node)
    if stage.op in _RECURRENCE:
        return _evaluate_recurrence(model, node, stage, inputs, len(tokens), initial)
    match stage.op:
        case Op.EMBED:
            return ops.embed(params[0], tokens, config.embedding_scale)
        case Op.RMS_NORM:
            return ops.rms_norm(inputs[0], params[0], config.norm_epsilon)
        case Op.HEAD_RMS_NORM:
            heads, size = stage.heads, stage.head_size
            rows = ops.head_front(inputs[0], heads, size) if inputs[0].shape[1] > stage.width else inputs[0]
            return ops.head_rms_norm(rows, params[0], config.norm_epsilon)
        case Op.MATMUL:
            return ops.matmul(inputs[0], params, arithmetic.matmul_input)
        case Op.HEAD_MATMUL:
            return ops.head_matmul(inputs[0], params[0], arithmetic.matmul_input)
        case Op.BIAS:
            return ops.bias(inputs[0], params)
        case Op.ROPE | Op.POSITION_SCALE:
            return _evaluate_at(position, config, node, stage, inputs[0], arithmetic)
        case Op.SCORES | Op.SOFTCAP | Op.SOFTMAX | Op.ATTEND:
            return _evaluate_attention(model, node, stage, inputs)
        case Op.GELU:
            return ops.gelu(inputs[0], arithmetic.activation)
        case op if op in _OF_HEADS:
            return _OF_HEADS[op](*inputs, stage.heads, stage.head_size)
        case op if op in _ELEMENTWISE:
            return _ELEMENTWISE[op](*inputs)
        case _:
            return _evaluate_experts(model, node, inputs, arithmetic)


_OF_HEADS: Mapping[Op, Callable[..., Array]] = MappingProxyType(
    {
        Op.HEAD_GATE: ops.head_gate,
        Op.HEAD_FRONT: ops.head_front,
        Op.HEAD_BACK: ops.head_back,
        Op.HEAD_JOIN: ops.head_join,
    }
)
"""Ops that take heads apart or join them."""

_ELEMENTWISE: Mapping[Op, Callable[..., Array]] = MappingProxyType(
    {
        Op.ADD: ops.add,
        Op.SILU: ops.silu,
        Op.SIGMOID: ops.sigmoid,
        Op.MULTIPLY: ops.multiply,
        Op.SWIGLU_OAI: ops.swiglu_oai,
        Op.SCALE_ROWS: ops.scale_rows,
    }
)
"""Ops that need no more than their inputs."""


def _evaluate_experts(model: Model, node: Node, inputs: Sequence[Array], arithmetic: Arithmetic) -> Array:
    """The ops of a feed-forward block with experts."""
    op = model.graph[node.stage].op
    match op:
        case Op.ROUTER_SOFTMAX | Op.SOFTMAX_CHOSEN:
            return ops.router_softmax(inputs[0])
        case Op.CHOOSE_EXPERTS:
            graph = model.config.graph
            return ops.choose_experts(inputs[0], graph.experts_used, graph.expert_groups)
        case Op.TAKE_CHOSEN:
            return ops.take_chosen(inputs[0], inputs[1])
        case Op.NORMALISE_CHOSEN:
            return ops.normalise_chosen(inputs[0])
        case Op.SCALE_CHOSEN:
            return ops.scale_chosen(inputs[0], model.config.expert_weights_scale)
        case Op.EXPERT_MATMUL:
            (weight,) = model.params(node)
            return ops.expert_matmul(inputs[0], inputs[1], weight, arithmetic.matmul_input)
        case Op.EXPERT_BIAS:
            return ops.expert_bias(inputs[0], inputs[1], *model.params(node))
        case Op.COMBINE_EXPERTS:
            return ops.combine_experts(inputs[0], inputs[1])
        case _:
            raise AssertionError(f"{op} has no implementation")


_RECURRENCE = RECURRENT_OPS | {Op.HEAD_L2_NORM, Op.SOFTPLUS, Op.DECAY}


def _evaluate_recurrence(
    model: Model, node: Node, stage: Stage, inputs: Sequence[Array], count: int, initial: Array | None
) -> Array:
    """The ops of recurrent layers that other layers lack, for the last `count` positions."""
    config = model.config.graph
    match stage.op:
        case Op.CONVOLUTION:
            return recurrence.convolution(inputs[0], model.params(node)[0], count)
        case Op.HEAD_L2_NORM:
            return recurrence.head_l2_norm(inputs[0], stage.head_size, model.config.norm_epsilon)
        case Op.SOFTPLUS:
            return recurrence.softplus(inputs[0], model.params(node)[0])
        case Op.DECAY:
            return recurrence.decay(inputs[0], model.params(node)[0])
        case Op.DELTA_STATE:
            return recurrence.delta_state(inputs, config, count, initial)
        case _:
            return recurrence.delta_output(inputs[0], inputs[1], inputs[2:], config, initial)


def _evaluate_at(
    position: int, config: ModelConfig, node: Node, stage: Stage, x: Array, arithmetic: Arithmetic
) -> Array:
    """The ops on single tokens that know their positions."""
    if stage.op is Op.POSITION_SCALE:
        return ops.scale_by_position(x, position, config)
    return ops.rope(x, stage.head_size, position, config, node.layer, arithmetic.rope_angles)


def _evaluate_attention(model: Model, node: Node, stage: Stage, inputs: Sequence[Array]) -> Array:
    """The ops on attention maps; a softcap may be that of the logits."""
    config = model.config
    match stage.op:
        case Op.SCORES:
            return ops.scores(inputs[0], inputs[1], config)
        case Op.SOFTCAP:
            return ops.softcap(inputs[0], config.softcap(stage))
        case Op.SOFTMAX:
            return ops.softmax(inputs[0], config.graph.window(node.layer), *model.params(node))
        case _:
            return ops.attend(inputs[0], inputs[1], config, config.graph.window(node.layer))


class NumpyNodes:
    """The reference as a `NodeEvaluator`, in float64 inside and float32 outside."""

    def __init__(self, model: Model, rope_angles: RopeAngles = RopeAngles.F64) -> None:
        self._model = model
        self._arithmetic = Arithmetic(unrounded_input, rope_angles, "f32")

    def evaluate(self, node: Node, inputs: Sequence[Array], *, tokens: Sequence[int], position: int) -> Array:
        with np.errstate(invalid="ignore", over="ignore"):
            return evaluate(self._model, node, inputs, tokens=tokens, position=position, arithmetic=self._arithmetic)

    def close(self) -> None:
        """Nothing to release."""
