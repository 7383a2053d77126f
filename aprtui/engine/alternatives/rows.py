"""Wrong ways of norms, biases, residuals, activations, and of what enters and leaves the model: ops on rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.engine.gelu import gelu_tanh
from aprtui.engine.reference import ops
from aprtui.engine.rounding import ROUND, round_bf16, round_f16
from aprtui.trace.graph.ops import Part
from aprtui.trace.graph.stage import Node

Wide = NDArray[np.float64]

# Norms.


def other_epsilon(call: StageCall) -> Array:
    """The epsilon of another family of models: 10⁻⁵ for 10⁻⁶, or the other way round."""
    return call.with_config(norm_epsilon=1e-6 if call.model.config.norm_epsilon > 3e-6 else 1e-5)


def epsilon_outside(call: StageCall) -> Array:
    """x / (√mean + ε) in place of x / √(mean + ε)."""
    x = normed_rows(call)
    return weighted(call, x / (np.sqrt((x * x).mean(-1, keepdims=True)) + call.model.config.norm_epsilon))


def mean_taken_off(call: StageCall) -> Array:
    """A layer norm in place of a root-mean-square norm."""
    x = normed_rows(call)
    return weighted(call, normalised(x - x.mean(-1, keepdims=True), call.model.config.norm_epsilon))


def sum_for_mean(call: StageCall) -> Array:
    """The squares are not divided by their number."""
    x = normed_rows(call)
    return weighted(call, x / np.sqrt((x * x).sum(-1, keepdims=True) + call.model.config.norm_epsilon))


def squares_in_f16(call: StageCall) -> Array:
    """Squares and their sum are kept in float16, and overflow where a channel is large."""
    wide = normed_rows(call)
    x = wide.astype(np.float16)
    mean = np.add.reduce(x * x, axis=-1, keepdims=True, dtype=np.float16).astype(np.float64) / x.shape[-1]
    return weighted(call, wide / np.sqrt(mean + call.model.config.norm_epsilon))


def squares_of_f16(call: StageCall) -> Array:
    """Squares are float16 numbers, their sum is not."""
    x = normed_rows(call)
    squares = (x.astype(np.float16) ** 2).astype(np.float64)
    mean = squares.mean(-1, keepdims=True)
    return weighted(call, x / np.sqrt(mean + call.model.config.norm_epsilon))


def squares_in_bf16(call: StageCall) -> Array:
    """Values and their squares are rounded to bfloat16, and summed with more digits."""
    wide = normed_rows(call)
    x = round_bf16(wide.astype(np.float32))
    mean = round_bf16(x * x).astype(np.float64).mean(-1, keepdims=True)
    return weighted(call, wide / np.sqrt(mean + call.model.config.norm_epsilon))


def in_16_bits(kind: str, root: Wide | None, call: StageCall) -> Array:
    """Each step of the norm is rounded to a type of 16 bits, and the weight is not. `root` is what each row is divided
    by, one over it: kernels round the steps to that in ways of their own."""
    narrowed = ROUND[kind]
    x = narrowed(normed_rows(call).astype(np.float32))
    if root is None:
        mean = narrowed(narrowed(x * x).mean(-1, keepdims=True, dtype=np.float32))
        root = 1 / np.sqrt(narrowed(mean + np.float32(call.model.config.norm_epsilon)).astype(np.float64))
    return weighted(call, narrowed(x * narrowed(root.astype(np.float32))).astype(np.float64))


def norm_weight_left_out(call: StageCall) -> Array:
    return narrow(call, normalised(normed_rows(call), call.model.config.norm_epsilon))


def norm_weight_plus_one(call: StageCall) -> Array:
    """1 + weight, which is Gemma's way."""
    return call.honest() + norm_weight_left_out(call)


def norm_weight_less_one(call: StageCall) -> Array:
    """The weight as Gemma was trained with it, to which 1 must be added."""
    return call.honest() - norm_weight_left_out(call)


def head_norm_left_out(call: StageCall) -> Array:
    """Queries or keys as they come; where a gate stands behind the query of each head, without it."""
    stage = call.model.graph[call.node.stage]
    if call.x.shape[1] == stage.width:
        return call.x
    return call.x.reshape(len(call.x), -1, 2, stage.head_size)[:, :, 0].reshape(len(call.x), -1)


def norm_of_all_heads(call: StageCall) -> Array:
    """Queries or keys are normalised as one row, not head by head."""
    x = head_norm_left_out(call).astype(np.float64)
    (weight,) = call.model.params(call.node)
    scale = np.sqrt((x * x).mean(-1, keepdims=True) + call.model.config.norm_epsilon)
    weights = np.tile(weight.dequantize().reshape(-1).astype(np.float64), x.shape[1] // weight.dequantize().size)
    return np.asarray(x / scale * weights, np.float32)


def other_norm_of_layer(call: StageCall) -> Array:
    """The weights of the layer's other norm."""
    other = "ffn_norm" if call.node.stage == "attn_norm" else "attn_norm"
    return call.honest(node=Node(call.node.layer, other))


def next_layer(call: StageCall) -> Array:
    """The parameters of the layer behind."""
    return call.honest(node=call.neighbour(1))


def norm_of_layer_input(call: StageCall) -> Array:
    """The feed-forward block gets what the attention got, as in models that compute both side by side."""
    return call.honest(call.layer_input(call.layer))


def first_input(call: StageCall) -> Array:
    """What comes in goes out: the op is left out."""
    return call.x


def _wide(call: StageCall) -> Wide:
    return call.x.astype(np.float64)


def normed_rows(call: StageCall) -> Wide:
    """What is normalised by itself, `[T, heads, columns]`: rows, or each head of a norm of heads."""
    (weight,) = call.model.params(call.node)
    x, stage = call.x, call.model.graph[call.node.stage]
    if x.shape[1] > stage.width:
        x = ops.head_front(x, stage.heads, stage.head_size)
    return x.astype(np.float64).reshape(len(x), -1, weight.columns)


def normalised(x: Wide, epsilon: float) -> Wide:
    return np.asarray(x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon))


def weighted(call: StageCall, rows: Wide) -> Array:
    (weight,) = call.model.params(call.node)
    return narrow(call, rows * weight.dequantize().reshape(-1).astype(np.float64))


def narrow(call: StageCall, rows: Wide) -> Array:
    """`rows` as they leave the stage, `[T, width]`."""
    return np.asarray(rows.reshape(len(call.x), -1), np.float32)


# Biases.


def bias_twice(call: StageCall) -> Array:
    return call.honest(call.honest())


def bias_of_keys_left_out(call: StageCall) -> Array:
    found, keys = call.honest().copy(), call.model.config.graph.part(Part.K)
    found[:, keys] = call.x[:, keys]
    return found


# Residuals.


def second_input(call: StageCall) -> Array:
    """The residual is left out."""
    return call.inputs[1]


def residual_twice(call: StageCall) -> Array:
    return call.inputs[0] + call.honest()


def residual_of_norm(call: StageCall) -> Array:
    """What was normalised is taken for the residual."""
    norm = "attn_norm" if call.node.stage == "post_attn_residual" else "ffn_norm"
    return call.honest(call.before(norm), call.inputs[1])


def residual_of_layer_input(call: StageCall) -> Array:
    """What the attention added is lost: the feed-forward block adds to what entered the layer."""
    return call.honest(call.layer_input(call.layer), call.inputs[1])


def layer_left_out(call: StageCall) -> Array:
    """What entered the layer leaves it."""
    return call.layer_input(call.layer)


def residual_clamped(call: StageCall) -> Array:
    """Values beyond half of the largest one saturate, as in a type of too small a range."""
    found = call.honest()
    limit = np.abs(found).max() / 2
    return np.clip(found, -limit, limit)


# Activations.


def gelu_for_silu(call: StageCall) -> Array:
    return gelu_tanh(_wide(call)).astype(np.float32)


def silu_for_gelu(call: StageCall) -> Array:
    return ops.silu(call.x)


def quick_gelu(call: StageCall) -> Array:
    """x · sigmoid(1.702 · x), an approximation from elsewhere."""
    x = _wide(call)
    return np.asarray(x / (1 + np.exp(-1.702 * x)), np.float32)


def sigmoid_for_silu(call: StageCall) -> Array:
    return np.asarray(1 / (1 + np.exp(-_wide(call))), np.float32)


def hard_silu(call: StageCall) -> Array:
    """x · clip(x + 3, 0, 6) / 6, an approximation from elsewhere."""
    return call.x * np.clip(call.x + 3, 0, 6) / np.float32(6)


def swiglu_not_clamped(call: StageCall) -> Array:
    """Gate and up as large as they come."""
    return ops.swiglu_oai(*call.inputs, limit=np.inf)


def swiglu_without_one(call: StageCall) -> Array:
    """up in place of up + 1."""
    return ops.swiglu_oai(*call.inputs, offset=0.0)


def swiglu_without_factor(call: StageCall) -> Array:
    """sigmoid(gate), as in SiLU, in place of sigmoid(1.702 · gate)."""
    return ops.swiglu_oai(*call.inputs, alpha=1.0)


def activation_of_up(call: StageCall) -> Array:
    """The activation is applied to the other operand, and what multiplies it is the gate."""
    if call.node.stage == "ffn_silu":
        return call.honest(call.before("ffn_up"))
    return call.honest(call.x, call.before("ffn_gate"))


def inf_beyond_limit(call: StageCall) -> Array:
    """Products overflow, as in float16: beyond nine tenths of the largest they are Inf."""
    found = call.honest()
    limit = np.float32(0.9) * np.abs(found).max()
    return np.where(np.abs(found) > limit, np.copysign(np.float32(np.inf), found), found)


def cap_not_undone(call: StageCall) -> Array:
    """tanh(x / c), which is not multiplied by c again."""
    stage = call.model.graph[call.node.stage]
    return call.honest() / np.float32(call.model.config.softcap(stage))


# Tokens and logits.


def next_token_last(call: StageCall) -> Array:
    """The last token has the row of the id behind its own."""
    ids = [*call.tokens[:-1], (call.tokens[-1] + 1) % call.model.config.graph.vocabulary]
    return call.engine.evaluate(call.node, call.inputs, tokens=ids, position=call.position)


def embedding_scaled(call: StageCall) -> Array:
    """Times √H, which is Gemma's way."""
    return call.honest() * np.float32(np.sqrt(call.model.config.graph.hidden))


def logits_of_token_before(call: StageCall) -> Array:
    """Raises `IndexError` where there is no token before."""
    return call.honest(np.ascontiguousarray(call.before("final_norm")[-2][None]))


def logits_a_row_late(call: StageCall) -> Array:
    return np.roll(call.honest(), 1, 1)


def last_logits_zero(call: StageCall) -> Array:
    """The last 64 rows of the vocabulary are not computed, as behind a last full tile."""
    found = call.honest().copy()
    found[:, -64:] = 0
    return found


def f16_logits(call: StageCall) -> Array:
    """Logits whose sums are kept in float16 over blocks of 32 of their terms."""
    x = call.x.astype(np.float64)
    (matrix,) = call.matrices()
    sums = np.zeros((len(x), len(matrix)), np.float32)
    for start in range(0, x.shape[1], 32):
        block = slice(start, start + 32)
        sums = round_f16(sums + (x[:, block] @ matrix[:, block].T).astype(np.float32))
    return sums
