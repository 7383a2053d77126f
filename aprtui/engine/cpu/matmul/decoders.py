"""Weight types that are only decoded, a block at a time, and then multiplied as floats.

Most of them take vectors of 8 or 4 quants from a grid, whose entries are those of `gguf.quants`. Written from the field
descriptions that it gives; every product is rounded as numpy rounds it there, so values are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.cpu.emit import F32, I8, I16, I32, I64, Emitter, Value, constant, vector
from aprtui.model.weight_types import WeightType

Decode = Callable[[Emitter, Value, Value], None]
"""Emits the code that decodes the block at an address to float32 values at another."""


def _half(e: Emitter, address: Value) -> Value:
    return e.half_to_float(e.load(address, I16))


def _byte(e: Emitter, address: Value) -> Value:
    """The byte at an address, i64."""
    return e.builder.zext(e.load(address, I8), I64)


def _bits(e: Emitter, value: Value, shift: Value | int, mask: int) -> Value:
    """Bits of an i64, from bit `shift` on."""
    shift = constant(I64, shift) if isinstance(shift, int) else shift
    return e.masked(e.builder.lshr(value, shift), mask)


def _wide(e: Emitter, address: Value, type_: Any) -> Value:
    return e.builder.zext(e.load(address, type_), I64)


def _grid(kind: WeightType) -> NDArray[np.int8]:
    """The grid of a type, `[entries, quants]`."""
    from gguf import quants

    rows: Any = getattr(quants, kind.name)
    rows.init_grid()
    return np.asarray(rows.grid[0, 0], np.int8)


def _entry(e: Emitter, grid: Value, index: Value, width: int) -> Value:
    """The entry of a grid at an address, float32 × `width`."""
    at = e.at(grid, e.builder.mul(index, constant(I64, width)))
    return e.to_float(e.widen(e.load(at, vector(I8, width)), I32, True))


def _signs(e: Emitter, byte: Value) -> Value:
    """1 and −1, float32 × 8: −1 where a bit of an i64 is set."""
    b, bytes_ = e.builder, e.splat(e.builder.trunc(byte, I8), 8)
    chosen = b.and_(bytes_, e.constants(I8, [1, 2, 4, 8, 16, 32, 64, -128]))
    negative = b.icmp_unsigned("!=", chosen, constant(chosen.type, 0))
    return b.select(negative, constant(vector(F32, 8), -1.0), constant(vector(F32, 8), 1.0))


def _even_signs(e: Emitter) -> Callable[[Value], Value]:
    """From seven bits to `_signs`: the eighth sign makes the number of minus signs even."""
    from gguf import quants

    table = e.table(np.frombuffer(quants.IQ2_XXS.ksigns, np.uint8))
    return lambda index: _signs(e, _byte(e, e.at(table, index)))


def _store(e: Emitter, dst: Value, k: Value, part: int, values: Value) -> None:
    """Store eight values of the `k`-th 32 columns."""
    e.store(values, e.at(e.at(dst, e.shifted(k, 7)), 32 * part))


def _scaled(e: Emitter, d: Value, scale: Value, factor: float) -> Value:
    """d · (½ + scale) · factor, rounded after each step."""
    b = e.builder
    return b.fmul(b.fmul(d, b.fadd(constant(F32, 0.5), e.to_float(scale))), constant(F32, factor))


def _odd(e: Emitter, d: Value, scale: Value) -> Value:
    """d · (2 · scale + 1)."""
    return e.builder.fmul(d, e.to_float(e.builder.add(e.shifted(scale, 1), constant(I64, 1))))


def _by_32_columns(e: Emitter, body: Callable[[Value], None]) -> None:
    def step(k: Value, state: list[Value]) -> list[Value]:
        body(k)
        return []

    e.loop(8, [], step)


def _times(e: Emitter, scale: Value, values: Value) -> Value:
    return e.builder.fmul(e.splat(scale, values.type.count), values)


def _iq2_xxs(e: Emitter, w: Value, dst: Value) -> None:
    """d (f16); for each 32 columns 4 indices of bytes and 32 bits: four times 7 of signs, 4 of a scale."""
    d, grid, signs = _half(e, w), e.table(_grid(WeightType.IQ2_XXS)), _even_signs(e)

    def columns(k: Value) -> None:
        at = e.at(e.at(w, e.shifted(k, 3)), 2)
        word = _wide(e, e.at(at, 4), I32)
        scale = _scaled(e, d, _bits(e, word, 28, 15), 0.25)
        for i in range(4):
            values = _times(e, scale, _entry(e, grid, _byte(e, e.at(at, i)), 8))
            _store(e, dst, k, i, e.builder.fmul(values, signs(_bits(e, word, 7 * i, 127))))

    _by_32_columns(e, columns)


def _iq2_xs(e: Emitter, w: Value, dst: Value) -> None:
    """d (f16), 32 × 16 bits (9 of an index, 7 of signs), 16 scales of 4 bits."""
    d, grid, signs = _half(e, w), e.table(_grid(WeightType.IQ2_XS)), _even_signs(e)

    def columns(k: Value) -> None:
        scales = _byte(e, e.at(e.at(w, k), 66))
        for i in range(4):
            word = _wide(e, e.at(e.at(w, e.shifted(k, 3)), 2 + 2 * i), I16)
            scale = _scaled(e, d, _bits(e, scales, 4 * (i // 2), 15), 0.25)
            values = _times(e, scale, _entry(e, grid, e.masked(word, 511), 8))
            _store(e, dst, k, i, e.builder.fmul(values, signs(_bits(e, word, 9, 127))))

    _by_32_columns(e, columns)


def _iq2_s(e: Emitter, w: Value, dst: Value) -> None:
    """d (f16), 32 bytes of indices, 32 of signs, 8 of upper bits of indices, 16 scales of 4 bits."""
    d, grid = _half(e, w), e.table(_grid(WeightType.IQ2_S))

    def columns(k: Value) -> None:
        upper, scales = (_byte(e, e.at(e.at(w, k), offset)) for offset in (66, 74))
        at = e.at(w, e.shifted(k, 2))
        for i in range(4):
            index = e.builder.or_(_byte(e, e.at(at, 2 + i)), e.shifted(_bits(e, upper, 2 * i, 3), 8))
            scale = _scaled(e, d, _bits(e, scales, 4 * (i // 2), 15), 0.25)
            values = _times(e, scale, _entry(e, grid, index, 8))
            _store(e, dst, k, i, e.builder.fmul(values, _signs(e, _byte(e, e.at(at, 34 + i)))))

    _by_32_columns(e, columns)


def _iq3_xxs(e: Emitter, w: Value, dst: Value) -> None:
    """d (f16), 64 indices of bytes; for each 32 columns 32 bits: four times 7 of signs, 4 of a scale."""
    d, grid, signs = _half(e, w), e.table(_grid(WeightType.IQ3_XXS)), _even_signs(e)

    def columns(k: Value) -> None:
        word = _wide(e, e.at(e.at(w, e.shifted(k, 2)), 66), I32)
        scale = _scaled(e, d, _bits(e, word, 28, 15), 0.5)
        for i in range(4):
            at = e.at(e.at(w, e.shifted(k, 3)), 2 + 2 * i)
            quants = e.concatenate(*(_entry(e, grid, _byte(e, e.at(at, j)), 4) for j in range(2)))
            values = _times(e, scale, quants)
            _store(e, dst, k, i, e.builder.fmul(values, signs(_bits(e, word, 7 * i, 127))))

    _by_32_columns(e, columns)


def _iq3_s(e: Emitter, w: Value, dst: Value) -> None:
    """d (f16), 64 bytes of indices, 8 of their ninth bits, 32 of signs, 8 scales of 4 bits."""
    d, grid = _half(e, w), e.table(_grid(WeightType.IQ3_S))

    def columns(k: Value) -> None:
        b = e.builder
        ninth, scales = _byte(e, e.at(e.at(w, k), 66)), _byte(e, e.at(e.at(w, e.shifted(k, -1)), 106))
        scale = _bits(e, scales, e.shifted(e.masked(k, 1), 2), 15)
        scale = _odd(e, d, scale)
        for i in range(4):
            entries = []
            for j in (2 * i, 2 * i + 1):
                low = _byte(e, e.at(e.at(w, e.shifted(k, 3)), 2 + j))
                entries.append(_entry(e, grid, b.or_(low, e.shifted(_bits(e, ninth, j, 1), 8)), 4))
            values = _times(e, scale, e.concatenate(*entries))
            _store(e, dst, k, i, b.fmul(values, _signs(e, _byte(e, e.at(e.at(w, e.shifted(k, 2)), 74 + i)))))

    _by_32_columns(e, columns)


def _with_delta(e: Emitter, quants: Value, negative: Value) -> Value:
    """An eighth more than each quant, or less where bit 0 of an i64 is set."""
    less = e.builder.icmp_unsigned("!=", negative, constant(I64, 0))
    delta = e.builder.select(less, constant(F32, -0.125), constant(F32, 0.125))
    return e.builder.fadd(quants, e.splat(delta, 8))


def _iq1_s(e: Emitter, w: Value, dst: Value) -> None:
    """d (f16), 32 bytes of indices; for each 32 columns 16 bits: four times 3 upper bits, 3 of a scale, a sign."""
    d, grid = _half(e, w), e.table(_grid(WeightType.IQ1_S))

    def columns(k: Value) -> None:
        word = _wide(e, e.at(e.at(w, e.shifted(k, 1)), 34), I16)
        scale = _odd(e, d, _bits(e, word, 12, 7))
        for i in range(4):
            low = _byte(e, e.at(e.at(w, e.shifted(k, 2)), 2 + i))
            quants = _entry(e, grid, e.builder.or_(low, e.shifted(_bits(e, word, 3 * i, 7), 8)), 8)
            _store(e, dst, k, i, _times(e, scale, _with_delta(e, quants, _bits(e, word, 15, 1))))

    _by_32_columns(e, columns)


def _iq1_m(e: Emitter, w: Value, dst: Value) -> None:
    """32 bytes of indices, 32 × 4 bits (3 upper bits, a sign), 4 × 16 bits (four scales of 3 bits, 4 bits of d)."""
    b, grid = e.builder, e.table(_grid(WeightType.IQ1_M))
    words = [_wide(e, e.at(w, 48 + 2 * i), I16) for i in range(4)]
    bits = constant(I64, 0)
    for i, word in enumerate(words):
        bits = b.or_(bits, e.shifted(_bits(e, word, 12, 15), 4 * i))
    d = e.half_to_float(b.trunc(bits, I16))

    def columns(k: Value) -> None:
        scales = _wide(e, e.at(e.at(w, e.masked(k, -2)), 48), I16)
        for i in range(4):
            # Two scales for each 32 columns, four in a word.
            shift = b.mul(b.add(e.shifted(e.masked(k, 1), 1), constant(I64, i // 2)), constant(I64, 3))
            scale = _odd(e, d, _bits(e, scales, shift, 7))
            upper = _bits(e, _byte(e, e.at(e.at(w, e.shifted(k, 1)), 32 + i // 2)), 4 * (i % 2), 15)
            low = _byte(e, e.at(e.at(w, e.shifted(k, 2)), i))
            quants = _entry(e, grid, b.or_(low, e.shifted(e.masked(upper, 7), 8)), 8)
            _store(e, dst, k, i, _times(e, scale, _with_delta(e, quants, _bits(e, upper, 3, 1))))

    _by_32_columns(e, columns)


def _tq1_0(e: Emitter, w: Value, dst: Value) -> None:
    """48 and 4 bytes of five (or four) ternary digits each, the digits of a byte far apart, d (f16)."""
    b, d, column = e.builder, _half(e, e.at(w, 52)), 0
    for start, lanes, digits in ((0, 32, 5), (32, 16, 5), (48, 4, 4)):
        packed = e.load(e.at(w, start), vector(I8, lanes))
        for digit in range(digits):
            shifted = b.mul(packed, constant(packed.type, (3**digit + 128) % 256 - 128))
            tripled = b.mul(e.widen(shifted, I16, False), constant(vector(I16, lanes), 3))
            quants = b.sub(e.shifted(tripled, -8), constant(vector(I16, lanes), 1))
            e.store(_times(e, d, e.to_float(e.widen(quants, I32, True))), e.at(dst, 4 * column))
            column += lanes


def _tq2_0(e: Emitter, w: Value, dst: Value) -> None:
    """64 bytes of four pairs of bits each, d (f16)."""
    d = _half(e, e.at(w, 64))
    for half in range(2):
        packed = e.load(e.at(w, 32 * half), vector(I8, 32))
        for pair in range(4):
            quants = e.widen(e.masked(e.shifted(packed, -2 * pair), 3), I32, True)
            quants = e.builder.sub(quants, constant(quants.type, 1))
            e.store(_times(e, d, e.to_float(quants)), e.at(dst, 512 * half + 128 * pair))


def _nvfp4(e: Emitter, w: Value, dst: Value) -> None:
    """4 scales (unsigned E4M3), 4 × 8 bytes of indices: low halves are 8 columns, high halves the next 8."""
    from gguf import quants

    scales = e.table(quants.NVFP4.ue4m3_to_fp32(np.arange(256, dtype=np.uint8)).astype(np.float32))
    packed = e.load(e.at(w, 4), vector(I8, 32))
    halves = [e.masked(packed, 15), e.shifted(packed, -4)]
    looked_up = [e.looked_up(half, WeightType.NVFP4.format.codebook) for half in halves]
    for block in range(4):
        scale = e.load(e.at(scales, e.shifted(_byte(e, e.at(w, block)), 2)), F32)
        for half, values in enumerate(looked_up):
            lanes = e.widen(e.shuffle(values, range(8 * block, 8 * block + 8)), I32, True)
            e.store(_times(e, scale, e.to_float(lanes)), e.at(dst, 64 * block + 32 * half))


DECODERS: dict[WeightType, Decode] = {
    WeightType.IQ2_XXS: _iq2_xxs,
    WeightType.IQ2_XS: _iq2_xs,
    WeightType.IQ2_S: _iq2_s,
    WeightType.IQ3_XXS: _iq3_xxs,
    WeightType.IQ3_S: _iq3_s,
    WeightType.IQ1_S: _iq1_s,
    WeightType.IQ1_M: _iq1_m,
    WeightType.TQ1_0: _tq1_0,
    WeightType.TQ2_0: _tq2_0,
    WeightType.NVFP4: _nvfp4,
}
"""The weight types without kernels that read them in place."""
