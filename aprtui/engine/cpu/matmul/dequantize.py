"""Weights as float32 values: bit for bit those of `gguf.quants.dequantize`."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numba import types

from aprtui.engine.cpu.emit import I32, I64, Emitter, Value, constant
from aprtui.engine.cpu.jit import inlined, typed_intrinsic
from aprtui.engine.cpu.matmul.decoders import DECODERS
from aprtui.engine.cpu.matmul.formats import FORMATS, Format
from aprtui.engine.cpu.matmul.scalars import half_at, load_f32, load_i16, store_f32
from aprtui.engine.cpu.memory import bits_float
from aprtui.model.weight_types import WeightType

_F32, _F16, _BF16 = (int(WeightType[name]) for name in ("F32", "F16", "BF16"))


def _block_values(e: Emitter, f: Format, w: Value) -> list[Value]:
    """One block as float32 vectors of 16 columns; every product and difference is rounded, as numpy does."""
    b, block = e.builder, f.unpack(e, w)
    if block.scales is not None:
        scales = e.to_float(e.widen(block.scales, I32, True))
        scales = b.fmul(scales, e.splat(block.d, scales.type.count))
    if block.minimums is not None:
        minimums = e.to_float(e.widen(block.minimums, I32, True))
        minimums = b.fmul(minimums, e.splat(block.dmin, minimums.type.count))
    result: list[Value] = []
    for part in (half for quants in block.quants for half in e.halve(quants)):
        sub_block = 16 * len(result) // f.sub_block
        integers = e.widen(part, I32, f.signed)
        values = e.to_float(b.sub(integers, constant(integers.type, f.offset)))
        scale = block.d if block.scales is None else e.lane(scales, sub_block)
        values = b.fmul(values, e.splat(scale, 16))
        if block.minimums is not None:
            values = b.fsub(values, e.splat(e.lane(minimums, sub_block), 16))
        result.append(values)
    return result


def _decode(f: Format | None, e: Emitter, w: Value, dst: Value) -> None:
    assert f is not None, "every quantised type has a format or a decoder"
    for i, values in enumerate(_block_values(e, f, w)):
        e.store(values, e.at(dst, 64 * i))


@typed_intrinsic
def _dequantize_blocks(typing_context: Any, weight_type: Any, w: Any, dst: Any, blocks: Any) -> Any:
    """Dequantise `blocks` ≥ 1 consecutive blocks of a quantised type into float32 values at `dst`."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = WeightType.numbered(weight_type.literal_value)
        if kind is None or not kind.format.is_quantised:
            return context.get_dummy_value()
        e, row, decode = Emitter(builder), kind.format, DECODERS.get(kind, partial(_decode, FORMATS.get(kind)))
        _, w, dst, blocks = args

        def body(k: Value, state: list[Value]) -> list[Value]:
            bytes_, floats = (builder.mul(k, constant(I64, n)) for n in (row.block_bytes, 4 * row.block_values))
            decode(e, e.at(w, bytes_), e.at(dst, floats))
            return []

        e.loop(blocks, [], body)
        return context.get_dummy_value()

    return types.none(weight_type, types.int64, types.int64, types.int64), emit


@typed_intrinsic
def _block_values_of(typing_context: Any, weight_type: Any) -> Any:
    """The values of a block of a weight type."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = WeightType.numbered(weight_type.literal_value)
        assert kind is not None
        return constant(I64, kind.format.block_values)

    return types.int64(weight_type), emit


@inlined
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
        _dequantize_blocks(weight_type, weights, dst, columns // _block_values_of(weight_type))
