"""Each op of the stage graph in plain numpy: float64 inside, float32 out.

Shape suffixes: N = positions evaluated, T = all positions so far (T ≥ N), C = channels, H = query heads,
G = key/value heads, D = channels of a head, E = experts, K = experts that a token uses. Attention maps are `[H, N, T]`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.gelu import gelu_f16, gelu_tanh
from aprtui.engine.rounding import ROUND, sum_correction
from aprtui.model.config import ModelConfig, RopeAngles
from aprtui.model.weights import Weight
from aprtui.trace.experts import in_groups
from aprtui.trace.graph.config import ExpertGroups, RopeLayout

Array = NDArray[np.float32]
Wide = NDArray[np.float64]

# Rows of a matrix that are dequantised at a time: bounds memory at 256 MB for 16384 columns.
_ROWS = 2048


def _narrow(x: Wide) -> Array:
    return x.astype(np.float32)


def embed(table: Weight, tokens: Sequence[int], scale: float) -> Array:
    """Rows `tokens` of the embedding table times `scale`, `[N, C]`; the product in float32."""
    return table.dequantize(list(tokens)) * np.float32(scale)


def rms_norm(x_NC: Array, weight: Weight, epsilon: float) -> Array:
    """Root-mean-square normalisation (Zhang & Sennrich 2019, arXiv:1910.07467) over the channels, times `weight`."""
    x = x_NC.astype(np.float64)
    scale = 1.0 / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon)
    return _narrow(x * scale * weight.dequantize().reshape(-1).astype(np.float64))


def head_rms_norm(x_NC: Array, weight: Weight, epsilon: float) -> Array:
    """`rms_norm` of each head on its own; `weight` holds one head's channels."""
    heads = x_NC.reshape(x_NC.shape[0], -1, weight.columns)
    return rms_norm(heads, weight, epsilon).reshape(x_NC.shape)


def head_front(x_NC: Array, heads: int, size: int) -> Array:
    """The first `size` channels of each head, as the queries of heads with a gate, heads side by side."""
    return x_NC.reshape(x_NC.shape[0], heads, -1)[:, :, :size].reshape(x_NC.shape[0], -1)


def head_back(x_NC: Array, heads: int, size: int) -> Array:
    """The last `size` channels of each head, as the gates of such heads."""
    return x_NC.reshape(x_NC.shape[0], heads, -1)[:, :, -size:].reshape(x_NC.shape[0], -1)


def head_gate(x_NC: Array, heads: int, size: int) -> Array:
    """The sigmoid of the gate that stands behind the query in each head, heads side by side."""
    return sigmoid(head_back(x_NC, heads, size))


def head_join(front_NC: Array, back_NC: Array, heads: int, size: int) -> Array:
    """Heads of `size` channels, each made of a front of its own and a back, which all heads may share."""
    front = front_NC.reshape(len(front_NC), heads, -1)
    back = back_NC.reshape(len(back_NC), -1, size - front.shape[2])
    back = np.broadcast_to(back, (*front.shape[:2], back.shape[2]))
    return np.concatenate([front, back], axis=2).reshape(len(front), -1)


def matmul(x_NC: Array, weights: Sequence[Weight], matmul_input: Callable[[Weight], str]) -> Array:
    """`x` times the transpose of each weight, side by side; the input is rounded as `matmul_input` names it."""
    return np.concatenate([_product(x_NC, weight, matmul_input(weight)) for weight in weights], axis=1)


def _product(x_NC: Array, weight: Weight, rounding: str) -> Array:
    out = np.empty((x_NC.shape[0], weight.rows), np.float32)
    wide = ROUND[rounding](x_NC).astype(np.float64)
    for start in range(0, weight.rows, _ROWS):
        rows = slice(start, min(start + _ROWS, weight.rows))
        product = wide @ weight.dequantize(rows).astype(np.float64).T
        out[:, rows] = product + sum_correction(rounding, x_NC, weight, rows)
    return out


def bias(x_NC: Array, biases: Sequence[Weight]) -> Array:
    """`x` plus the biases, side by side."""
    joined = np.concatenate([vector.dequantize().reshape(-1) for vector in biases])
    return np.asarray(x_NC + joined, np.float32)


def rope(
    x_NC: Array, head_dim: int, position: int, config: ModelConfig, layer: int | None, arithmetic: RopeAngles
) -> Array:
    """Rotary position embedding of heads of `head_dim` channels at positions `position …`, on pairs as the graph's
    `rope_layout` says; `x` itself in a layer without. Channels behind the rotated ones stay as they are."""
    if not config.graph.has_rope(layer):
        return x_NC.copy()
    dim = config.graph.rotated
    x = x_NC.reshape(x_NC.shape[0], -1, head_dim).astype(np.float64)
    turns = config.rope_of(layer).turns(position, x.shape[0], dim, arithmetic)
    cos, sin = (values[:, None, :] for values in turns)
    if config.graph.rope_layout is RopeLayout.INTERLEAVED:
        first, second = slice(0, dim, 2), slice(1, dim, 2)
    else:
        first, second = slice(0, dim // 2), slice(dim // 2, dim)
    out = x.copy()
    out[..., first] = x[..., first] * cos - x[..., second] * sin
    out[..., second] = x[..., first] * sin + x[..., second] * cos
    return _narrow(out.reshape(x_NC.shape))


def scale_by_position(q_NC: Array, position: int, config: ModelConfig) -> Array:
    """Queries of positions `position …`, each times the factor of its position; in float32."""
    assert config.query_temperature is not None
    return q_NC * config.query_temperature.factors(position, q_NC.shape[0])[:, None]


def scores(q_NC: Array, k_TC: Array, config: ModelConfig) -> Array:
    """Scaled dot products of queries and keys, `[H, N, T]`; zero where key > query."""
    graph = config.graph
    count, total = q_NC.shape[0], k_TC.shape[0]
    q = q_NC.reshape(count, graph.kv_heads, -1, graph.head_dim).astype(np.float64)
    k = k_TC.reshape(total, graph.kv_heads, graph.head_dim).astype(np.float64)
    maps = np.einsum("nghd,tgd->ghnt", q, k).reshape(graph.heads, count, total) * config.score_scale
    return _narrow(np.where(_causal_mask(count, total), maps, 0.0))


def softcap(x: Array, cap: float) -> Array:
    """cap · tanh(x / cap): values kept between −cap and cap (Gemma 2, arXiv:2408.00118)."""
    return _narrow(cap * np.tanh(x.astype(np.float64) / cap))


def softmax(scores_HNT: Array, window: int = 0, sinks: Weight | None = None) -> Array:
    """Softmax over the keys ≤ query, of them the last `window` unless that is 0; zero elsewhere.

    `sinks` are logits, one a head, whose powers join the sum that is divided by (Xiao et al. 2023, arXiv:2309.17453).
    """
    mask = _causal_mask(*scores_HNT.shape[1:])
    if window:
        mask &= ~np.tril(np.ones_like(mask), mask.shape[1] - mask.shape[0] - window)
    wide = np.where(mask, scores_HNT.astype(np.float64), -np.inf)
    largest = wide.max(-1, keepdims=True)
    if sinks is None:
        powers = np.exp(wide - largest)
        return _narrow(np.where(mask, powers / powers.sum(-1, keepdims=True), 0.0))
    logits = sinks.dequantize().reshape(-1, 1, 1).astype(np.float64)
    largest = np.maximum(largest, logits)
    powers = np.exp(wide - largest)
    return _narrow(np.where(mask, powers / (powers.sum(-1, keepdims=True) + np.exp(logits - largest)), 0.0))


def _causal_mask(count: int, total: int) -> NDArray[np.bool_]:
    return np.arange(total)[None, :] <= np.arange(total - count, total)[:, None]


def attend(softmax_HNT: Array, v_TC: Array, config: ModelConfig, window: int = 0) -> Array:
    """Values weighted by the attention maps, heads side by side."""
    graph = config.graph
    count, total = softmax_HNT.shape[1:]
    maps = softmax_HNT.reshape(graph.kv_heads, -1, count, total).astype(np.float64)
    v = v_TC.reshape(total, graph.kv_heads, graph.value_dim).astype(np.float64)
    if np.isfinite(v).all():
        return _narrow(np.einsum("ghnt,tgd->nghd", maps, v).reshape(count, -1))
    # What a query does not see has the weight 0, but 0 · NaN is NaN: each query meets its own keys only.
    ends = range(total - count + 1, total + 1)
    seen = [slice(max(0, end - (window or total)), end) for end in ends]
    rows = [np.einsum("ght,tgd->ghd", maps[:, :, query, keys], v[keys]) for query, keys in enumerate(seen)]
    return _narrow(np.stack(rows).reshape(count, -1))


def add(a: Array, b: Array) -> Array:
    """Residual addition, in float32."""
    return np.asarray(a + b, np.float32)


def silu(x: Array) -> Array:
    """x · sigmoid(x) (Elfwing et al. 2017, arXiv:1702.03118)."""
    wide = x.astype(np.float64)
    with np.errstate(over="ignore"):
        return _narrow(wide / (1.0 + np.exp(-wide)))


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(−x))."""
    with np.errstate(over="ignore"):
        return _narrow(1.0 / (1.0 + np.exp(-x.astype(np.float64))))


def gelu(x: Array, activation: str) -> Array:
    """GELU by its approximation with tanh, or where `activation` is f16 as ggml looks it up."""
    return gelu_f16(x) if activation == "f16" else _narrow(gelu_tanh(x.astype(np.float64)))


SWIGLU_ALPHA, SWIGLU_LIMIT = 1.702, 7.0
"""What gpt-oss multiplies the gate by on its way into the sigmoid, and what gate and up are clamped to."""


def swiglu_oai(
    gate: Array, up: Array, *, alpha: float = SWIGLU_ALPHA, limit: float = SWIGLU_LIMIT, offset: float = 1.0
) -> Array:
    """(up + offset) · gate · sigmoid(alpha · gate), the gate at most `limit`, up between −limit and limit (gpt-oss)."""
    x = np.minimum(gate.astype(np.float64), limit)
    y = np.clip(up.astype(np.float64), -limit, limit)
    with np.errstate(over="ignore"):
        return _narrow((y + offset) * (x / (1.0 + np.exp(-alpha * x))))


def multiply(a: Array, b: Array) -> Array:
    """Elementwise product, in float32."""
    return np.asarray(a * b, np.float32)


def scale_rows(x_NC: Array, factors_N1: Array) -> Array:
    """Each row times its factor, in float32."""
    return np.asarray(x_NC * factors_N1, np.float32)


def router_softmax(logits_NE: Array) -> Array:
    """Softmax over the experts, or over those that were chosen."""
    wide = logits_NE.astype(np.float64)
    powers = np.exp(wide - wide.max(-1, keepdims=True))
    return _narrow(powers / powers.sum(-1, keepdims=True))


def choose_experts(router_NE: Array, count: int, groups: ExpertGroups | None = None) -> Array:
    """The `count` most probable experts, `[N, K]`: most probable first, of equal ones the first; NaN comes last.

    With `groups`, those of a token's best groups only, whatever the others have.
    """
    if groups is None:
        return np.argsort(-router_NE, axis=-1, kind="stable")[:, :count].astype(np.float32)
    ordered = np.lexsort((-router_NE, ~in_groups(router_NE, groups)), axis=-1)
    return ordered[:, :count].astype(np.float32)


def chosen_ids(indices_NK: Array, experts: int) -> NDArray[np.int64]:
    """The indices as integers. What is no expert is taken for the nearest one, so that no engine reads elsewhere."""
    return np.rint(np.clip(np.nan_to_num(indices_NK, nan=0.0), 0, experts - 1)).astype(np.int64)


def take_chosen(router_NE: Array, indices_NK: Array) -> Array:
    """The probabilities of the chosen experts, `[N, K]`."""
    return np.take_along_axis(router_NE, chosen_ids(indices_NK, router_NE.shape[1]), axis=1)


LEAST_WEIGHT_SUM = 2.0**-14
"""What the weights of a token's experts are divided by at least: the least normal float16, as in llama.cpp."""


def normalise_chosen(weights_NK: Array) -> Array:
    """The weights of a token's experts divided by their sum."""
    wide = weights_NK.astype(np.float64)
    return _narrow(wide / np.maximum(wide.sum(-1, keepdims=True), LEAST_WEIGHT_SUM))


def scale_chosen(weights_NK: Array, scale: float) -> Array:
    """The weights of a token's experts times a number of the model, in float32."""
    return np.asarray(weights_NK * np.float32(scale), np.float32)


def expert_matmul(x_NC: Array, indices_NK: Array, weight: Weight, matmul_input: Callable[[Weight], str]) -> Array:
    """`x` times the transpose of the matrix of each chosen expert, `[N, K · rows]`; see `expert_rows` for `x`."""
    kind = matmul_input(weight)
    return of_experts(x_NC, indices_NK, weight, lambda rows, expert: _product(rows, expert, kind))


def expert_sum_correction(rounding: str, x_NC: Array, indices_NK: Array, weight: Weight) -> Array | float:
    """What `rounding.sum_correction` is to a matrix product, for that of experts, `[N, K · rows]`."""
    return of_experts(x_NC, indices_NK, weight, lambda rows, expert: sum_correction(rounding, rows, expert))


def of_experts(
    x_NC: Array, indices_NK: Array, weight: Weight, compute: Callable[[Array, Weight], Array | float]
) -> Array:  # fmt: skip
    """What `compute` makes of the rows of each chosen expert and its matrix, `[N, K · rows]`."""
    ids = chosen_ids(indices_NK, weight.experts)
    rows_NKC = expert_rows(x_NC, weight.columns, ids.shape[1])
    out = np.empty((*ids.shape, weight.expert_rows), np.float32)
    for expert in np.unique(ids):
        chosen = ids == expert
        out[chosen] = compute(rows_NKC[chosen], weight.expert(int(expert)))
    return out.reshape(len(ids), -1)


def head_matmul(x_NC: Array, weight: Weight, matmul_input: Callable[[Weight], str]) -> Array:
    """Each head's channels times the transpose of a matrix of its own, heads side by side."""
    return expert_matmul(x_NC, each_head(len(x_NC), weight), weight, matmul_input)


def each_head(count: int, weight: Weight) -> Array:
    """The numbers of the heads that have a matrix in `weight`, for each of `count` rows: heads are experts that all
    tokens choose."""
    return np.broadcast_to(np.arange(weight.experts, dtype=np.float32), (count, weight.experts))


def expert_rows(x_NC: Array, columns: int, chosen: int) -> Array:
    """What each chosen expert of a token multiplies, `[N, K, columns]`: the token's row, or each its own part of it."""
    rows = x_NC.reshape(len(x_NC), -1, columns)
    return np.broadcast_to(rows, (len(x_NC), chosen, columns))


def expert_bias(x_NC: Array, indices_NK: Array, biases: Weight) -> Array:
    """What each chosen expert of a token computes plus its bias."""
    added = biases.dequantize()[chosen_ids(indices_NK, biases.rows)]
    return np.asarray(x_NC + added.reshape(x_NC.shape), np.float32)


def combine_experts(down_NC: Array, weights_NK: Array) -> Array:
    """The sum of what the chosen experts of a token compute, times their weights."""
    rows = down_NC.reshape(*weights_NK.shape, -1).astype(np.float64)
    return _narrow((rows * weights_NK.astype(np.float64)[..., None]).sum(1))
