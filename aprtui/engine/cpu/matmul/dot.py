"""A group of 256 columns times its activation record: the kernel of decoding, for formats without minimums.

Integer sums are exact. The float arithmetic is scalar and the same in every kernel and tier: per block
`d·xd·sum (− dmin·xd·minimum_sum)`, blocks of a group added in column order, groups added in column order. So one
token and many, any split of the rows, and all tiers give the same bits.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from numba import types

from aprtui.engine.cpu.emit import F32, I8, I16, I32, I64, Emitter, Value, constant, vector
from aprtui.engine.cpu.jit import typed_intrinsic
from aprtui.engine.cpu.matmul.activations import GROUP, SCALE_K, SCALES_0, SUMS_0, SUMS_16
from aprtui.engine.cpu.matmul.formats import FORMATS, Format, format_of
from aprtui.engine.cpu.tier import TIER, Tier

WITHOUT_MINIMUMS = tuple(f for f in FORMATS.values() if f.offset or f.signed)


def _q6_k_block(e: Emitter, f: Format, w: Value, x: Value) -> Value:
    """The product of one 256-column block without minimums with its activation record, float32."""
    b, block = e.builder, f.unpack(e, w)
    totals = [constant(vector(I32, 8), 0)] * 2  # two chains of additions, for latency
    for j, quants in enumerate(block.quants):
        pairs = e.byte_pair_dot(quants, e.load(e.at(x, 32 * j), vector(I8, 32)))
        scales = e.shuffle(block.scales, [2 * j] * 8 + [2 * j + 1] * 8)
        totals[j % 2] = e.add_pair_dot(totals[j % 2], pairs, scales)
    offsets = e.pair_dot(block.scales, e.load(e.at(x, SUMS_16), vector(I16, 16)))
    total = b.sub(b.add(*totals), b.mul(offsets, constant(offsets.type, f.offset)))
    return b.fmul(e.to_float(e.sum_integer(total)), b.fmul(block.d, e.load(e.at(x, SCALE_K), F32)))


def _byte_dot(e: Emitter, f: Format, quants: Value, x: Value) -> Value:
    """Products of 32 columns in 8 partial sums (i32)."""
    if f.signed:
        quants, x = e.absolute_bytes(quants), e.with_sign_of(x, quants)
    if TIER is Tier.AVX512:
        return e.quad_dot(constant(vector(I32, 8), 0), quants, x)
    return e.pair_dot(e.byte_pair_dot(quants, x), constant(vector(I16, 16), 1))


def _eight_blocks(e: Emitter, f: Format, w: Value, x: Value) -> Value:
    """The product of eight 32-column blocks with their activation record, float32."""
    b = e.builder
    scales, rows = constant(vector(I16, 8), 0), []
    for k in range(8):
        at = e.at(w, f.size * k)
        rows.append(_byte_dot(e, f, f.unpack(e, at).quants[0], e.load(e.at(x, 32 * k), vector(I8, 32))))
        scales = b.insert_element(scales, e.load(at, I16), constant(I32, k))
    offsets = b.mul(e.load(e.at(x, SUMS_0), vector(I32, 8)), constant(vector(I32, 8), f.offset))
    scale = b.fmul(e.half_to_float(scales), e.load(e.at(x, SCALES_0), vector(F32, 8)))
    products = b.fmul(e.to_float(b.sub(e.sum_each(rows), offsets)), scale)
    total = constant(F32, 0.0)
    for k in range(8):
        total = b.fadd(total, e.lane(products, k))
    return total


def _few_blocks(e: Emitter, f: Format, w: Value, x: Value, count: Value) -> Value:
    """As `_eight_blocks`, for the 1 to 7 blocks at the end of a row."""
    b = e.builder

    def body(k: Value, totals: list[Value]) -> list[Value]:
        at, columns, words = (b.add(base, b.mul(k, constant(I64, n))) for base, n in ((w, f.size), (x, 32), (x, 4)))
        block = f.unpack(e, at)
        dot = e.sum_integer(_byte_dot(e, f, block.quants[0], e.load(columns, vector(I8, 32))))
        dot = b.sub(dot, b.mul(e.load(e.at(words, SUMS_0), I32), constant(I32, f.offset)))
        return [b.fadd(totals[0], b.fmul(e.to_float(dot), b.fmul(block.d, e.load(e.at(words, SCALES_0), F32))))]

    return e.loop(count, [constant(F32, 0.0)], body)[0]


def _group(e: Emitter, f: Format, w: Value, x: Value, blocks: Value) -> Value:
    if f.columns == GROUP:
        return _q6_k_block(e, f, w, x)
    whole = e.builder.zext(e.builder.icmp_signed("==", blocks, constant(I64, 8)), I64)
    return e.switch(whole, {1: partial(_eight_blocks, e, f, w, x), 0: partial(_few_blocks, e, f, w, x, blocks)})


@typed_intrinsic
def dot_group(typing_context: Any, weight_type: Any, w: Any, x: Any, blocks: Any) -> Any:
    """The product of one group of columns: weights of that type at `w` and the activation record at `x`, float32.

    `blocks` is the number of 32-column blocks in the group (8 but at the end of a row; not used for K-quants).
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        f = format_of(weight_type)
        return _group(Emitter(builder), f, *args[1:]) if f in WITHOUT_MINIMUMS else constant(F32, 0.0)

    return types.float32(weight_type, types.int64, types.int64, types.int64), emit
