"""How the quantised weight formats of GGUF lie in memory, as IR that unpacks one block into registers.

Written from the field descriptions of the GGML formats (as `gguf.quants` states them). The three consumers (row dots,
tiles, dequantised panels) know no format: they take an `Unpacked`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from aprtui.engine.cpu.emit import F32, I1, I8, I16, I32, I64, Emitter, Value, constant, vector
from aprtui.model.weight_types import BlockPart, WeightType


@dataclass(frozen=True, slots=True)
class Unpacked:
    """One block in registers: weight = scale · d · (quant - offset) - minimum · dmin.

    `quants` are i8 × 32 vectors in column order; `scales` (and `minimums`) i16 vectors with one integer per sub-block,
    None where a block has the one float scale `d` only.
    """

    quants: list[Value]
    d: Value
    scales: Value | None = None
    dmin: Value | None = None
    minimums: Value | None = None


Unpack = Callable[[Emitter, Value], Unpacked]
"""Emits the code that unpacks the block at an address."""


@dataclass(frozen=True, slots=True)
class Format:
    """A quantised weight type as kernels are built for it: its row of `weight_types`, and how a block is unpacked."""

    type: WeightType
    columns: int
    """Columns of a block: 256 or 32."""
    size: int
    """Bytes of a block."""
    sub_block: int
    """Columns that share an integer scale (the whole block where there is none)."""
    largest: int
    """Largest magnitude of a quant as it is unpacked."""
    offset: int
    """What is subtracted from every quant; 0 where there are minimums, or where quants are signed."""
    signed: bool
    """Whether quants are signed bytes."""
    has_minimums: bool
    half_scale: bool
    """Whether the scale of a block is a float16."""
    unpack: Unpack


def _nibbles(e: Emitter, packed: Value) -> tuple[Value, Value]:
    """Low and high halves of bytes."""
    return e.masked(packed, 15), e.shifted(packed, -4)


def _five_bits(e: Emitter, fifth_bits: Value, halves: Value) -> Value:
    """32 quants whose fifth bits lie at one address and whose lower halves at another, as in Q4_0."""
    low, high = _nibbles(e, e.load(halves, vector(I8, 16)))
    fifth = e.builder.bitcast(e.load(fifth_bits, I32), vector(I1, 32))
    bits = e.builder.select(fifth, constant(vector(I8, 32), 16), constant(vector(I8, 32), 0))
    return e.builder.or_(e.concatenate(low, high), bits)


def _bit_pairs(e: Emitter, address: Value) -> list[Value]:
    """256 quants of two bits in 64 bytes: pair k of byte i of a half belongs to column 32 k + i of that half."""
    halves = [e.load(e.at(address, 32 * half), vector(I8, 32)) for half in range(2)]
    return [e.masked(e.shifted(half, -2 * k), 3) for half in halves for k in range(4)]


def _indexed(e: Emitter, address: Value, kind: WeightType) -> Value:
    """32 quants of a codebook whose indices lie as the quants of Q4_0."""
    table = [value + _lift(kind) for value in kind.format.codebook]
    return e.looked_up(e.concatenate(*_nibbles(e, e.load(address, vector(I8, 16)))), table)


def _lift(kind: WeightType) -> int:
    """What makes the values of a codebook unsigned bytes, whose products need no detour over signs (a fifth of a row
    of MXFP4); 0 where the sums of two of their products would no longer fit into 16 bits, and without a codebook."""
    lowest, highest = kind.format.levels
    return -lowest if kind.format.codebook and 2 * 127 * (highest - lowest) < 1 << 15 else 0


def _two_halves_at(e: Emitter, address: Value) -> tuple[Value, Value]:
    """Two float16 that lie together, as float32.

    Also the way to load one: LLVM loads 16 bits into part of some register, which then waits for that register's last
    user (measured: `exact` rows of Q8_0 at 8.9 GB/s instead of 14.6).
    """
    both = e.half_to_float(e.load(address, vector(I16, 2)))
    return e.lane(both, 0), e.lane(both, 1)


def split_scales(e: Emitter, first: Value, second: Value, third: Value) -> tuple[Value, Value, Value, Value]:
    """Scales 0-3 and 4-7 and minimums 0-3 and 4-7, a byte each, of the 12 bytes into which Q4_K and Q5_K pack them.

    `first`, `second` and `third` are the words of those bytes (i32 or a vector of it). Bytes 0-3 hold scales 0-3 in
    their lower 6 bits, bytes 4-7 minimums 0-3; scales 4-7 have their lower 4 bits in the lower halves of bytes 8-11 and
    their upper 2 in the upper bits of bytes 0-3, minimums 4-7 likewise (upper halves, bytes 4-7).
    """
    upper_bits = [e.masked(e.shifted(word, -2), 0x30303030) for word in (first, second)]
    lower_bits = [e.masked(e.shifted(third, shift), 0x0F0F0F0F) for shift in (0, -4)]
    scales, minimums = (e.builder.or_(low, high) for low, high in zip(lower_bits, upper_bits, strict=True))
    return e.masked(first, 0x3F3F3F3F), scales, e.masked(second, 0x3F3F3F3F), minimums


def _scales_and_minimums(e: Emitter, address: Value) -> tuple[Value, Value]:
    """The 8 scales and 8 minimums of one block as i16 × 8 each."""
    packed = e.gather(split_scales(e, *(e.load(e.at(address, 4 * i), I32) for i in range(3))))
    return e.halve(e.widen(e.builder.bitcast(packed, vector(I8, 16)), I16, False))


def _unpack_q4_k(e: Emitter, w: Value) -> Unpacked:
    """d, dmin (f16), 12 bytes of scales, 4 × 32 bytes: low halves are one sub-block, high halves the next."""
    (d, dmin), (scales, minimums) = _two_halves_at(e, w), _scales_and_minimums(e, e.at(w, 4))
    quants: list[Value] = []
    for j in range(4):
        quants += _nibbles(e, e.load(e.at(w, 16 + 32 * j), vector(I8, 32)))
    return Unpacked(quants, d, scales, dmin, minimums)


def _unpack_q5_k(e: Emitter, w: Value) -> Unpacked:
    """As Q4_K, with 32 bytes between scales and halves: bit j of byte i is the fifth bit of column i of sub-block j."""
    (d, dmin), (scales, minimums) = _two_halves_at(e, w), _scales_and_minimums(e, e.at(w, 4))
    fifth = e.load(e.at(w, 16), vector(I8, 32))
    quants: list[Value] = []
    for j in range(4):
        for half, low in enumerate(_nibbles(e, e.load(e.at(w, 48 + 32 * j), vector(I8, 32)))):
            quants.append(e.builder.or_(low, e.masked(e.shifted(fifth, 4 - (2 * j + half)), 16)))
    return Unpacked(quants, d, scales, dmin, minimums)


def _unpack_q6_k(e: Emitter, w: Value) -> Unpacked:
    """128 bytes of lower halves, 64 bytes of upper bit pairs, 16 signed scales, d (f16)."""
    quants: list[Value] = []
    for h in range(2):
        pairs = e.load(e.at(w, 128 + 32 * h), vector(I8, 32))
        first, third = _nibbles(e, e.load(e.at(w, 64 * h), vector(I8, 32)))
        second, fourth = _nibbles(e, e.load(e.at(w, 64 * h + 32), vector(I8, 32)))
        for k, low in enumerate((first, second, third, fourth)):
            quants.append(e.builder.or_(low, e.masked(e.shifted(pairs, 4 - 2 * k), 0x30)))
    scales = e.widen(e.load(e.at(w, 192), vector(I8, 16)), I16, True)
    return Unpacked(quants, _two_halves_at(e, e.at(w, 206))[1], scales)


def _unpack_q4_0(e: Emitter, w: Value) -> Unpacked:
    """d (f16), 16 bytes: low halves are columns 0-15, high halves 16-31."""
    low, high = _nibbles(e, e.load(e.at(w, 2), vector(I8, 16)))
    return Unpacked([e.concatenate(low, high)], _two_halves_at(e, w)[0])


def _unpack_q5_0(e: Emitter, w: Value) -> Unpacked:
    """d (f16), 32 bits (the fifth bits of the columns), 16 bytes as in Q4_0."""
    return Unpacked([_five_bits(e, e.at(w, 2), e.at(w, 6))], _two_halves_at(e, w)[0])


def _unpack_q8_0(e: Emitter, w: Value) -> Unpacked:
    """d (f16), 32 signed bytes."""
    return Unpacked([e.load(e.at(w, 2), vector(I8, 32))], _two_halves_at(e, w)[0])


def _unpack_q4_1(e: Emitter, w: Value) -> Unpacked:
    """d, m (f16), 16 bytes as in Q4_0. What is added is a minimum below zero, once for the whole block."""
    d, m = _two_halves_at(e, w)
    low, high = _nibbles(e, e.load(e.at(w, 4), vector(I8, 16)))
    return Unpacked([e.concatenate(low, high)], d, dmin=e.builder.fneg(m), minimums=constant(vector(I16, 2), 1))


def _unpack_q5_1(e: Emitter, w: Value) -> Unpacked:
    """d, m (f16), 32 fifth bits, 16 bytes as in Q4_0."""
    d, m = _two_halves_at(e, w)
    quants = _five_bits(e, e.at(w, 4), e.at(w, 8))
    return Unpacked([quants], d, dmin=e.builder.fneg(m), minimums=constant(vector(I16, 2), 1))


def _unpack_q2_k(e: Emitter, w: Value) -> Unpacked:
    """16 bytes of scales and minimums, 2 × 32 bytes of bit pairs (a sub-block pair each), d, dmin (f16)."""
    packed = e.load(w, vector(I8, 16))
    scales, minimums = (e.widen(half, I16, False) for half in _nibbles(e, packed))
    d, dmin = _two_halves_at(e, e.at(w, 80))
    return Unpacked(_bit_pairs(e, e.at(w, 16)), d, scales, dmin, minimums)


def _unpack_q3_k(e: Emitter, w: Value) -> Unpacked:
    """32 bytes of third bits (bit j belongs to columns 32 j …), bit pairs as in Q2_K, 12 bytes of scales, d (f16)."""
    third = e.load(w, vector(I8, 32))
    quants = [
        e.builder.or_(pair, e.masked(e.shifted(third, 2 - j), 4)) for j, pair in enumerate(_bit_pairs(e, e.at(w, 32)))
    ]
    low = e.concatenate(*_nibbles(e, e.load(e.at(w, 96), vector(I8, 8))))
    high = e.each_shifted_right(e.splat(e.load(e.at(w, 104), I32), 4), (0, 2, 4, 6))
    high = e.masked(e.builder.bitcast(high, vector(I8, 16)), 3)
    scales = e.widen(e.builder.or_(low, e.shifted(high, 4)), I16, False)
    scales = e.builder.sub(scales, constant(scales.type, 32))
    return Unpacked(quants, _two_halves_at(e, e.at(w, 106))[1], scales)


def _unpack_iq4_nl(e: Emitter, w: Value) -> Unpacked:
    """d (f16), 16 bytes of indices as in Q4_0."""
    return Unpacked([_indexed(e, e.at(w, 2), WeightType.IQ4_NL)], _two_halves_at(e, w)[0])


def _unpack_mxfp4(e: Emitter, w: Value) -> Unpacked:
    """The exponent of a power of two (half of it, since the codebook is doubled), 16 bytes of indices as in Q4_0."""
    exponent = e.builder.zext(e.load(w, I8), I64)
    halves = e.table(np.ldexp(np.float32(1), np.arange(256) - 128).astype(np.float32))
    d = e.load(e.at(halves, e.shifted(exponent, 2)), F32)
    return Unpacked([_indexed(e, e.at(w, 1), WeightType.MXFP4)], d)


def _unpack_iq4_xs(e: Emitter, w: Value) -> Unpacked:
    """d (f16), upper bits (i16) and lower halves (4 bytes) of 8 scales, 8 × 16 bytes of indices as in Q4_0."""
    b, words = e.builder, vector(I16, 8)
    low = e.shuffle(e.load(e.at(w, 4), vector(I8, 4)), [0, 0, 1, 1, 2, 2, 3, 3])
    low = e.widen(e.masked(e.each_shifted_right(low, [0, 4] * 4), 15), I16, False)
    high = e.masked(e.each_shifted_right(e.splat(e.load(e.at(w, 2), I16), 8), range(0, 16, 2)), 3)
    scales = b.sub(b.or_(low, e.shifted(high, 4)), constant(words, 32))
    quants = [_indexed(e, e.at(w, 8 + 16 * j), WeightType.IQ4_XS) for j in range(8)]
    return Unpacked(quants, _two_halves_at(e, w)[0], scales)


_UNPACK: dict[WeightType, Unpack] = {
    WeightType.Q4_K: _unpack_q4_k,
    WeightType.Q5_K: _unpack_q5_k,
    WeightType.Q6_K: _unpack_q6_k,
    WeightType.Q2_K: _unpack_q2_k,
    WeightType.Q3_K: _unpack_q3_k,
    WeightType.IQ4_XS: _unpack_iq4_xs,
    WeightType.Q4_0: _unpack_q4_0,
    WeightType.Q4_1: _unpack_q4_1,
    WeightType.Q5_0: _unpack_q5_0,
    WeightType.Q5_1: _unpack_q5_1,
    WeightType.Q8_0: _unpack_q8_0,
    WeightType.IQ4_NL: _unpack_iq4_nl,
    WeightType.MXFP4: _unpack_mxfp4,
}


def _format(kind: WeightType, unpack: Unpack) -> Format:
    row, lift = kind.format, _lift(kind)
    lowest, highest = (level + lift for level in row.levels)
    scale = row.parts[BlockPart.SCALE]
    return Format(
        kind, row.block_values, row.block_bytes, min(row.sub_block, 32), max(-lowest, highest), row.offset + lift,
        lowest < 0, BlockPart.MINIMUM in row.parts, scale.stop - scale.start == 2, unpack,
    )  # fmt: skip


FORMATS: dict[WeightType, Format] = {kind: _format(kind, unpack) for kind, unpack in _UNPACK.items()}
"""The quantised weight types that the kernels read."""


NIBBLES = frozenset({WeightType.Q4_0, WeightType.Q4_1, WeightType.MXFP4})
"""Types whose blocks hold unsigned quants in 16 bytes of nibbles, and nothing else of a quant."""


def two_of_nibbles(e: Emitter, kind: WeightType, w: Value) -> Value:
    """The quants of two blocks of a type in `NIBBLES`, unsigned, i8 × 64."""
    row = kind.format
    at = [e.at(w, row.block_bytes * k + row.parts[BlockPart.QUANTS].start) for k in range(2)]
    first, second = (e.load(address, vector(I8, 16)) for address in at)
    packed = e.builder.bitcast(e.shuffle(first, [*range(16)] * 2 + [*range(16, 32)] * 2, second), vector(I64, 8))
    halves = e.builder.bitcast(e.each_shifted_right(packed, [0, 0, 4, 4] * 2), vector(I8, 64))
    quants = e.masked(halves, 15)
    return e.looked_up(quants, [value + _lift(kind) for value in row.codebook]) if row.codebook else quants


def format_of(weight_type: Any) -> Format | None:
    """The format of a weight type that is a literal of numba's; None for a type that the kernels do not read."""
    kind = WeightType.numbered(weight_type.literal_value)
    return None if kind is None else FORMATS.get(kind)
