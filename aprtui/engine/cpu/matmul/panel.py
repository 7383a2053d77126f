"""Weights as float32: rows dequantised into a panel, and panels multiplied with float32 activations.

Dequantisation rounds as `gguf.quants.dequantize` does, bit for bit. Products are summed in 16 lanes (lane = column
modulo 16) in column order, then lanes by halves: the order depends on the columns alone, whatever the tile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from aprtui.engine.cpu.jit import intrinsic, kernel
from aprtui.engine.cpu.matmul.activations import GROUP
from aprtui.engine.cpu.matmul.emit import F32, I32, I64, Emitter, Value, constant, vector
from aprtui.engine.cpu.matmul.formats import FORMATS, Format, for_format
from aprtui.engine.cpu.matmul.scalars import bits_float, half_at, load_f32, load_i16, store_f32
from aprtui.engine.cpu.matmul.tier import TIER, Tier
from aprtui.model.weights import WeightType

LANES = 16
ROWS, TOKENS = (4, 6) if TIER is Tier.AVX512 else (3, 2)
"""Rows and tokens of a tile: as many 16-lane sums as the registers hold, beside what they are made of."""
_F32, _F16, _BF16 = (int(WeightType[name]) for name in ("F32", "F16", "BF16"))
_WIDE = vector(F32, LANES)


def _dequantize_block(e: Emitter, f: Format, w: Value, dst: Value) -> None:
    b, block = e.builder, f.unpack(e, w)
    if block.scales is not None:
        scales = e.to_float(e.widen(block.scales, I32, True))
        scales = b.fmul(scales, e.splat(block.d, scales.type.count))
    if block.minimums is not None:
        minimums = e.to_float(e.widen(block.minimums, I32, True))
        minimums = b.fmul(minimums, e.splat(block.dmin, minimums.type.count))
    for i, quants in enumerate(block.quants):
        for half, part in enumerate(e.halve(quants)):
            sub_block = (32 * i + 16 * half) // f.sub_block
            integers = e.widen(part, I32, f.signed)
            values = e.to_float(b.sub(integers, constant(integers.type, f.offset)))
            scale = block.d if block.scales is None else e.lane(scales, sub_block)
            values = b.fmul(values, e.splat(scale, LANES))
            if block.minimums is not None:
                values = b.fsub(values, e.splat(e.lane(minimums, sub_block), LANES))
            e.store(values, e.at(dst, 4 * (32 * i + 16 * half)))


@intrinsic
def _dequantize_blocks(typing_context: Any, weight_type: Any, w: Any, dst: Any, blocks: Any) -> Any:
    """Dequantise `blocks` ≥ 1 consecutive blocks of a quantised type into float32 values at `dst`."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e = Emitter(builder)
        number, w, dst, blocks = args

        def walk(f: Format) -> None:
            def body(k: Value, state: list[Value]) -> list[Value]:
                bytes_, floats = (builder.mul(k, constant(I64, n)) for n in (f.size, 4 * f.columns))
                _dequantize_block(e, f, e.at(w, bytes_), e.at(dst, floats))
                return []

            e.loop(blocks, [], body)

        for_format(e, number, walk)
        return context.get_dummy_value()

    return types.none(types.int64, types.int64, types.int64, types.int64), emit


@kernel
def dequantize_row(weight_type: int, weights: int, columns: int, dst: int) -> None:
    """One row of weights as float32 values at `dst`, bit-equal to `gguf.quants.dequantize`."""
    if weight_type == _F32:
        for i in range(columns):
            store_f32(dst, i, load_f32(weights, i))
    elif weight_type == _F16:
        for i in range(columns):
            store_f32(dst, i, half_at(weights, i))
    elif weight_type == _BF16:
        for i in range(columns):
            store_f32(dst, i, bits_float(np.int32(np.int32(load_i16(weights, i)) << np.int32(16))))
    else:
        _dequantize_blocks(weight_type, weights, dst, _blocks(weight_type, columns))


_K_TYPES = tuple(int(f.type) for f in FORMATS.values() if f.columns == GROUP)


@kernel
def _blocks(weight_type: int, columns: int) -> int:
    return columns // GROUP if weight_type in _K_TYPES else columns // 32


def _multiply(e: Emitter, rows: int, tokens: int, args: Any) -> None:
    """Sums of `rows` panel rows × `tokens` activation rows, to `out` as float32 `[tokens, rows]`."""
    b = e.builder
    panel, panel_bytes, x, x_bytes, last, columns, out = args
    row_at = [e.at(panel, b.mul(panel_bytes, constant(I64, r))) for r in range(rows)]
    token_at = []
    for t in range(tokens):
        within = b.icmp_signed("<", constant(I64, t), last)
        token_at.append(e.at(x, b.mul(x_bytes, b.select(within, constant(I64, t), last))))
    whole = b.ashr(columns, constant(I64, 4))
    rest = b.and_(columns, constant(I64, LANES - 1))
    lanes = ir.Constant(vector(I64, LANES), list(range(LANES)))
    zeros = [constant(_WIDE, 0.0)] * (rows * tokens)

    def add(sums: list[Value], w: list[Value], x: list[Value]) -> list[Value]:
        return [e.multiply_add(w[r], x[t], sums[t * rows + r]) for t in range(tokens) for r in range(rows)]

    def body(k: Value, sums: list[Value]) -> list[Value]:
        offset = b.mul(k, constant(I64, 4 * LANES))
        w, x = ([e.load(e.at(address, offset), _WIDE) for address in group] for group in (row_at, token_at))
        return add(sums, w, x)

    def one_column(k: Value, sums: list[Value]) -> list[Value]:
        """A column of the last, incomplete step: in its lane, as if the others held zeros."""
        chosen = b.icmp_signed("==", lanes, e.splat(k, LANES))
        offset = b.mul(b.add(k, b.mul(whole, constant(I64, LANES))), constant(I64, 4))

        def in_lane(address: Value) -> Value:
            return b.select(chosen, e.splat(e.load(e.at(address, offset), F32), LANES), constant(_WIDE, 0.0))

        return add(sums, [in_lane(a) for a in row_at], [in_lane(a) for a in token_at])

    sums = e.loop(rest, e.loop(whole, zeros, body), one_column)
    for i, value in enumerate(sums):
        e.store(e.sum_float(value), e.at(out, 4 * i))


def _multiplier(rows: int, tokens: int) -> Callable[..., Any]:
    def multiply(
        typing_context: Any, panel: Any, panel_bytes: Any, x: Any, x_bytes: Any, last: Any, columns: Any, out: Any
    ) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _multiply(Emitter(builder), rows, tokens, args)
            return context.get_dummy_value()

        return types.none(*[types.int64] * 7), emit

    return intrinsic(multiply)


_multiply_one = _multiplier(ROWS, 1)
_multiply_tile = _multiplier(ROWS, TOKENS)


@kernel
def matmul_float(
    weight_type: int, weights: int, row_bytes: int, columns: int, x: int, x_bytes: int, n_tokens: int,
    y: int, y_stride: int, row_begin: int, row_end: int, scratch: int,
) -> None:  # fmt: skip
    """`y[t, r] = Σ w[r, k] · x[t, k]` in float32, for weights of any type and float32 activations."""
    panel_bytes = 4 * columns
    out = scratch + ROWS * panel_bytes
    for first in range(row_begin, row_end, ROWS):
        rows = min(ROWS, row_end - first)
        for r in range(ROWS):  # missing rows repeat the last one; what they give is dropped
            source = weights + (first + min(r, rows - 1)) * row_bytes
            dequantize_row(weight_type, source, columns, scratch + r * panel_bytes)
        token = 0
        while token < n_tokens:
            tokens = min(TOKENS, n_tokens - token)
            if tokens == 1:
                _multiply_one(scratch, panel_bytes, x + token * x_bytes, x_bytes, 0, columns, out)
            else:
                _multiply_tile(scratch, panel_bytes, x + token * x_bytes, x_bytes, tokens - 1, columns, out)
            for t in range(tokens):
                for r in range(rows):
                    store_f32(y, (token + t) * y_stride + first + r, load_f32(out, t * ROWS + r))
            token += tokens
