"""How the quantised weight formats of GGUF lie in memory, as IR that unpacks one block into registers.

Written from the field descriptions of the GGML formats (as `gguf.quants` states them). The three consumers (row dots,
tiles, dequantised panels) know no format: they take an `Unpacked`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aprtui.engine.cpu.emit import I1, I8, I16, I32, Emitter, Value, constant, vector
from aprtui.model.weight_types import WeightType


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
    """Columns of a block: 256 (K-quants) or 32."""
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
    unpack: Unpack


def _nibbles(e: Emitter, packed: Value) -> tuple[Value, Value]:
    """Low and high halves of bytes."""
    return e.masked(packed, 15), e.shifted(packed, -4)


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
    low, high = _nibbles(e, e.load(e.at(w, 6), vector(I8, 16)))
    fifth = e.builder.bitcast(e.load(e.at(w, 2), I32), vector(I1, 32))
    bits = e.builder.select(fifth, constant(vector(I8, 32), 16), constant(vector(I8, 32), 0))
    return Unpacked([e.builder.or_(e.concatenate(low, high), bits)], _two_halves_at(e, w)[0])


def _unpack_q8_0(e: Emitter, w: Value) -> Unpacked:
    """d (f16), 32 signed bytes."""
    return Unpacked([e.load(e.at(w, 2), vector(I8, 32))], _two_halves_at(e, w)[0])


_UNPACK: dict[WeightType, Unpack] = {
    WeightType.Q4_K: _unpack_q4_k,
    WeightType.Q5_K: _unpack_q5_k,
    WeightType.Q6_K: _unpack_q6_k,
    WeightType.Q4_0: _unpack_q4_0,
    WeightType.Q5_0: _unpack_q5_0,
    WeightType.Q8_0: _unpack_q8_0,
}


def _format(kind: WeightType, unpack: Unpack) -> Format:
    row, (lowest, highest) = kind.format, kind.format.levels
    return Format(
        kind, row.block_values, row.block_bytes, row.sub_block, max(-lowest, highest), row.offset, lowest < 0, unpack
    )


FORMATS: dict[WeightType, Format] = {kind: _format(kind, unpack) for kind, unpack in _UNPACK.items()}
"""The quantised weight types that the kernels read."""


def format_of(weight_type: Any) -> Format | None:
    """The format of a weight type that is a literal of numba's; None for a type that the kernels do not read."""
    kind = WeightType.numbered(weight_type.literal_value)
    return None if kind is None else FORMATS.get(kind)
