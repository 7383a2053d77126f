"""Wrong ways of matrix products: how weights are read, which are read, and what is summed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from aprtui.engine.alternatives.call import Array, Matrix, StageCall, layers_with, middle_two
from aprtui.model.model import Model
from aprtui.model.weight_types import BlockPart
from aprtui.model.weights import Weight
from aprtui.trace.graph.ops import Part
from aprtui.trace.graph.stage import Node

BLOCK = 32
_NIBBLES = frozenset({"Q4_0", "Q4_1", "Q4_K"})


def is_square(model: Model, node: Node) -> bool:
    return all(weight.rows == weight.columns for weight in model.params(node))


def is_matrix(model: Model, node: Node) -> bool:
    weights = model.params(node)
    return bool(weights) and all(weight.rows > 1 for weight in weights)


def has_minimums(model: Model, node: Node) -> bool:
    return any(map(_has_minimum, model.params(node)))


def has_nibbles(model: Model, node: Node) -> bool:
    return any(map(_has_nibbles, model.params(node)))


def _has_minimum(weight: Weight) -> bool:
    return BlockPart.MINIMUM in weight.type.format.parts


def _has_nibbles(weight: Weight) -> bool:
    return weight.type.name in _NIBBLES


# How weights are read.


def transposed(call: StageCall) -> Array:
    """A square matrix is taken the wrong way round."""
    return call.product([matrix.T for matrix in call.matrices()])


def minimums_left_out(call: StageCall) -> Array:
    """Values of blocks with a minimum are decoded without it."""
    weights = call.model.params(call.node)
    return call.product([_decoded(w, BlockPart.MINIMUM) if _has_minimum(w) else _plain(w) for w in weights])


def nibbles_exchanged(call: StageCall) -> Array:
    """The lower half of each byte of quants is taken for the upper one."""
    weights = call.model.params(call.node)
    return call.product([_decoded(w, BlockPart.QUANTS) if _has_nibbles(w) else _plain(w) for w in weights])


def _plain(weight: Weight) -> Matrix:
    return weight.dequantize().astype(np.float64)


def _decoded(weight: Weight, part: BlockPart) -> Matrix:
    """`weight` with its minimums zero, or the halves of its quants exchanged."""
    row = weight.type.format
    data = weight.data.copy()
    bytes_of_part = data.reshape(weight.rows, -1, row.block_bytes)[..., row.parts[part]]
    bytes_of_part[...] = 0 if part is BlockPart.MINIMUM else bytes_of_part >> 4 | bytes_of_part << 4
    return _plain(replace(weight, data=data))


def block_scale_doubled(call: StageCall) -> Array:
    """One block of the first row has twice its scale."""
    first, *others = call.matrices()
    first[0, :BLOCK] *= 2
    return call.product([first, *others])


def block_negated(call: StageCall) -> Array:
    """The first block of each of 32 rows has the wrong sign."""
    first, *others = call.matrices()
    first[:BLOCK, :BLOCK] *= -1
    return call.product([first, *others])


def tile_transposed(call: StageCall) -> Array:
    """A tile of 32 × 32 is read along the wrong axis."""
    first, *others = call.matrices()
    first[:BLOCK, :BLOCK] = first[:BLOCK, :BLOCK].T.copy()
    return call.product([first, *others])


def columns_reversed(call: StageCall) -> Array:
    """Within each block of 32 the weights stand in reverse."""
    return call.product([m.reshape(len(m), -1, BLOCK)[..., ::-1].reshape(m.shape) for m in call.matrices()])


# Which are read.


def other_layer(call: StageCall) -> Array:
    """The middle layer has the parameters of the one behind it, and that one those of the middle one."""
    both = middle_two(layers_with(call.model, call.node.stage))
    return call.honest(node=Node(both[both[0] == call.layer], call.node.stage))


def layer_before(call: StageCall) -> Array:
    """A layer is used twice, in place of the one behind it."""
    return call.honest(node=call.neighbour(-1))


def next_layer(call: StageCall) -> Array:
    """The matrix of the layer behind."""
    return call.honest(node=call.neighbour(1))


def gate_and_up_exchanged(call: StageCall) -> Array:
    other = "ffn_up" if call.node.stage == "ffn_gate" else "ffn_gate"
    return call.honest(node=Node(call.node.layer, other))


def keys_and_values_exchanged(call: StageCall) -> Array:
    """Of the fused product, the rows of values stand where those of keys belong."""
    found, part = call.honest(), call.model.config.graph.part
    return np.concatenate([found[:, part(Part.Q)], found[:, part(Part.V)], found[:, part(Part.K)]], 1)


# What is summed.


def tail_left_out(call: StageCall) -> Array:
    """The last 32 columns are not summed."""
    x = call.x.copy()
    x[:, -BLOCK:] = 0
    return call.honest(x)


def second_half_unsummed(call: StageCall) -> Array:
    """Of the last 32 rows the second half of the columns is lost: a partial sum that nobody adds."""
    last = call.matrices()[-1][-BLOCK:]
    half = last.shape[1] // 2
    found = call.honest().copy()
    found[:, -BLOCK:] = call.x[:, :half].astype(np.float64) @ last[:, :half].T
    return found


def last_channels_zero(call: StageCall) -> Array:
    """The last eight channels are not computed."""
    found = call.honest().copy()
    found[:, -8:] = 0
    return found


def last_row_stale(call: StageCall) -> Array:
    """The last token still has the values of the one before."""
    found = call.honest().copy()
    found[-1] = found[-2]
    return found


def input_clamped(call: StageCall) -> Array:
    """Inputs beyond half of their largest saturate."""
    limit = np.abs(call.x).max() / 2
    return call.honest(np.clip(call.x, -limit, limit))


def scale_of_block_before(call: StageCall) -> Array:
    """The input's blocks of 32 are rounded to 8 bits by the scale of the block before, and saturate."""
    blocks = call.x.reshape(len(call.x), -1, BLOCK)
    scale = np.roll(np.abs(blocks).max(-1, keepdims=True), 1, 1) / 127
    quants = np.clip(np.rint(np.where(scale == 0, 0, blocks / scale)), -127, 127)
    return call.honest(np.asarray((quants * scale).reshape(call.x.shape), np.float32))


def one_nan(call: StageCall) -> Array:
    found = call.honest().copy()
    found[len(found) // 2, 7] = np.nan
    return found
