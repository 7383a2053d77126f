"""Faults that compute the op in another way: with other positions, angles, masks, heads, weights, without an input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from aprtui.engine.faults.setting import Array, FaultSetting
from aprtui.engine.protocol import NodeCall
from aprtui.engine.reference import ops
from aprtui.engine.reference.history import HISTORY
from aprtui.engine.rounding import ROUND
from aprtui.model.weight_types import BlockPart, WeightType
from aprtui.model.weights import Weight
from aprtui.trace.graph.config import RopeLayout
from aprtui.trace.graph.ops import MATRIX_PRODUCTS, Op
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph

BLOCK = 32
"""Rows and columns of the block that `transpose-block` turns around, columns of the one that `block-sign` negates."""

_ROWS_AT_ONCE = 4096

_FIRST_SCALE = WeightType.Q4_K.format.parts[BlockPart.SUB_BLOCK_SCALES].start
_SCALE_BIT = 0x10
"""Of a Q4_K block's 6-bit scales, this bit of the first byte is worth 16 of the 63 of sub-block 0."""


def first_input(setting: FaultSetting, call: NodeCall) -> Array:
    """Without its bias: what came in goes out."""
    return call.inputs[0].copy()


def second_input(setting: FaultSetting, call: NodeCall) -> Array:
    """Without the residual: only what was to be added to it."""
    return call.inputs[1].copy()


def eps(setting: FaultSetting, call: NodeCall) -> Array:
    """Another epsilon: 1000 times the model's, or `epsilon`."""
    epsilon = setting.parameters.get("epsilon", 1000 * setting.model.config.norm_epsilon)
    return setting.evaluated(call, config=setting.configured(norm_epsilon=epsilon))


def rope_interleaved(setting: FaultSetting, call: NodeCall) -> Array:
    """The other RoPE layout: 2i with 2i + 1 instead of i with i + d/2, or the other way round."""
    graph = setting.model.config.graph
    interleaved = graph.rope_layout is RopeLayout.INTERLEAVED
    other = RopeLayout.HALF_SPLIT if interleaved else RopeLayout.INTERLEAVED
    return setting.evaluated(call, config=setting.configured(graph=replace(graph, rope_layout=other)))


def rope_theta(setting: FaultSetting, call: NodeCall) -> Array:
    """The RoPE base times `factor`."""
    theta = setting.model.config.rope_of(call.node.layer).theta
    return _turned(setting, call, theta=theta * setting.parameters["factor"])


def rope_unscaled(setting: FaultSetting, call: NodeCall) -> Array:
    """Frequencies without scale, factors or YaRN; a magnitude stays."""
    return _turned(setting, call, scale=1.0, factors=None, yarn=None)


def rope_magnitude_dropped(setting: FaultSetting, call: NodeCall) -> Array:
    """Queries or keys turned and no more."""
    return _turned(setting, call, magnitude=1.0)


def _turned(setting: FaultSetting, call: NodeCall, **changes: float | None) -> Array:
    """Turned by another `Rope` than the layer's own."""
    rope = replace(setting.model.config.rope_of(call.node.layer), **changes)  # type: ignore[arg-type]
    return setting.evaluated(call, config=setting.configured(rope=rope, window_rope=None))


def position_off_by_one(setting: FaultSetting, call: NodeCall) -> Array:
    """Turned as if one position later."""
    return setting.evaluated(call, shift=1)


def rope_everywhere(setting: FaultSetting, call: NodeCall) -> Array:
    """Turned as in the other layers."""
    graph = setting.model.config.graph
    return setting.evaluated(call, config=setting.configured(graph=replace(graph, no_rope=())))


def kv_head_map(setting: FaultSetting, call: NodeCall) -> Array:
    """Each group of query heads meets the K/V head of the next group."""
    heads, cached = setting.model.config.graph.kv_heads, call.inputs[1]
    rolled = np.roll(cached.reshape(len(cached), heads, -1), -1, axis=1).reshape(cached.shape)
    return setting.evaluated(call, inputs=(call.inputs[0], rolled))


def mask_off_by_one(setting: FaultSetting, call: NodeCall) -> Array:
    """Keys < query instead of ≤, but for the first query."""
    scores = call.inputs[0].copy()
    queries = np.arange(scores.shape[1]) + setting.positions(call).start
    for row, query in enumerate(queries):
        if query:
            scores[:, row, query] = -np.inf
    return setting.evaluated(call, inputs=(scores,))


def wrong_expert(setting: FaultSetting, call: NodeCall) -> Array:
    """The expert after the last chosen one that is not chosen already, in the place of that one."""
    out, experts = call.output.copy(), setting.model.config.graph.experts
    for row in out:
        following = ((row[-1] + step) % experts for step in range(1, experts))
        row[-1] = next(expert for expert in following if expert not in row)
    return out


def groups_ignored(setting: FaultSetting, call: NodeCall) -> Array:
    """Experts are chosen from all groups."""
    graph = replace(setting.model.config.graph, expert_groups=None)
    return setting.evaluated(call, config=setting.configured(graph=graph))


def window_off_by_one(setting: FaultSetting, call: NodeCall) -> Array:
    """A query sees one key more than the window of its layer has."""
    graph = setting.model.config.graph
    windows = tuple(window + 1 if window else 0 for window in graph.windows)
    return setting.evaluated(call, config=setting.configured(graph=replace(graph, windows=windows)))


def sink_dropped(setting: FaultSetting, call: NodeCall) -> Array:
    """No logit of a sink joins the sum of the softmax."""
    return ops.softmax(call.inputs[0], setting.model.config.graph.window(call.node.layer))


def clamp_dropped(setting: FaultSetting, call: NodeCall) -> Array:
    """The SwiGLU of gpt-oss with gate and up as large as they come."""
    return ops.swiglu_oai(*call.inputs, limit=np.inf)


def up_offset_dropped(setting: FaultSetting, call: NodeCall) -> Array:
    """The SwiGLU of gpt-oss with up in place of up + 1."""
    return ops.swiglu_oai(*call.inputs, offset=0.0)


def norm_offset_dropped(setting: FaultSetting, call: NodeCall) -> Array:
    """Normalised values times the weight less the 1 that belongs to it."""
    (weight,) = setting.model.params(call.node)
    factors = np.tile(weight.dequantize().reshape(-1), call.output.shape[1] // weight.columns)
    with np.errstate(divide="ignore", invalid="ignore"):
        normalised = np.where(factors == 0, np.float32(0), call.output / factors)
    return np.asarray(normalised * (factors - 1), np.float32)


def state_not_reset(setting: FaultSetting, call: NodeCall) -> Array:
    """As if the first token had been there once before: what it left is what the recurrence begins with."""
    op = setting.model.graph[call.node.stage].op
    inputs = [
        np.concatenate([rows[:1], rows]) if (op, index) in HISTORY else rows for index, rows in enumerate(call.inputs)
    ]
    if op is Op.DELTA_OUTPUT:
        inputs[0] = inputs[0][:0]  # the state of the last position is another one as well
    return setting.evaluated(call, inputs=tuple(inputs))


def transpose_block(setting: FaultSetting, call: NodeCall) -> Array:
    """The first block of a weight (32 × 32) transposed, as a tile read along the wrong axis is."""
    weight = setting.model.params(call.node)[0]
    rows = weight.dequantize(slice(0, BLOCK))
    rows[:, :BLOCK] = rows[:, :BLOCK].T.copy()
    return setting.with_rows(call, weight, 0, rows)


def block_scale(setting: FaultSetting, call: NodeCall) -> Array:
    """One 6-bit scale of a Q4_K block wrong: the first sub-block of the first row."""
    offset = 0
    for weight in setting.model.params(call.node):
        if weight.type is WeightType.Q4_K:
            data = weight.data[:1].copy()
            data[0, _FIRST_SCALE] ^= _SCALE_BIT
            wrong = Weight(weight.name, weight.type, 1, weight.columns, data)
            return setting.with_rows(call, weight, offset, wrong.dequantize())
        offset += weight.rows
    raise AssertionError("applies to Q4_K weights only")


def block_sign(setting: FaultSetting, call: NodeCall) -> Array:
    """The first block of a row of the weight (32 columns) with the other sign."""
    weight, row = setting.model.params(call.node)[0], 0
    rows = weight.dequantize(slice(row, row + 1))
    rows[:, :BLOCK] *= -1
    return setting.with_rows(call, weight, row, rows)


def k_tail(setting: FaultSetting, call: NodeCall) -> Array:
    """The products of the last `count` columns are not added."""
    out, offset = call.output.astype(np.float64), 0
    for weight in setting.model.params(call.node):
        tail = slice(max(0, weight.columns - int(setting.parameters["count"])), None)
        inputs = ROUND[setting.arithmetic.matmul_input(weight)](call.inputs[0])[:, tail].astype(np.float64)
        for start in range(0, weight.rows, _ROWS_AT_ONCE):
            rows = weight.dequantize(slice(start, start + _ROWS_AT_ONCE))[:, tail]
            out[:, offset + start : offset + start + len(rows)] -= inputs @ rows.T
        offset += weight.rows
    return out.astype(np.float32)


def gate_up_swap(setting: FaultSetting, call: NodeCall) -> Array:
    """The weights of the matrix product beside it, which reads the same input and is as wide."""
    sibling = sibling_of(setting.model.graph, call.node)
    assert sibling is not None, "applies where there is a sibling only"
    return setting.evaluated(call, node=sibling)


def sibling_of(graph: StageGraph, node: Node) -> Node | None:
    """The matrix product beside that of `node`; None where there is none."""
    if graph[node.stage].op not in MATRIX_PRODUCTS:
        return None
    return next((Node(node.layer, stage.name) for stage in graph.siblings(node.stage)), None)
