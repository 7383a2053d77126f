"""Softmax with mask, slopes and sinks, and attention as one op."""

from __future__ import annotations

import math

import numpy as np

from aprtui.engine.rounding import ROUND
from aprtui.recordings.ops.elementwise import repeated
from aprtui.recordings.ops.operands import Array, Operands, OpWay, OpWays

_TILE = 64
"""Queries from which on ggml's CPU backend works in tiles, with sums in float32."""
_SPLIT = 512
"""Keys from which on it splits them among threads for a single query."""
_THREADS = (2, 4, 8, 16, 1, 6, 12, 32)
_QUERY = {"q8_0": "q8_0", "q4_0": "q8_0", "q4_1": "q8_1_f16", "q5_0": "q8_0", "q5_1": "q8_1_f16", "iq4_nl": "q8_0"}
"""What queries are rounded to, by the type of the keys; float types to that type itself."""


def slopes(heads: int, most: float) -> Array:
    """Of ALiBi (Press et al. 2021, arXiv:2108.12409), for each head; 1 without (`most` 0)."""
    if most <= 0:
        return np.ones(heads)
    power = 1 << int(math.log2(heads))
    head = np.arange(heads)
    first, second = 2.0 ** (-most / power), 2.0 ** (-most / 2 / power)
    return np.asarray(np.where(head < power, first ** (head + 1), second ** (2 * (head - power) + 1)))


def masked(op: Operands, scores: Array, index: int) -> Array:
    """Scores `[batch, heads, queries, keys]` with the mask that is a source added, times the slopes of the heads."""
    if not op.has(index):
        return scores
    mask = op.values(index)[:, :, : scores.shape[2]]
    mask = repeated(mask, (*scores.shape[:2], *mask.shape[2:]))
    with np.errstate(invalid="ignore"):
        return np.asarray(scores + slopes(scores.shape[1], op.number("max_bias"))[:, None, None] * mask)


def probabilities(scores: Array, sinks: Array | None) -> Array:
    """The softmax of rows; a sink takes its share of each row of its head."""
    largest = scores.max(-1, keepdims=True)
    if sinks is not None:
        sink = sinks.reshape(1, -1, 1, 1)
        largest = np.maximum(largest, sink)
    with np.errstate(invalid="ignore"):
        shares = np.exp(scores - largest)
        total = shares.sum(-1, keepdims=True)
        return np.asarray(shares / (total if sinks is None else total + np.exp(sink - largest)))


def soft_max(op: Operands) -> Array:
    scores = masked(op, op.values(0) * op.number("scale"), 1)
    return probabilities(scores, op.values(2) if op.has(2) else None)


def flash_attention(op: Operands) -> OpWays:
    """Queries, keys and values to sums of values: `[batch, queries, heads, channels]`."""
    queries, keys, values = op.values(0), op.values(1), op.values(2)
    key_type, value_type = op.source(1).type, op.source(2).type
    sinks = op.values(4) if op.has(4) else None
    tiled = key_type in ("f16", "f32") and queries.shape[2] >= _TILE
    rounding = "none" if tiled or key_type == "f32" else _QUERY.get(key_type, key_type)
    kinds = ("none",) if op.exact else dict.fromkeys((rounding, "none", "f16", "bf16"))
    for kind in kinds:
        scores = _scores(op, _rounded(queries, kind), keys)
        words = "" if kind == "none" else f"queries in {kind}"
        split = queries.shape[2] == 1 and keys.shape[2] >= _SPLIT
        if kind == rounding and not op.exact and value_type == "f16" and not tiled:
            for chunks in _THREADS if split else (1,):
                sums = "sums in f16" if chunks == 1 else f"sums of {chunks} chunks in f16"
                yield OpWay(_summed_in_f16(scores, values, sinks, chunks), f"{words}, {sums}", flips=True)
        unseen = np.isneginf(scores).all(-1, keepdims=True)
        shares = np.where(unseen, 0.0, probabilities(scores, sinks))
        yield OpWay(_weighted(shares, values), words)


def _rounded(queries: Array, kind: str) -> Array:
    if kind == "none":
        return queries
    rows = np.ascontiguousarray(queries, np.float32).reshape(-1, queries.shape[-1])
    return ROUND[kind](rows).astype(np.float64).reshape(queries.shape)


def _scores(op: Operands, queries: Array, keys: Array) -> Array:
    heads = np.repeat(keys, queries.shape[1] // keys.shape[1], 1)
    scores = np.matmul(queries, heads.swapaxes(-1, -2)) * op.number("scale")
    cap = op.number("softcap")
    # What goes in is scaled by 1/cap before, and the cap multiplies after.
    return masked(op, cap * np.tanh(scores / cap) if cap else scores, 3)


def _weighted(shares: Array, values: Array) -> Array:
    heads = np.repeat(values, shares.shape[1] // values.shape[1], 1)
    return np.asarray(np.matmul(shares, heads).swapaxes(1, 2))


def _summed_in_f16(scores: Array, values: Array, sinks: Array | None, chunks: int) -> Array:
    """Sums of values in float16, key after key, over probabilities that are relative to the largest so far
    (`ggml_compute_forward_flash_attn_ext_f16_one_chunk`); sums of several chunks of keys are added in float32."""
    heads = np.repeat(values, scores.shape[1] // values.shape[1], 1).astype(np.float32)
    scores, size = scores.astype(np.float32), -(-scores.shape[3] // chunks)
    largest = np.full(scores.shape[:3], -np.inf, np.float32)
    found, total = np.zeros((*scores.shape[:3], values.shape[-1]), np.float32), np.zeros(scores.shape[:3], np.float32)
    for start in range(0, scores.shape[3], size):
        part = _chunk_in_f16(scores[..., start : start + size], heads[:, :, start : start + size])
        found, largest, total = _joined((found, largest, total), part)
    if sinks is not None:
        sink = np.broadcast_to(sinks.reshape(1, -1, 1).astype(np.float32), largest.shape)
        found, largest, total = _joined((found, largest, total), (np.zeros_like(found), sink, np.ones_like(total)))
    with np.errstate(invalid="ignore"):
        return np.where(total[..., None] == 0, 0, found / total[..., None]).swapaxes(1, 2).astype(np.float64)


def _joined(first: tuple[Array, Array, Array], second: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    """Sums, the largest score and the total of two sets of keys together."""
    highest = np.maximum(first[1], second[1])
    with np.errstate(invalid="ignore"):
        shares = [np.where(np.isneginf(part[1]), np.float32(0), np.exp(part[1] - highest)) for part in (first, second)]
    found = first[0] * shares[0][..., None] + second[0] * shares[1][..., None]
    return found, highest, first[2] * shares[0] + second[2] * shares[1]


def _chunk_in_f16(scores: Array, heads: Array) -> tuple[Array, Array, Array]:
    """Of some keys: sums of values, the largest score, and the total of probabilities relative to it."""
    sums = np.zeros((*scores.shape[:3], heads.shape[-1]), np.float16)
    largest, total = np.full(scores.shape[:3], -np.inf, np.float32), np.zeros(scores.shape[:3], np.float32)
    for key in range(scores.shape[3]):
        score = scores[..., key]
        seen = score > -np.inf
        if not seen.any():
            continue
        rises = seen & (score > largest)
        with np.errstate(invalid="ignore", over="ignore"):
            kept = np.where(rises, np.exp(largest - score), np.float32(1)).astype(np.float32)
            share = np.where(rises, np.float32(1), np.where(seen, np.exp(score - largest), 0)).astype(np.float32)
        largest = np.where(rises, score, largest)
        risen = np.where(rises[..., None], (sums * kept[..., None]).astype(np.float16), sums).astype(np.float32)
        added = (risen + heads[:, :, key][:, :, None] * share[..., None]).astype(np.float16)
        sums = np.where(seen[..., None], added, sums)
        total = total * kept + share
    return sums.astype(np.float32), largest, total
