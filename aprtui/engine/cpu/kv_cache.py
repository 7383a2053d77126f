"""How keys and values of a layer lie in memory: written a row at a time, read as tiles of 16 positions in float32.

Keys lie as `[16 keys][channel][key]`, so that a channel of 16 keys is one vector; values as rows padded to whole
vectors. In Q8_0 and Q4_0 a tile of keys has for each 32 channels 16 scales and then the quants of 16 keys side by side,
in the order of a block of GGUF; values are blocks of GGUF.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from aprtui.engine.cpu.emit import I8, I16, I32, Emitter, Value, constant, vector
from aprtui.engine.cpu.jit import intrinsic, kernel
from aprtui.engine.cpu.matmul.quantize import INFINITY, MAGNITUDE, first_of_magnitude, largest_bits, store_quants
from aprtui.engine.cpu.matmul.scalars import load_f32, load_i8, load_i16, store_i8, store_i16
from aprtui.engine.cpu.memory import bits_float, float32s, float_bits, half_from_float, halves
from aprtui.engine.cpu.vectors import LANES
from aprtui.engine.kv_types import KV_FORMATS
from aprtui.engine.protocol import KvType
from aprtui.trace.graph.ops import Op

_F32, _F16, _Q8_0, _Q4_0 = range(4)
_NUMBERS = {KvType.F32: _F32, KvType.F16: _F16, KvType.Q8_0: _Q8_0, KvType.Q4_0: _Q4_0}
_BLOCK = 32
_Q8_0_BYTES, _Q4_0_BYTES = (KV_FORMATS[kv].block_bytes for kv in (KvType.Q8_0, KvType.Q4_0))
_ZERO_LEVELS = np.int8(-0x78)
"""Two levels of 8, which is the zero of Q4_0."""


def kv_number(kv: KvType) -> int:
    """The type as kernels know it."""
    return _NUMBERS[kv]


@kernel
def padded(size: int) -> int:
    """`size` rounded up to whole vectors."""
    return (size + LANES - 1) // LANES * LANES


@kernel
def tile_bytes(kind: int, width: int) -> int:
    """Bytes of 16 keys or values of `width` channels, which whole blocks divide."""
    if kind == _F32:
        return 4 * LANES * width
    if kind == _F16:
        return 2 * LANES * width
    return LANES * (width // _BLOCK) * (_Q8_0_BYTES if kind == _Q8_0 else _Q4_0_BYTES)


@kernel
def put_key(kind: int, x: int, width: int, plane: int, position: int, scratch: int) -> None:
    """Put the key of `width` float32 values at `x` into the tiles at `plane`."""
    tile, lane = plane + position // LANES * tile_bytes(kind, width), position % LANES
    if kind == _F32:
        for i in range(width):
            float32s(tile, LANES * width)[i * LANES + lane] = load_f32(x, i)
    elif kind == _F16:
        for i in range(width):
            halves(tile, LANES * width)[i * LANES + lane] = half_from_float(load_f32(x, i))
    else:
        size = _Q8_0_BYTES if kind == _Q8_0 else _Q4_0_BYTES
        for block in range(width // _BLOCK):
            target = tile + block * LANES * size
            _put_block(kind, x + 4 * _BLOCK * block, scratch)
            store_i16(target, lane, load_i16(scratch, 0))
            for i in range(size - 2):
                store_i8(target + 2 * LANES, i * LANES + lane, load_i8(scratch + 2, i))


@kernel
def put_value(kind: int, x: int, width: int, plane: int, position: int) -> None:
    """Put the value of `width` float32 values at `x` into the rows at `plane`."""
    row = plane + position * (tile_bytes(kind, padded(width)) // LANES)
    if kind == _F32:
        for i in range(width):
            float32s(row, width)[i] = load_f32(x, i)
    elif kind == _F16:
        for i in range(width):
            halves(row, width)[i] = half_from_float(load_f32(x, i))
    else:
        size = _Q8_0_BYTES if kind == _Q8_0 else _Q4_0_BYTES
        for block in range(width // _BLOCK):
            _put_block(kind, x + 4 * _BLOCK * block, row + block * size)


@kernel
def _put_block(kind: int, x: int, target: int) -> None:
    """Round 32 values as ggml does, to the nearest of 255 levels (Q8_0) or of 16 (Q4_0).

    A block that holds NaN or Inf is all NaN, as its scale is.
    """
    bits = largest_bits(x, _BLOCK)
    if kind == _Q8_0:
        scale = np.float32(bits_float(bits) / np.float32(127))
        factor = np.float32(np.float32(127) / bits_float(bits))
    else:
        scale = np.float32(first_of_magnitude(x, _BLOCK, bits) / np.float32(-8))
        factor = np.float32(np.float32(1) / scale)
    size = _Q8_0_BYTES if kind == _Q8_0 else _Q4_0_BYTES
    if bits >= INFINITY or bits == 0 or np.int32(float_bits(factor) & MAGNITUDE) == INFINITY:
        for i in range(size - 2):
            store_i8(target + 2, i, np.int8(0) if kind == _Q8_0 else _ZERO_LEVELS)
        scale = np.float32(np.nan) if bits >= INFINITY else np.float32(0)
    elif kind == _Q8_0:
        store_quants(x, _BLOCK, factor, target + 2)
    else:
        for i in range(_BLOCK // 2):
            low, high = _level(x, i, factor), _level(x, i + _BLOCK // 2, factor)
            store_i8(target + 2, i, np.int8(np.int32(low | np.int32(high << np.int32(4)))))
    store_i16(target, 0, np.int16(half_from_float(scale)))


@kernel
def _level(x: int, index: int, factor: Any) -> Any:
    """One of the 16 levels of Q4_0: multiplied and added with one rounding, as ggml compiles it and gguf computes."""
    shifted = np.float32(np.float64(load_f32(x, index)) * np.float64(factor) + 8.5)
    return min(np.int32(shifted), np.int32(15))


@kernel
def key_tile(kind: int, tile: int, width: int, scratch: int) -> int:
    """Address of the tile of keys at `tile` as float32: `[width, 16]`, widened into `scratch` where it is of fewer
    bits."""
    if kind == _F32:
        return tile
    if kind == _F16:
        _widen_halves(tile, width, scratch)
    elif kind == _Q8_0:
        _widen_q8_0_keys(tile, width // _BLOCK, scratch)
    else:
        _widen_q4_0_keys(tile, width // _BLOCK, scratch)
    return scratch


@kernel
def value_tile(kind: int, tile: int, width: int, scratch: int) -> int:
    """The same of values: `[16, width]`, with `width` padded."""
    if kind == _F32:
        return tile
    if kind == _F16:
        _widen_halves(tile, width, scratch)
    elif kind == _Q8_0:
        _widen_q8_0_values(tile, LANES * width // _BLOCK, scratch)
    else:
        _widen_q4_0_values(tile, LANES * width // _BLOCK, scratch)
    return scratch


def _two_levels(e: Emitter, packed: Value) -> tuple[Value, Value]:
    """The levels of 16 bytes of Q4_0 (i8), less 8: those of the lower and of the upper halves."""
    lower, upper = e.widen(e.masked(packed, 15), I32, False), e.widen(e.shifted(packed, -4), I32, False)
    eight = constant(lower.type, 8)
    return e.builder.sub(lower, eight), e.builder.sub(upper, eight)


def _widening(
    block_bytes: int, block_values: int, emit_block: Callable[[Emitter, Value, Value], None]
) -> Callable[..., Any]:
    """An intrinsic `(source, blocks, target)` that widens so many blocks; `emit_block` does one, from an address to an
    address."""

    def widen(typing_context: Any, source: Any, blocks: Any, target: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            e = Emitter(builder)
            source, blocks, target = args

            def body(index: Value, states: list[Value]) -> list[Value]:
                begin = e.at(source, builder.mul(index, constant(index.type, block_bytes)))
                emit_block(e, begin, e.at(target, builder.mul(index, constant(index.type, 4 * block_values))))
                return states

            e.loop(blocks, [], body)
            return context.get_dummy_value()

        return types.none(*[types.int64] * 3), emit

    return intrinsic(widen)


def _emit_halves(e: Emitter, source: Value, target: Value) -> None:
    e.store(e.half_to_float(e.load(source, vector(I16, LANES))), target)


def _emit_q8_0_keys(e: Emitter, source: Value, target: Value) -> None:
    scales = e.half_to_float(e.load(source, vector(I16, LANES)))
    for i in range(_BLOCK):
        quants = e.load(e.at(source, (2 + i) * LANES), vector(I8, LANES))
        values = e.builder.fmul(e.to_float(e.widen(quants, I32, True)), scales)
        e.store(values, e.at(target, 4 * i * LANES))


def _emit_q4_0_keys(e: Emitter, source: Value, target: Value) -> None:
    scales = e.half_to_float(e.load(source, vector(I16, LANES)))
    for i in range(_BLOCK // 2):
        packed = e.load(e.at(source, (2 + i) * LANES), vector(I8, LANES))
        for channel, levels in zip((i, i + _BLOCK // 2), _two_levels(e, packed), strict=True):
            e.store(e.builder.fmul(e.to_float(levels), scales), e.at(target, 4 * channel * LANES))


def _scale_of(e: Emitter, source: Value) -> Value:
    # Two of them are loaded for the reason that `formats._two_halves_at` gives.
    return e.splat(e.lane(e.half_to_float(e.load(source, vector(I16, 2))), 0), LANES)


def _emit_q8_0_values(e: Emitter, source: Value, target: Value) -> None:
    scale = _scale_of(e, source)
    for half in range(2):
        quants = e.load(e.at(source, 2 + half * LANES), vector(I8, LANES))
        e.store(e.builder.fmul(e.to_float(e.widen(quants, I32, True)), scale), e.at(target, 4 * half * LANES))


def _emit_q4_0_values(e: Emitter, source: Value, target: Value) -> None:
    scale = _scale_of(e, source)
    for half, levels in enumerate(_two_levels(e, e.load(e.at(source, 2), vector(I8, LANES)))):
        e.store(e.builder.fmul(e.to_float(levels), scale), e.at(target, 4 * half * LANES))


# Measured on AVX-512: 0.025 ns a value for all of them; float16 by integer arithmetic took 0.125.
_widen_halves = _widening(2 * LANES, LANES, _emit_halves)
_widen_q8_0_keys = _widening(LANES * _Q8_0_BYTES, LANES * _BLOCK, _emit_q8_0_keys)
_widen_q4_0_keys = _widening(LANES * _Q4_0_BYTES, LANES * _BLOCK, _emit_q4_0_keys)
_widen_q8_0_values = _widening(_Q8_0_BYTES, _BLOCK, _emit_q8_0_values)
_widen_q4_0_values = _widening(_Q4_0_BYTES, _BLOCK, _emit_q4_0_values)


def rows_of(kv: KvType, op: Op, tiles: NDArray[np.uint8], width: int) -> NDArray[np.floating]:
    """Keys (for the scores) or values of tiles `[kv_heads, tiles, bytes]`, as `[tiles, 16, kv_heads, width]`.

    A view of the tiles for types without blocks.
    """
    heads, count, _ = tiles.shape
    if KV_FORMATS[kv].block_values == 1:
        plain: NDArray[np.floating] = tiles.view(np.float16 if kv is KvType.F16 else np.float32)
        if op is Op.ATTEND:
            return plain.reshape(heads, count, LANES, -1)[..., :width].transpose(1, 2, 0, 3)
        return plain.reshape(heads, count, width, LANES).transpose(1, 3, 0, 2)
    blocks, size = width // _BLOCK, KV_FORMATS[kv].block_bytes
    if op is Op.ATTEND:
        rows = tiles.reshape(heads, count, LANES, blocks, size)
        scales, quants = rows[..., :2], rows[..., 2:]
    else:
        columns = tiles.reshape(heads, count, blocks, LANES * size)
        scales = columns[..., : 2 * LANES].reshape(heads, count, blocks, LANES, 2).swapaxes(2, 3)
        quants = columns[..., 2 * LANES :].reshape(heads, count, blocks, size - 2, LANES).transpose(0, 1, 4, 2, 3)
    if kv is KvType.Q4_0:
        levels = np.concatenate([quants & 15, quants >> 4], axis=-1).astype(np.float32) - np.float32(8)
    else:
        levels = quants.astype(np.int8).astype(np.float32)
    with np.errstate(invalid="ignore"):
        values = levels * np.ascontiguousarray(scales).view(np.float16).astype(np.float32)
    return values.reshape(heads, count, LANES, width).transpose(1, 2, 0, 3)
