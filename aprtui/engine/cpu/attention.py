"""Causal attention with grouped queries: scores, softmax and the weighted sum of values, for one block of queries.

The stages (and a softcap of the scores, where the model has one) run as one instruction because their maps
`[heads, queries, keys]` are large: they exist in full only where they are tapped, otherwise only for the current block.
Where a stage is replaced or evaluated alone, instructions do one or two of them and read the map before. The arithmetic
is the same in all cases.

The cache holds keys and values in tiles of 16 (see `kv_cache`), keys such that 16 scores are formed at a time without
sums across lanes. A block is made of rows, one for each query of each head of a group; all rows meet a tile while it is
in the first-level cache. Where a layer has a window, tiles before it are left out, but for scores that are
materialised: those are of all keys.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, int32

from aprtui.engine.cpu.jit import kernel, reduction
from aprtui.engine.cpu.kv_cache import key_tile, padded, put_key, put_value, tile_bytes, value_tile
from aprtui.engine.cpu.memory import (
    bits_float,
    control_record,
    first_token,
    float32s,
    float_bits,
    instruction,
)
from aprtui.engine.cpu.program import AttentionPart
from aprtui.engine.cpu.rows import copy, exponential, softcapped
from aprtui.engine.cpu.vectors import LANES, combine, combine_four

_ROWS = 32
"""Rows that a block has at least, where there are queries enough."""
_QUERIES = 8
"""Queries that a block has at least, where there are enough: groups of four rows then see almost the same keys."""

_VECTOR = np.int64(4 * LANES)
_ZERO = np.float32(0)
_SCORES, _SOFTMAX = np.int64(AttentionPart.SCORES), np.int64(AttentionPart.SOFTMAX)
_SUMS, _MAPS = np.int64(AttentionPart.SUMS), np.int64(AttentionPart.MAPS)
_SOFTCAP = np.int64(AttentionPart.SOFTCAP)
_SIGN_MASK = np.int32(0x7FFFFFFF)


@kernel
def queries_of_block(group: int) -> int:
    """Queries of a block whose K/V head serves `group` query heads."""
    return max(_QUERIES, _ROWS // group // _QUERIES * _QUERIES)


@kernel
def scratch_bytes(context: int, head_dim: int, group: int) -> int:
    """Bytes of scratch that a thread needs: a tile, and queries, sums and scores of the rows of a block."""
    width = padded(head_dim)
    return 4 * (LANES * width + group * queries_of_block(group) * (2 * width + padded(context)))


def store_keys(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """Put the keys of the tokens into the cache, in the type `kind`; see `kv_cache`."""
    step, position = instruction(step_address)[0], control_record(control_address)[0].position
    size = step.other_stride // LANES * tile_bytes(step.kind, step.width)
    for token in range(begin, end):
        for head in range(step.heads):
            source = step.source + 4 * (token * step.source_stride + head * step.width)
            put_key(step.kind, source, step.width, step.other + head * size, position + token, scratch)


def store_values(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """The same of the values."""
    step, position = instruction(step_address)[0], control_record(control_address)[0].position
    size = step.other_stride // LANES * tile_bytes(step.kind, padded(step.width))
    for token in range(begin, end):
        for head in range(step.heads):
            source = step.source + 4 * (token * step.source_stride + head * step.width)
            put_value(step.kind, source, step.width, step.other + head * size, position + token)


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
def _softmax(values: Any, sinks: int, head: int) -> None:
    """Softmax in place; the power of the logit of `head` at `sinks` (0: none) joins the sum that is divided by."""
    top = _largest(values)
    joined = 0.0
    if sinks:
        sink = float32s(sinks, head + 1)[head]
        top = sink if sink > top else top
        joined = np.float64(exponential(sink - top))
    for i in range(values.size):
        values[i] = exponential(values[i] - top)
    scale = float32(1.0 / (_sum(values) + joined))
    for i in range(values.size):
        values[i] *= scale


@kernel
def _copy_row(values: Any, start: int, row: Any) -> None:
    """Put `values` into `row` from `start` on, and zeros around them."""
    for i in range(start):
        row[i] = _ZERO
    for i in range(values.size):
        row[start + i] = values[i]
    for i in range(start + values.size, row.size):
        row[i] = _ZERO


@kernel
def _window_start(step: Any, visible: int) -> int:
    """The first key that a query sees, before which there are `visible` − 1."""
    return max(0, visible - int(step.window))


@kernel
def _span(row: int, count: int, queries: int, first: int) -> Any:
    """The fewest and the most keys that any of `count` rows from `row` on sees.

    Rows are ordered by head, then by query; `first` is what the first of the `queries` queries sees.
    """
    query = row % queries
    if query + count <= queries:
        return first + query, first + query + count - 1
    return first, first + queries - 1


@kernel
def _score(step: Any, cache: int, shape: Any, first: int, places: Any) -> None:
    """Products of all rows with the keys that they see. Products with keys that a row does not see are meaningless.

    `shape` is (rows, queries, bytes of a row of scores), `places` the addresses of tile, query rows, sums and scores.
    """
    rows, queries, stride = shape
    tile_at, query_rows, _, scores = places
    width = step.width
    all_keys = step.count & _MAPS
    start = 0 if all_keys else _window_start(step, first) // LANES * LANES
    size = tile_bytes(step.kind, width)
    for begin in range(start, first + queries - 1, LANES):
        tile = key_tile(step.kind, cache + begin // LANES * size, width, tile_at)
        row = 0
        while row < rows:
            count = 4 if row + 4 <= rows else 1
            fewest, most = _span(row, count, queries, first)
            if begin < most and (all_keys or begin + LANES > _window_start(step, fewest)):
                source, target = query_rows + 4 * row * width, scores + row * stride + 4 * begin
                if count == 4:
                    combine_four(source, 4 * width, width, tile, _VECTOR, target, stride)
                else:
                    combine(source, 0, width, tile, _VECTOR, target, 0)
            row += count


@kernel
def _weigh(step: Any, cache: int, shape: Any, first: int, places: Any) -> None:
    """Sums of the values that each row sees, weighted by its softmax."""
    rows, queries, stride = shape
    tile_at, _, sums, softmax = places
    width = padded(step.value_width)
    size = tile_bytes(step.kind, width)
    for begin in range(_window_start(step, first) // LANES * LANES, first + queries - 1, LANES):
        tile = value_tile(step.kind, cache + begin // LANES * size, width, tile_at)
        row = 0
        while row < rows:
            count = 4 if row + 4 <= rows else 1
            fewest, most = _span(row, count, queries, first)
            if begin < most and begin + LANES > _window_start(step, fewest):
                # Keys that all four rows see are taken together; each row takes its own before and behind them.
                common, end = max(0, _window_start(step, most) - begin), min(LANES, fewest - begin)
                if count == 1 or end <= common:
                    common = end = LANES
                for single in range(row, row + count):
                    seen = _span(single, 1, queries, first)[0]
                    own = max(0, _window_start(step, seen) - begin)
                    _weigh_one(softmax + single * stride + 4 * begin, own, min(common, seen - begin), tile,
                               width, sums + 4 * single * width)  # fmt: skip
                if common < end:
                    source = softmax + row * stride + 4 * (begin + common)
                    _weigh_four(source, stride, end - common, tile + 4 * common * width, width, sums + 4 * row * width)
                    for single in range(row, row + count):
                        seen = _span(single, 1, queries, first)[0]
                        _weigh_one(softmax + single * stride + 4 * begin, end, min(LANES, seen - begin), tile,
                                   width, sums + 4 * single * width)  # fmt: skip
            row += count


@kernel
def _weigh_four(softmax: int, stride: int, keys: int, tile: int, width: int, sums: int) -> None:
    for channel in range(0, width, LANES):
        combine_four(softmax, stride, keys, tile + 4 * channel, 4 * width, sums + 4 * channel, 4 * width)


@kernel
def _weigh_one(softmax: int, begin: int, end: int, tile: int, width: int, sums: int) -> None:
    """Add the keys `begin … end - 1` of a tile to the sums of one row."""
    if begin < end:
        for channel in range(0, width, LANES):
            source = tile + 4 * (begin * width + channel)
            combine(softmax + 4 * begin, 0, end - begin, source, 4 * width, sums + 4 * channel, 0)


@kernel
def _finish_row(step: Any, row: int, head: int, keys: int, visible: int, maps: Any) -> None:
    """Turn a row of products into softmax in place, or as far as the parts of `step` go; skipped stages are read from a
    map. `head` is the row's query head.

    `maps` are the addresses of the row's scores, softcapped scores and softmax: used only where the parts read or
    materialise them.
    """
    parts, scale, cap = step.count, float32(step.scalar), float32(step.softcap)
    scores_map, softcap_map, softmax_map = maps
    seen = _window_start(step, visible)
    start = 0 if parts & _MAPS else seen
    values = float32s(row + 4 * start, visible - start)
    if parts & _SCORES:
        for i in range(values.size):
            values[i] *= scale
        if parts & _MAPS:
            _copy_row(values, start, float32s(scores_map, keys))
    else:
        source = softmax_map
        if parts & (_SOFTCAP | _SOFTMAX):
            source = scores_map if parts & _SOFTCAP or cap == 0 else softcap_map
        copy(float32s(source + 4 * start, visible - start), values)
    if parts & _SOFTCAP:
        for i in range(values.size):
            values[i] = softcapped(values[i], cap)
        if parts & _MAPS:
            _copy_row(values, start, float32s(softcap_map, keys))
    if parts & _SOFTMAX:
        values = float32s(row + 4 * seen, visible - seen)
        _softmax(values, step.sinks, head)
        if parts & _MAPS:
            _copy_row(values, seen, float32s(softmax_map, keys))


@kernel
def _attend(step: Any, control: Any, heads: Any, tokens: Any, scratch: int) -> None:
    """Attention of the query heads `heads` (of one K/V head) at the tokens `tokens`, both as (begin, end)."""
    parts = step.count
    width, wide, position = step.width, padded(step.width), control.position
    value_width, value_wide = step.value_width, padded(step.value_width)
    queries = tokens[1] - tokens[0]
    rows, first, total = (heads[1] - heads[0]) * queries, position + tokens[0] + 1, position + tokens[1]
    stride = 4 * padded(total)
    query_rows = scratch + 4 * LANES * max(wide, value_wide)
    sums = query_rows + 4 * rows * wide
    scores = sums + 4 * rows * value_wide
    shape, places = (rows, queries, stride), (scratch, query_rows, sums, scores)
    zeroed = float32s(sums, rows * value_wide + rows * padded(total))
    for i in range(zeroed.size):
        zeroed[i] = _ZERO
    for row in range(rows):
        head, token = heads[0] + row // queries, tokens[0] + row % queries
        source = step.source + 4 * (token * step.source_stride + head * width)
        copy(float32s(source, width), float32s(query_rows + 4 * row * width, width))
    tiles = heads[0] // (step.heads // step.kv_heads) * (step.other_stride // LANES)
    if parts & _SCORES:
        _score(step, step.other + tiles * tile_bytes(step.kind, width), shape, first, places)
    for row in range(rows):
        head, token = heads[0] + row // queries, tokens[0] + row % queries
        place = 4 * (head * control.tokens + token) * (position + control.tokens)
        maps = control.scores + place, control.softcap + place, control.softmax + place
        _finish_row(step, scores + row * stride, head, position + control.tokens, position + token + 1, maps)
    if parts & _SUMS:
        _weigh(step, step.parameter + tiles * tile_bytes(step.kind, value_wide), shape, first, places)
        for row in range(rows):
            head, token = heads[0] + row // queries, tokens[0] + row % queries
            target = step.target + 4 * (token * step.target_stride + head * value_width)
            copy(float32s(sums + 4 * row * value_wide, value_width), float32s(target, value_width))


@kernel
def block_of(step_address: int, control: Any) -> Any:
    """How the work is cut: (query heads of a piece, tokens of a piece, number of pieces)."""
    step = instruction(step_address)[0]
    group = step.heads // step.kv_heads
    queries = queries_of_block(group)
    blocks = (control.tokens - first_token(step_address, control) + queries - 1) // queries
    heads = group if step.kv_heads * blocks >= control.threads else 1
    return heads, queries, (step.heads // heads) * blocks


def attention(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """Pieces `begin … end - 1` of `block_of`; late queries first, as they see the most keys."""
    step, control = instruction(step_address)[0], control_record(control_address)[0]
    heads, queries, pieces = block_of(step_address, control)
    slots = step.heads // heads
    for piece in range(begin, end):
        first = first_token(step_address, control) + (pieces // slots - 1 - piece // slots) * queries
        head = (piece % slots) * heads
        _attend(step, control, (head, head + heads), (first, min(first + queries, control.tokens)), scratch)
