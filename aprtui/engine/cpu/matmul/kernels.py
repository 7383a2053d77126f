"""The kernels that other compiled code calls, and what its planner asks about them.

Quantised weights meet int8 activations row by row for few tokens, by strips of rows for many.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.cpu.jit import inlined, kernel, renamed
from aprtui.engine.cpu.matmul.activations import GROUP, INTEGERS, RECORD, activation_kind
from aprtui.engine.cpu.matmul.dequantize import dequantize_row
from aprtui.engine.cpu.matmul.dot import dot_group
from aprtui.engine.cpu.matmul.panel import SCRATCH_BYTES, multiply_floats
from aprtui.engine.cpu.matmul.scalars import load_f32, store_f32
from aprtui.engine.cpu.matmul.sequence import BLOCKS, SEQUENCE_TYPES, multiply_blocks
from aprtui.engine.cpu.matmul.tile import LANES, STRIP_RECORD, TOKENS, multiply_group, pack_group
from aprtui.engine.cpu.tier import TIER, Tier
from aprtui.engine.protocol import Mode
from aprtui.model.weight_types import WeightType
from aprtui.model.weights import Weight

STRIP_TOKENS = 6 if TIER is not Tier.PLAIN else 1 << 62
"""Tokens from which unpacking a strip pays for itself (measured); never without fast multiply-adds."""

_ROWS = 32
"""Rows that stay in the cache until all tokens have met them; a multiple of `BLOCKS`, so that sequences fill up."""


@inlined
def _multiply_sequence(
    weight_type: int, w: int, rows: int, row_bytes: int, blocks: int, x: int, y: int, out: int
) -> None:
    """Products of consecutive rows of `blocks` blocks with one row of activations."""
    size = row_bytes // blocks
    total, column, row = np.float32(0), 0, 0
    for first in range(0, rows * blocks, BLOCKS):
        count = min(BLOCKS, rows * blocks - first)
        multiply_blocks(weight_type, w + first * size, x, column, blocks, count, out)
        done = 0
        while done < count:
            end = min(count, done + blocks - column)
            column += end - done
            for k in range(done, end):
                total = np.float32(total + load_f32(out, k))
            done = end
            if column == blocks:
                store_f32(y, row, total)
                total, column, row = np.float32(0), 0, row + 1


@inlined
def _multiply_rows(weight_type: int, w: int, rows: int, row_bytes: int, columns: int, x: int, y: int) -> None:
    """Products of consecutive rows with one row of activations, group by group."""
    group_bytes = row_bytes * GROUP // columns
    for row in range(rows):
        total = np.float32(0)
        for group in range((columns + GROUP - 1) // GROUP):
            blocks = min(8, (columns - GROUP * group) // 32)
            at = w + row * row_bytes + group * group_bytes
            total = np.float32(total + dot_group(weight_type, at, x + group * RECORD, blocks))
        store_f32(y, row, total)


@inlined
def _multiply_each_token(
    weight_type: int, weights: int, row_bytes: int, columns: int, x: int, x_bytes: int, n_tokens: int,
    y: int, y_stride: int, row_begin: int, row_end: int, scratch: int,
) -> None:  # fmt: skip
    """`y[t, r] = Σ w[r, k] · x[t, k]` for quantised weights and their int8 activations, token by token."""
    for first in range(row_begin, row_end, _ROWS):
        rows = min(_ROWS, row_end - first)
        for token in range(n_tokens):
            w, xs, ys = weights + first * row_bytes, x + token * x_bytes, y + 4 * (token * y_stride + first)
            if weight_type in SEQUENCE_TYPES:
                _multiply_sequence(weight_type, w, rows, row_bytes, columns // GROUP, xs, ys, scratch)
            else:
                _multiply_rows(weight_type, w, rows, row_bytes, columns, xs, ys)


@inlined
def _multiply_strips(
    weight_type: int, weights: int, row_bytes: int, columns: int, x: int, x_bytes: int, n_tokens: int,
    y: int, y_stride: int, row_begin: int, row_end: int, scratch: int,
) -> None:  # fmt: skip
    """The same, bit for bit, for many tokens: strips of `LANES` rows are unpacked into `scratch` once."""
    groups = (columns + GROUP - 1) // GROUP
    group_bytes = row_bytes * GROUP // columns
    strip = scratch + 4 * LANES * TOKENS
    for first in range(row_begin, row_end, LANES):
        rows = min(LANES, row_end - first)
        for lane in range(LANES):  # missing rows repeat the last one; their products are dropped
            w = weights + (first + min(lane, rows - 1)) * row_bytes
            for group in range(groups):
                blocks = min(8, (columns - GROUP * group) // 32)
                pack_group(weight_type, w + group * group_bytes, strip + group * STRIP_RECORD, lane, blocks)
        for token in range(0, n_tokens, TOKENS):
            tokens = min(TOKENS, n_tokens - token)
            for i in range(LANES * TOKENS):
                store_f32(scratch, i, np.float32(0))
            record = x + token * x_bytes
            for group in range(groups):
                blocks = min(8, (columns - GROUP * group) // 32)
                multiply_group(
                    weight_type,
                    strip + group * STRIP_RECORD,
                    record + group * RECORD,
                    x_bytes,
                    tokens - 1,
                    scratch,
                    blocks,
                )
            for t in range(tokens):
                for r in range(rows):
                    store_f32(y, (token + t) * y_stride + first + r, load_f32(scratch, t * LANES + r))


@inlined
def multiply_integers(
    weight_type: int, weights: int, row_bytes: int, columns: int, x: int, x_bytes: int, n_tokens: int,
    y: int, y_stride: int, row_begin: int, row_end: int, scratch: int,
) -> None:  # fmt: skip
    """`multiply_floats` for weights of a type in `FORMATS` and activations of 8 bits."""
    if n_tokens >= STRIP_TOKENS:
        _multiply_strips(
            weight_type, weights, row_bytes, columns, x, x_bytes, n_tokens, y, y_stride, row_begin, row_end, scratch
        )
    else:
        _multiply_each_token(
            weight_type, weights, row_bytes, columns, x, x_bytes, n_tokens, y, y_stride, row_begin, row_end, scratch
        )


@cache
def matmul_kernel(kind: WeightType, mode: Mode) -> Callable[..., None]:
    """The product of a weight type in a mode, to be called from Python: `multiply_floats` without the type."""
    weight_type = int(kind)
    if activation_kind(kind, mode) in INTEGERS:

        def matmul_rows(
            weights: int, row_bytes: int, columns: int, x: int, x_bytes: int, n_tokens: int,
            y: int, y_stride: int, row_begin: int, row_end: int, scratch: int,
        ) -> None:  # fmt: skip
            multiply_integers(
                weight_type, weights, row_bytes, columns, x, x_bytes, n_tokens, y, y_stride, row_begin, row_end, scratch
            )

    else:

        def matmul_rows(
            weights: int, row_bytes: int, columns: int, x: int, x_bytes: int, n_tokens: int,
            y: int, y_stride: int, row_begin: int, row_end: int, scratch: int,
        ) -> None:  # fmt: skip
            multiply_floats(
                weight_type, weights, row_bytes, columns, x, x_bytes, n_tokens, y, y_stride, row_begin, row_end, scratch
            )

    return kernel(renamed(matmul_rows, f"{kind.name}_{mode.name}"))


@cache
def _decoder(kind: WeightType) -> Callable[..., None]:
    weight_type = int(kind)

    def decode(weights: int, row_bytes: int, columns: int, rows: int, dst: int) -> None:
        for row in range(rows):
            dequantize_row(weight_type, weights + row * row_bytes, columns, dst + 4 * columns * row)

    return kernel(renamed(decode, kind.name))


def decoded_rows(weight: Weight, begin: int, end: int) -> NDArray[np.float32]:
    """Rows `begin … end - 1` of `weight` as the kernels decode them, float32 `[rows, columns]`."""
    values = np.empty((end - begin, weight.columns), np.float32)
    data = np.ascontiguousarray(weight.data[begin:end])
    _decoder(weight.type)(data.ctypes.data, data.shape[1], weight.columns, len(data), values.ctypes.data)
    return values


def scratch_bytes(columns: int) -> int:
    """Bytes of scratch that one thread needs for products with weights of that many columns."""
    return max(SCRATCH_BYTES, 4 * LANES * TOKENS + -(-columns // GROUP) * STRIP_RECORD)
