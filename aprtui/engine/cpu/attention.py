"""Causal attention with grouped queries: scores, softmax and the weighted sum of values, for one block of queries.

The three stages run as one instruction because their maps `[heads, queries, keys]` are large: they exist in full only
where they are tapped, otherwise only for the block in hand. The arithmetic is the same either way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, int32

from aprtui.engine.cpu.float16 import float_from_half
from aprtui.engine.cpu.jit import kernel, reduction
from aprtui.engine.cpu.memory import bits_float, control_record, float32s, float_bits, halves, instruction
from aprtui.engine.cpu.rows import copy, exponential
from aprtui.engine.cpu.vectors import dot, four_dots, four_weighted_sums, weighted_sum

BLOCK_ROWS = 32
"""Rows (query × head of the group) that share one pass over the keys; fewer where a group has more heads."""

KEY_TILE = 64
"""Keys that stay in the first-level cache while all rows of a block meet them."""

_ZERO = np.float32(0)
_ONE = np.float32(1)
_SIGN_MASK = np.int32(0x7FFFFFFF)


def scratch_bytes(context: int, head_dim: int, group: int) -> int:
    """Bytes of scratch a thread needs for `context` positions and `group` query heads a key head."""
    return 4 * (max(BLOCK_ROWS, group) * context + KEY_TILE * head_dim)


@kernel
def _largest(values: Any) -> Any:
    """The maximum, by integer comparison (which vectorises); a positive NaN counts as largest."""
    best = int32(-0x80000000)
    for i in range(values.size):
        bits = float_bits(values[i])
        ordered = int32(bits ^ int32(int32(bits >> int32(31)) & _SIGN_MASK))
        best = max(best, ordered)
    return bits_float(int32(best ^ int32(int32(best >> int32(31)) & _SIGN_MASK)))


@reduction
def _sum(values: Any) -> Any:
    total = 0.0
    for i in range(values.size):
        total += np.float64(values[i])
    return total


@kernel
def _softmax(values: Any) -> None:
    top = _largest(values)
    for i in range(values.size):
        values[i] = exponential(values[i] - top)
    scale = float32(1.0 / _sum(values))
    for i in range(values.size):
        values[i] *= scale


@kernel
def _tile(cache: int, begin: int, keys: int, width: int, is_half: int, scratch: int) -> int:
    """Address of `keys` float32 rows of the cache from `begin` on, converted into `scratch` where they are float16."""
    if is_half == 0:
        return cache + 4 * begin * width
    source = halves(cache + 2 * begin * width, keys * width)
    target = float32s(scratch, keys * width)
    for i in range(keys * width):
        target[i] = float_from_half(source[i])
    return scratch


@kernel
def _score_row(query: int, tile: int, keys: int, width: int, scale: Any, target: int) -> None:
    vectors = width // 16
    key = 0
    while key + 4 <= keys:
        four_dots(query, tile + 4 * key * width, 4 * width, vectors, target + 4 * key)
        key += 4
    while key < keys:
        dot(query, tile + 4 * key * width, 4 * width, vectors, target + 4 * key)
        key += 1
    scores = float32s(target, keys)
    if width % 16:
        x = float32s(query, width)
        rows = float32s(tile, keys * width)
        for k in range(keys):
            for i in range(vectors * 16, width):
                scores[k] += x[i] * rows[k * width + i]
    for k in range(keys):
        scores[k] *= scale


@kernel
def _attend_row(weights: int, keys: int, tile: int, width: int, target: int) -> None:
    done = 0
    while done + 64 <= width:
        four_weighted_sums(weights, keys, tile + 4 * done, 4 * width, target + 4 * done)
        done += 64
    while done + 16 <= width:
        weighted_sum(weights, keys, tile + 4 * done, 4 * width, target + 4 * done)
        done += 16
    if done < width:
        p = float32s(weights, keys)
        rows = float32s(tile, keys * width)
        sums = float32s(target, width)
        for k in range(keys):
            for i in range(done, width):
                sums[i] += p[k] * rows[k * width + i]


@kernel
def _finish_row(row: int, keys: int, visible: int, scores_map: int, softmax_map: int) -> None:
    """Softmax of a row of scores in place, with copies of both into the maps (address 0: no map)."""
    values = float32s(row, visible)
    if scores_map:
        _copy_row(values, float32s(scores_map, keys))
    _softmax(values)
    if softmax_map:
        _copy_row(values, float32s(softmax_map, keys))


@kernel
def _copy_row(values: Any, row: Any) -> None:
    copy(values, row)
    for i in range(values.size, row.size):
        row[i] = _ZERO


@kernel
def _attend(step: Any, control: Any, kv_head: int, heads: Any, queries: Any, scratch: int) -> None:
    """Attention of the query heads `heads` (of one K/V head) at the tokens `queries`, both as (begin, end)."""
    width, position, tokens = step.width, control.position, control.tokens
    scale = float32(step.scalar)
    plane = (kv_head * step.other_stride) * width * (2 if step.kind else 4)
    keys, values = step.other + plane, step.parameter + plane
    total = position + queries[1]
    rows = scratch + 4 * KEY_TILE * width
    with_maps = step.count != 0
    for begin in range(0, total, KEY_TILE):
        end = min(begin + KEY_TILE, total)
        tile = _tile(keys, begin, end - begin, width, step.kind, scratch)
        row = rows
        for head in range(heads[0], heads[1]):
            for query in range(queries[0], queries[1]):
                visible = min(end, position + query + 1)
                if visible > begin:
                    source = step.source + 4 * (query * step.source_stride + head * width)
                    _score_row(source, tile, visible - begin, width, scale, row + 4 * begin)
                row += 4 * total
    row = rows
    for head in range(heads[0], heads[1]):
        for query in range(queries[0], queries[1]):
            place = 4 * (head * tokens + query) * (position + tokens)
            scores_map = control.scores + place if with_maps else 0
            softmax_map = control.softmax + place if with_maps else 0
            _finish_row(row, position + tokens, position + query + 1, scores_map, softmax_map)
            row += 4 * total
            target = float32s(step.target + 4 * (query * step.target_stride + head * width), width)
            for i in range(width):
                target[i] = _ZERO
    for begin in range(0, total, KEY_TILE):
        end = min(begin + KEY_TILE, total)
        tile = _tile(values, begin, end - begin, width, step.kind, scratch)
        row = rows
        for head in range(heads[0], heads[1]):
            for query in range(queries[0], queries[1]):
                visible = min(end, position + query + 1)
                if visible > begin:
                    target = step.target + 4 * (query * step.target_stride + head * width)
                    _attend_row(row + 4 * begin, visible - begin, tile, width, target)
                row += 4 * total


@kernel
def block_of(step: Any, control: Any) -> Any:
    """How the work is cut: (query heads in a piece, tokens in a piece, number of pieces)."""
    group = step.heads // step.kv_heads
    queries = max(1, BLOCK_ROWS // group)
    blocks = (control.tokens + queries - 1) // queries
    heads = group if step.kv_heads * blocks >= control.threads else 1
    return heads, queries, (step.heads // heads) * blocks


def attention(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """Pieces `begin … end - 1` of `block_of`; late queries first, as they see the most keys."""
    step = instruction(step_address)[0]
    control = control_record(control_address)[0]
    heads, queries, _ = block_of(step, control)
    slots = step.heads // heads
    blocks = (control.tokens + queries - 1) // queries
    for piece in range(begin, end):
        first = (blocks - 1 - piece // slots) * queries
        head = (piece % slots) * heads
        kv_head = head // (step.heads // step.kv_heads)
        last = min(first + queries, control.tokens)
        _attend(step, control, kv_head, (head, head + heads), (first, last), scratch)
