"""Wrong ways of scores, masks and softmax, and of which keys and values a query meets. Maps are `[heads, n, T]`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.engine.reference import ops
from aprtui.engine.rounding import round_f16
from aprtui.model.weight_types import WeightType
from aprtui.trace.graph.ops import Op, Part
from aprtui.trace.graph.stage import Node

Mask = NDArray[np.bool_]
TILE = 8
"""Keys that a kernel takes together."""
WINDOW = 4


# Scores.


def scaled_by_dimension(call: StageCall) -> Array:
    """1/d in place of 1/√d."""
    return call.honest() / np.float32(np.sqrt(call.model.config.graph.head_dim))


def not_scaled(call: StageCall) -> Array:
    return call.honest() * np.float32(np.sqrt(call.model.config.graph.head_dim))


def scaled_by_hidden(call: StageCall) -> Array:
    """1/√H with the hidden size in place of the head's."""
    graph = call.model.config.graph
    return call.honest() * np.float32(np.sqrt(graph.head_dim / graph.hidden))


# Which keys and values.


def group_by_remainder(call: StageCall) -> Array:
    """Query head h meets K/V head h mod n in place of h div n."""
    graph = call.model.config.graph
    order = np.concatenate([np.arange(first, graph.heads, graph.kv_heads) for first in range(graph.kv_heads)])
    back = np.argsort(order)
    if call.op is Op.SCORES:
        queries = call.heads(call.x)[:, order].reshape(call.x.shape)
        return call.honest(queries, call.inputs[1])[back]
    found = call.honest(np.ascontiguousarray(call.x[order]), call.inputs[1])
    return call.heads(found)[:, back].reshape(found.shape)


def first_head_for_all(call: StageCall) -> Array:
    """Every query head meets the first K/V head."""
    return _with_cached(call, of_first_head(call))


def of_first_head(call: StageCall) -> Array:
    return np.repeat(call.heads(call.inputs[1])[:, :1], call.model.config.graph.kv_heads, 1)


def neighbouring_head(call: StageCall) -> Array:
    """Each group meets the K/V head of the next."""
    return _with_cached(call, of_next_head(call))


def of_next_head(call: StageCall) -> Array:
    return np.roll(call.heads(call.inputs[1]), -1, 1)


def a_slot_late(call: StageCall) -> Array:
    """The cache is written a position late."""
    return _with_cached(call, of_token_before(call))


def of_token_before(call: StageCall) -> Array:
    cached = call.inputs[1]
    return np.concatenate([cached[:1], cached[:-1]])


def newest_not_written(call: StageCall) -> Array:
    """The row of the last token is still zero when it is read."""
    return _with_cached(call, without_newest(call))


def without_newest(call: StageCall) -> Array:
    cached = call.inputs[1].copy()
    cached[-1] = 0
    return cached


def a_row_late_from(first: int, call: StageCall) -> Array:
    """From token `first` on, keys and values are written to the row behind their own: row `first` stays zero, and no
    token finds its own. Tokens before it, of a prompt, are computed as they should be."""
    begins = max(first - call.position, 0)
    found = call.honest().copy()
    if call.op is Op.SCORES:
        late = found[:, begins:].copy()
        late[..., first + 1 :] = found[:, begins:, first:-1]
        late[..., first] = 0
        found[:, begins:] = late
        return np.tril(found, found.shape[2] - found.shape[1])
    cached = call.inputs[1]
    rows = np.concatenate([cached[:first], np.zeros_like(cached[:1]), cached[first:-1]])
    found[begins:] = call.honest(call.x, rows)[begins:]
    return found


def a_row_late_in_decoding(call: StageCall) -> Array:
    """The first half is a prompt."""
    return a_row_late_from(len(call.inputs[1]) // 2, call)


def values_of_layer_before(call: StageCall) -> Array:
    return _with_cached(call, call.fused(call.neighbour(-1).layer or 0, Part.V))


def keys_as_values(call: StageCall) -> Array:
    """The cache of the keys is read for the values, too."""
    return _with_cached(call, call.before(_keys(call)))


def _keys(call: StageCall) -> str:
    return call.model.graph["attn_scores"].inputs[1].stage


def values_as_keys(call: StageCall) -> Array:
    """The split of the fused product has keys and values in each other's place: of the keys what RoPE makes of them."""
    return call.honest(call.fused(call.layer, Part.V))


def values_without_bias(call: StageCall) -> Array:
    return _with_cached(call, call.before("qkv_matmul", Part.V))


def turned_values(call: StageCall) -> Array:
    """Values are turned by RoPE like the keys."""
    return _with_cached(call, call.honest(call.inputs[1], node=Node(call.layer, "k_post_rope")))


def _with_cached(call: StageCall, cached: Array) -> Array:
    return call.honest(call.x, np.ascontiguousarray(cached).reshape(call.inputs[1].shape))


# Which keys a query sees: the probabilities, and what they weigh.


def own_key_unseen(call: StageCall) -> Array:
    """Keys < query in place of ≤, but for the first query."""
    return seeing(call, lambda query, key: (key < query) | ((query == 0) & (key == 0)))


def next_key_seen(call: StageCall) -> Array:
    """Keys ≤ query + 1."""
    return seeing(call, lambda query, key: key <= query + 1)


def no_mask(call: StageCall) -> Array:
    """Every query of a prompt sees every key."""
    return seeing(call, lambda query, key: key >= 0)


def first_key_unseen(call: StageCall) -> Array:
    """The first token is taken for padding, but for its own query."""
    return seeing(call, lambda query, key: ((key > 0) | (query == 0)) & (key <= query))


def only_itself(call: StageCall) -> Array:
    """The last token does not get the keys that were cached before it."""
    return seeing(call, lambda query, key: (key <= query) & ((query < query.max()) | (key == query)))


def windowed(call: StageCall) -> Array:
    """A window of four positions, which the model does not have."""
    return within(call, WINDOW)


def window_one_more(call: StageCall) -> Array:
    """query − key ≤ n in place of <."""
    return within(call, call.model.config.graph.window(call.node.layer) + 1)


def window_left_out(call: StageCall) -> Array:
    """Every key before is seen, as in the layers without a window."""
    return within(call, 0)


def within(call: StageCall, window: int) -> Array:
    """Each query sees `window` positions, its own included; all before it where that is 0."""
    return seeing(call, lambda query, key: key <= query, window)


def last_tile_left_out(call: StageCall, tile: int = TILE) -> Array:
    """Keys behind the last full tile are not summed, but where there is no full one."""
    return seeing(call, lambda query, key: (key <= query) & ((key < (query + 1) // tile * tile) | (query + 1 < tile)))


def own_key_unseen_by_all(call: StageCall, *, first: float) -> Array:
    """Keys < query, so that the first query sees none: it weighs every key by `first`."""
    scores = all_scores(call)
    maps = _softmax(call, scores, _own_mask(call, *scores.shape[1:], own=False)).copy()
    if maps.shape[1] == maps.shape[2]:
        maps[:, 0] = first
    return weighted(call, maps)


def finite_mask(call: StageCall) -> Array:
    """−10 is added to what is masked, in place of −∞."""
    scores = all_scores(call)
    scores = np.where(_own_mask(call, *scores.shape[1:]), scores, scores - 10)
    return weighted(call, _softmax(call, scores, np.ones(scores.shape[1:], bool)))


def masked_after(call: StageCall) -> Array:
    """The mask multiplies what the softmax made of all keys, so that rows do not sum to 1."""
    scores = all_scores(call)
    maps = _softmax(call, scores, np.ones(scores.shape[1:], bool))
    return weighted(call, np.where(_own_mask(call, *scores.shape[1:]), maps, np.float32(0)))


def seeing(
    call: StageCall, sees: Callable[[NDArray[np.int64], NDArray[np.int64]], Mask], window: int | None = None
) -> Array:  # fmt: skip
    """What keys a query `sees` gives, of them those within a window: the layer's own, unless it is given."""
    scores = all_scores(call)
    query, key = _places(*scores.shape[1:])
    window = call.model.config.graph.window(call.node.layer) if window is None else window
    visible = sees(query, key) & ((query - key < window) if window else np.True_)
    return weighted(call, _softmax(call, scores, visible))


def _places(count: int, total: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.arange(total - count, total)[:, None], np.arange(total)[None]


def _own_mask(call: StageCall, count: int, total: int, *, own: bool = True) -> Mask:
    """The mask of the model; without the `own` key of each query, if wanted."""
    window = call.model.config.graph.window(call.node.layer)
    query, key = _places(count, total)
    return (key <= query if own else key < query) & ((query - key < window) if window else np.True_)


def _softmax_node(call: StageCall) -> Node:
    return call.node if call.op is Op.SOFTMAX else call.model.graph.inputs(call.node)[0]


def all_scores(call: StageCall) -> Array:
    """The scores of every query and every key: those that were computed, and above the diagonal what they would be."""
    config, graph = call.model.config, call.model.graph
    source = graph.inputs(_softmax_node(call))[0]
    seen = call.x if call.op is Op.SOFTMAX else call.seen[source]
    made_from = (call.before(entry.stage) for entry in graph["attn_scores"].inputs)
    q, k = (x.reshape(len(x), -1, config.graph.head_dim).astype(np.float64) for x in made_from)
    k = np.repeat(k, config.graph.heads // config.graph.kv_heads, 1)
    scores = np.asarray(np.einsum("nhd,thd->hnt", q, k) * config.score_scale, np.float32)
    if graph[source.stage].op is Op.SOFTCAP:
        scores = ops.softcap(scores, config.softcap(graph[source.stage]))
    computed = causal(*scores.shape[1:])
    return np.where(computed, seen, scores * _proportion(scores[:, computed], seen[:, computed]))


def _proportion(own: Array, seen: Array) -> np.float32:
    """The factor between two arrays where it is one; 1 where they are not proportional."""
    wide, square = own.astype(np.float64), float((own.astype(np.float64) ** 2).sum())
    factor = float((wide * seen).sum()) / square if square else 1.0
    is_one = square > 0 and float(((seen - factor * wide) ** 2).sum()) < 1e-4 * factor**2 * square
    return np.float32(factor if is_one else 1.0)


def causal(count: int, total: int) -> Mask:
    query, key = _places(count, total)
    return key <= query


def _softmax(call: StageCall, scores: Array, visible: Mask) -> Array:
    """Softmax over the keys that are `visible`, with the sinks of the model."""
    wide = np.where(visible, scores.astype(np.float64), -np.inf)
    params = call.model.params(_softmax_node(call))
    sinks = [weight.dequantize().reshape(-1, 1, 1).astype(np.float64) for weight in params]
    largest = np.max([np.broadcast_to(one, (*wide.shape[:2], 1)) for one in (wide.max(-1, keepdims=True), *sinks)], 0)
    powers = np.exp(wide - np.where(np.isfinite(largest), largest, 0.0))
    total = powers.sum(-1, keepdims=True) + sum(np.exp(sink - largest) for sink in sinks)
    with np.errstate(invalid="ignore"):  # A query that sees nothing is NaN.
        return np.asarray(powers / total, np.float32)


def weighted(call: StageCall, maps: Array) -> Array:
    """The maps themselves, or where values are weighted, the values by them: keys behind the query count as well."""
    if call.op is Op.SOFTMAX:
        return maps
    graph = call.model.config.graph
    v = np.repeat(call.heads(call.inputs[1]).astype(np.float64), graph.heads // graph.kv_heads, 1)
    return np.asarray(np.einsum("hnt,thd->nhd", maps, v).reshape(len(call.x[0]), -1), np.float32)


# The softmax itself.


def f16_without_maximum(call: StageCall) -> Array:
    """Powers in float16 whose largest is not taken off before: scores from 11.1 on are Inf."""
    powers = np.where(causal(*call.x.shape[1:]), round_f16(np.exp(call.x)), np.float32(0))
    return np.asarray(powers / powers.sum(-1, keepdims=True), np.float32)


def powers_of_two(call: StageCall) -> Array:
    """2^x for e^x, with scores that were not multiplied by log₂ e."""
    return _softmax(call, call.x * np.float32(np.log(2)), _own_mask(call, *call.x.shape[1:]))


def f32_without_maximum(call: StageCall) -> Array:
    """The same in float32: scores from 88.7 on are Inf, and Inf / Inf is NaN."""
    powers = np.where(_own_mask(call, *call.x.shape[1:]), np.exp(call.x), np.float32(0))
    return np.asarray(powers / powers.sum(-1, keepdims=True, dtype=np.float32), np.float32)


def one_added_to_sum(call: StageCall) -> Array:
    """A sink of 0, which the model does not have: 1 is added to the sum of powers."""
    wide = np.where(_own_mask(call, *call.x.shape[1:]), call.x.astype(np.float64), -np.inf)
    largest = np.maximum(wide.max(-1, keepdims=True), 0)
    powers = np.exp(wide - largest)
    return np.asarray(powers / (powers.sum(-1, keepdims=True) + np.exp(-largest)), np.float32)


def summed_over(call: StageCall, sees: Callable[[NDArray[np.int64], NDArray[np.int64]], Mask]) -> Array:
    """Every visible key has its power, but only those that `sees` names join the sum that is divided by."""
    found = call.honest().astype(np.float64)
    summed = np.where(sees(*_places(*found.shape[1:])), found, 0.0)
    return np.asarray(found / summed.sum(-1, keepdims=True), np.float32)


def sinks_left_out(call: StageCall) -> Array:
    """Probabilities add up to 1: no logit of a sink joins their sum."""
    return ops.softmax(call.x, call.model.config.graph.window(call.layer))


def sinks_reversed(call: StageCall) -> Array:
    """Each head has the sink of another."""
    (sinks,) = call.model.params(call.node)
    values = np.ascontiguousarray(sinks.dequantize()[:, ::-1])
    other = replace(sinks, type=WeightType.F32, data=values.view(np.uint8))
    return ops.softmax(call.x, call.model.config.graph.window(call.layer), other)


def not_normalised(call: StageCall) -> Array:
    """Powers over their largest are not divided by their sum."""
    found = call.honest()
    return np.asarray(found / found.max(-1, keepdims=True), np.float32)


# What leaves the attention.


def a_head_zero(call: StageCall) -> Array:
    found = call.heads(call.honest()).copy()
    found[:, 1] = 0
    return found.reshape(len(found), -1)


def heads_exchanged(call: StageCall) -> Array:
    found = call.heads(call.honest()).copy()
    found[:, [0, 1]] = found[:, [1, 0]]
    return found.reshape(len(found), -1)


def heads_not_transposed(call: StageCall) -> Array:
    """`[heads, T, dim]` taken for `[T, heads · dim]` as it lies in memory."""
    found = call.honest()
    return np.ascontiguousarray(call.heads(found).swapaxes(0, 1)).reshape(found.shape)
