"""Float32 products: rows of weights dequantised into a panel, times float32 activations.

The columns are taken in chunks. Inside a chunk products are summed in 16 lanes (lane = column modulo 16) in column
order, then the lanes by halves; chunks are added in column order. So the order depends on the columns alone, and not
on the tile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from aprtui.engine.cpu.emit import F32, I64, Emitter, Value, constant, vector
from aprtui.engine.cpu.jit import inlined, intrinsic
from aprtui.engine.cpu.matmul.dequantize import dequantize_row
from aprtui.engine.cpu.matmul.scalars import load_f32, prefetch, store_f32
from aprtui.engine.cpu.tier import TIER, Tier

_LANES = 16
_CHUNK = 512
"""Columns of a chunk, a multiple of every format's block."""
_ROWS, _TOKENS, _PANEL_ROWS = (4, 6, 64) if TIER is Tier.AVX512 else (3, 2, 66)
"""Rows and tokens of a tile (as many 16-lane sums as the registers hold), and rows of a panel."""
_BLOCK = 512
"""Tokens that share a panel."""
_WIDE = vector(F32, _LANES)


def _sum_rows(e: Emitter, rows: list[Value]) -> Value:
    """The sums of 16-lane vectors as one vector; each is summed as halves of halves, independently of the others."""
    count, width = len(rows), _LANES
    while width > 1:
        if len(rows) == 1:
            rows = [rows[0], rows[0]]
        merged: list[Value] = []
        for p, q in zip(rows[::2], rows[1::2] + rows[-1:], strict=False):
            starts = range(0, 2 * p.type.count, width)
            lower = [lane for start in starts for lane in range(start, start + width // 2)]
            merged.append(e.builder.fadd(e.shuffle(p, lower, q), e.shuffle(p, [i + width // 2 for i in lower], q)))
        rows, width = merged, width // 2
    return e.shuffle(rows[0], range(count))


def _multiply(e: Emitter, rows: int, tokens: int, args: Any) -> None:
    """Add the products of `rows` panel rows × `tokens` activation rows to `sums`, `[token, _PANEL_ROWS]` float32."""
    b = e.builder
    panel, panel_bytes, x, x_bytes, last, columns, sums = args
    row_at = [e.at(panel, b.mul(panel_bytes, constant(I64, r))) for r in range(rows)]
    token_at = []
    for t in range(tokens):
        within = b.icmp_signed("<", constant(I64, t), last)
        token_at.append(e.at(x, b.mul(x_bytes, b.select(within, constant(I64, t), last))))
    whole = b.ashr(columns, constant(I64, 4))
    rest = b.and_(columns, constant(I64, _LANES - 1))
    lanes = ir.Constant(vector(I64, _LANES), list(range(_LANES)))

    def add(totals: list[Value], w: list[Value], x: list[Value]) -> list[Value]:
        return [e.multiply_add(w[r], x[t], totals[t * rows + r]) for t in range(tokens) for r in range(rows)]

    def body(k: Value, totals: list[Value]) -> list[Value]:
        offset = b.mul(k, constant(I64, 4 * _LANES))
        w, x = ([e.load(e.at(address, offset), _WIDE) for address in group] for group in (row_at, token_at))
        return add(totals, w, x)

    def one_column(k: Value, totals: list[Value]) -> list[Value]:
        """A column of the last, incomplete step: in its lane, as if the others held zeros."""
        chosen = b.icmp_signed("==", lanes, e.splat(k, _LANES))
        offset = b.mul(b.add(k, b.mul(whole, constant(I64, _LANES))), constant(I64, 4))

        def in_lane(address: Value) -> Value:
            return b.select(chosen, e.splat(e.load(e.at(address, offset), F32), _LANES), constant(_WIDE, 0.0))

        return add(totals, [in_lane(a) for a in row_at], [in_lane(a) for a in token_at])

    totals = e.loop(rest, e.loop(whole, [constant(_WIDE, 0.0)] * (rows * tokens), body), one_column)
    for t in range(tokens):
        at = e.at(sums, 4 * _PANEL_ROWS * t)
        e.store(b.fadd(e.load(at, vector(F32, rows)), _sum_rows(e, totals[t * rows : (t + 1) * rows])), at)


def _multiplier(rows: int, tokens: int) -> Callable[..., Any]:
    def multiply(
        typing_context: Any, panel: Any, panel_bytes: Any, x: Any, x_bytes: Any, last: Any, columns: Any, sums: Any
    ) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _multiply(Emitter(builder), rows, tokens, args)
            return context.get_dummy_value()

        return types.none(*[types.int64] * 7), emit

    return intrinsic(multiply)


_multiply_one = _multiplier(_ROWS, 1)
_multiply_tile = _multiplier(_ROWS, _TOKENS)


@inlined
def _multiply_panel(panel: int, rows: int, columns: int, x: int, x_bytes: int, n_tokens: int, sums: int) -> None:
    """Add the products of a panel's chunk of columns to `sums`."""
    for token in range(0, n_tokens, _TOKENS):
        last = min(_TOKENS, n_tokens - token) - 1
        for row in range(0, rows, _ROWS):
            w, out = panel + 4 * _CHUNK * row, sums + 4 * (token * _PANEL_ROWS + row)
            if last == 0:
                _multiply_one(w, 4 * _CHUNK, x + token * x_bytes, x_bytes, last, columns, out)
            else:
                _multiply_tile(w, 4 * _CHUNK, x + token * x_bytes, x_bytes, last, columns, out)


@inlined
def multiply_floats(
    weight_type: int, weights: int, row_bytes: int, columns: int, x: int, x_bytes: int, n_tokens: int,
    y: int, y_stride: int, row_begin: int, row_end: int, scratch: int,
) -> None:  # fmt: skip
    """`y[t · y_stride + r] = Σ w[r, k] · x[t, k]` for `row_begin ≤ r < row_end` and `t < n_tokens`, float32.

    `weight_type` has to be known where this is compiled. `weights` points to row 0 of rows in their GGUF form (any
    alignment, no gaps); `x` to rows as `quantize_rows` left them for `activation_kind(weight_type, mode)`, `x_bytes`
    apart (plain float32 rows will do for F32); `scratch` to `scratch_bytes(columns)` bytes that no other thread uses.
    Columns are whole blocks of the type. The bits of a result depend on its row and its token alone: not on `n_tokens`,
    nor on how the rows are split. NaN and Inf come out where they ought to.
    """
    # For one token every weight is used once: better a few rows, which are still in the nearest cache then.
    height = _ROWS if n_tokens == 1 else _PANEL_ROWS
    panel = scratch + 4 * _PANEL_ROWS * (_BLOCK + _TOKENS)
    for first in range(row_begin, row_end, height):
        rows = min(height, row_end - first)
        for begin in range(0, n_tokens, _BLOCK):
            tokens = min(_BLOCK, n_tokens - begin)
            for i in range(_PANEL_ROWS * tokens):
                store_f32(scratch, i, np.float32(0))
            for chunk in range(0, columns, _CHUNK):
                width = min(_CHUNK, columns - chunk)
                for r in range((rows + _ROWS - 1) // _ROWS * _ROWS):  # a tile's missing rows repeat the last one
                    source = weights + (first + min(r, rows - 1)) * row_bytes + chunk * row_bytes // columns
                    dequantize_row(weight_type, source, width, panel + 4 * _CHUNK * r)
                    # Rows in turns defeat the hardware's own prefetching (Q6_K, one token: 3.9 GB/s without, 7.7 with).
                    for line in range(0, width * row_bytes // columns + 64, 64):
                        prefetch(source + height * row_bytes + line)
                _multiply_panel(panel, rows, width, x + begin * x_bytes + 4 * chunk, x_bytes, tokens, scratch)
            for t in range(tokens):
                for r in range(rows):
                    store_f32(y, (begin + t) * y_stride + first + r, load_f32(scratch, t * _PANEL_ROWS + r))


SCRATCH_BYTES = 4 * _PANEL_ROWS * (_BLOCK + _TOKENS + _CHUNK)
"""Scratch of `multiply_floats`: sums `[token, row]`, then a panel `[row, column of the chunk]`."""
