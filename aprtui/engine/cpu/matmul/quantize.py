"""Rounding activations as llama.cpp's x86 backend does, into the layout of `activations`.

A block that holds NaN or Inf gets the scale NaN, which every product of it becomes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from aprtui.engine.cpu.jit import inlined, kernel
from aprtui.engine.cpu.matmul.activations import (
    GROUP,
    RECORD,
    SCALE_K,
    SCALES_0,
    SUMS_0,
    SUMS_16,
    SUMS_32,
    ActivationKind,
)
from aprtui.engine.cpu.matmul.scalars import load_f32, load_i32, store_f32, store_i8, store_i16, store_i32
from aprtui.engine.cpu.memory import bits_float, float_bits

_F32, _Q8_K, _Q8_0, _Q8_1, _F16 = (int(ActivationKind[name]) for name in ("F32", "Q8_K", "Q8_0", "Q8_1", "F16"))
_Q8_K_VALUES, _Q8_0_VALUES = int(ActivationKind.Q8_K_VALUES), int(ActivationKind.Q8_0_VALUES)
MAGNITUDE = np.int32(0x7FFFFFFF)
INFINITY = np.int32(0x7F800000)
_ROUNDER = np.float32(12582912.0)
"""1.5 · 2**23: adding it to a float32 of at most 2**22 leaves the nearest integer (ties to even) in the last bits."""


@inlined
def largest_bits(x: int, count: int) -> Any:
    """Bits of the largest magnitude among `count` float32 values; they order as integers do, NaN above Inf."""
    largest = np.int32(0)
    for i in range(count):
        largest = max(largest, np.int32(load_i32(x, i) & MAGNITUDE))
    return largest


@inlined
def first_of_magnitude(x: int, count: int, bits: int) -> Any:
    """The first value with that magnitude: its sign decides the sign of a Q8_K scale."""
    for i in range(count):
        if np.int32(load_i32(x, i) & MAGNITUDE) == bits:
            return load_f32(x, i)
    return np.float32(0)


@inlined
def _rounded(value: Any) -> Any:
    """The nearest integer, ties to even; at most 127."""
    return min(np.float32(np.float32(value + _ROUNDER) - _ROUNDER), np.float32(127))


@inlined
def store_quants(x: int, count: int, factor: Any, dst: int) -> None:
    for i in range(count):
        store_i8(dst, i, np.int8(np.int32(_rounded(np.float32(factor * load_f32(x, i))))))


@inlined
def _store_zeros(dst: int, words: int) -> None:
    for i in range(words):
        store_i32(dst, i, np.int32(0))


@inlined
def _sum_bytes(quants: int, words: int) -> Any:
    """The sum of 4 · `words` signed bytes."""
    total = np.int32(0)
    for i in range(words):
        word = load_i32(quants, i)
        for shift in (24, 16, 8, 0):
            total = np.int32(total + np.int32(np.int32(word << np.int32(shift)) >> np.int32(24)))
    return total


@inlined
def _quantize_q8_k(x: int, columns: int, dst: int) -> None:
    for group in range(columns // GROUP):
        source, record = x + 4 * GROUP * group, dst + RECORD * group
        bits = largest_bits(source, GROUP)
        factor = np.float32(np.float32(-127) / first_of_magnitude(source, GROUP, bits))
        if bits >= INFINITY or bits == 0 or np.int32(float_bits(factor) & MAGNITUDE) == INFINITY:
            _store_zeros(record, RECORD // 4)
            if bits >= INFINITY:
                store_f32(record + SCALE_K, 0, np.float32(np.nan))
            continue
        store_quants(source, GROUP, factor, record)
        store_f32(record + SCALE_K, 0, np.float32(np.float32(1) / factor))
        for i in range(8):
            low, high = _sum_bytes(record + 32 * i, 4), _sum_bytes(record + 32 * i + 16, 4)
            store_i16(record + SUMS_16, 2 * i, np.int16(low))
            store_i16(record + SUMS_16, 2 * i + 1, np.int16(high))
            store_i16(record + SUMS_32, i, np.int16(low + high))


@inlined
def _quantize_q8_0(x: int, columns: int, dst: int, products: bool) -> None:
    """Q8_0, or with `products` Q8_1, whose sums are products with the scale."""
    for block in range(columns // 32):
        source, record, k = x + 128 * block, dst + RECORD * (block // 8), block % 8
        bits = largest_bits(source, 32)
        largest = bits_float(bits)
        factor = np.float32(np.float32(127) / largest)
        unrounded = np.float32(largest / np.float32(127))
        if bits >= INFINITY or bits == 0 or np.int32(float_bits(factor) & MAGNITUDE) == INFINITY:
            _store_zeros(record + 32 * k, 8)
            store_i32(record + SUMS_0, k, np.int32(0))
            store_f32(record + SCALES_0, k, np.float32(np.nan) if bits >= INFINITY else np.float32(0))
            continue
        store_quants(source, 32, factor, record + 32 * k)
        total = _sum_bytes(record + 32 * k, 8)
        if products:
            store_f32(record + SUMS_0, k, _round_f16(np.float32(unrounded * np.float32(total))))
        else:
            store_i32(record + SUMS_0, k, total)
        store_f32(record + SCALES_0, k, _round_f16(unrounded))


@inlined
def _values_of_q8(x: int, columns: int, dst: int, block: int) -> None:
    """What Q8_K (blocks of 256) or Q8_0 (blocks of 32) stands for, as float32."""
    for begin in range(0, columns, block):
        source = x + 4 * begin
        bits = largest_bits(source, block)
        if block == GROUP:
            factor = np.float32(np.float32(-127) / first_of_magnitude(source, block, bits))
            scale = np.float32(np.float32(1) / factor)
        else:
            factor = np.float32(np.float32(127) / bits_float(bits))
            scale = _round_f16(np.float32(bits_float(bits) / np.float32(127)))
        lost = bits == 0 or np.int32(float_bits(factor) & MAGNITUDE) == INFINITY
        for i in range(block):
            value = np.float32(0) if lost else np.float32(_rounded(np.float32(factor * load_f32(source, i))) * scale)
            store_f32(dst, begin + i, np.float32(np.nan) if bits >= INFINITY else value)


@inlined
def _round_f16(value: Any) -> Any:
    """`value` rounded to float16 (nearest, ties to even; Inf above 65504), as float32.

    Adding and subtracting a power of two drops the bits that float16 lacks; it is 2**13 times the unit of the value's
    binade, and for subnormals of the smallest one.
    """
    bits = float_bits(value)
    magnitude = np.int32(bits & MAGNITUDE)
    if magnitude >= INFINITY:
        return value
    exponent = max(np.int32(magnitude >> np.int32(23)), np.int32(113))
    shifter = bits_float(np.int32(np.int32(exponent + np.int32(13)) << np.int32(23)))
    rounded = np.float32(np.float32(bits_float(magnitude) + shifter) - shifter)
    if rounded > np.float32(65504):
        rounded = np.float32(np.inf)
    return bits_float(np.int32(float_bits(rounded) | np.int32(bits & np.int32(-0x80000000))))


@inlined
def _round_bf16(value: Any) -> Any:
    """`value` rounded to bfloat16 (nearest, ties to even), as float32; NaN stays NaN."""
    bits = float_bits(value)
    if np.int32(bits & MAGNITUDE) > INFINITY:
        return value
    odd = np.int32(np.int32(bits >> np.int32(16)) & np.int32(1))
    return bits_float(np.int32(np.int32(bits + np.int32(np.int32(0x7FFF) + odd)) & np.int32(-0x10000)))


@kernel
def quantize_rows_q8_k(x: int, columns: int, begin: int, end: int, dst: int) -> None:
    for token in range(begin, end):
        _quantize_q8_k(x + 4 * columns * token, columns, dst + token * (columns // GROUP * RECORD))


@kernel
def quantize_rows_q8_0(x: int, columns: int, begin: int, end: int, dst: int, products: int) -> None:
    for token in range(begin, end):
        row = dst + token * ((columns + GROUP - 1) // GROUP * RECORD)
        _quantize_q8_0(x + 4 * columns * token, columns, row, products != 0)


@kernel
def round_rows(kind: int, x: int, columns: int, begin: int, end: int, dst: int) -> None:
    """Rows that stay floats, rounded to a kind that is none of `INTEGERS`."""
    for token in range(begin, end):
        source, row = x + 4 * columns * token, dst + token * ((4 * columns + 63) // 64 * 64)
        if kind in (_Q8_K_VALUES, _Q8_0_VALUES):
            _values_of_q8(source, columns, row, GROUP if kind == _Q8_K_VALUES else 32)
            continue
        for i in range(columns):
            value = load_f32(source, i)
            if kind == _F16:
                value = _round_f16(value)
            elif kind != _F32:
                value = _round_bf16(value)
            store_f32(row, i, value)


@kernel
def quantize_rows(kind: int, x: int, columns: int, begin: int, end: int, dst: int) -> None:
    """Round rows `begin … end - 1` of `x` (float32, contiguous) to `kind` (`ActivationKind`).

    Rows go to `dst + token · activation_bytes(kind, columns)`.
    """
    if kind == _Q8_K:
        quantize_rows_q8_k(x, columns, begin, end, dst)
    elif kind in (_Q8_0, _Q8_1):
        quantize_rows_q8_0(x, columns, begin, end, dst, int(kind == _Q8_1))
    else:
        round_rows(kind, x, columns, begin, end, dst)
