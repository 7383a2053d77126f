"""A group of 256 columns times its activation record: the kernel of decoding, for formats not read as a sequence.

Integer sums are exact. The float arithmetic is scalar and the same in every kernel and tier: per block
`d·xd·sum (− dmin·xd·minimum_sum)` or `d·xd·sum + m·xs`, blocks of a group added in column order, groups added in column
order. So one token and many, any split of the rows, and all tiers give the same bits.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from numba import types

from aprtui.engine.cpu.emit import F32, I8, I16, I32, I64, Emitter, Value, constant, vector
from aprtui.engine.cpu.jit import typed_intrinsic
from aprtui.engine.cpu.matmul.activations import GROUP, SCALE_K, SCALES_0, SUMS_0, SUMS_16, SUMS_32
from aprtui.engine.cpu.matmul.formats import NIBBLES, Format, format_of, two_of_nibbles
from aprtui.engine.cpu.matmul.sequence import SEQUENCE_TYPES
from aprtui.engine.cpu.tier import TIER, Tier
from aprtui.model.weight_types import BlockPart


def _byte_pairs(e: Emitter, f: Format, quants: Value, x: Value) -> Value:
    """Products of 32 columns, neighbours summed: i16 × 16."""
    if f.signed:
        quants, x = e.absolute_bytes(quants), e.with_sign_of(x, quants)
    return e.byte_pair_dot(quants, x)


def _k_block(e: Emitter, f: Format, w: Value, x: Value) -> Value:
    """The product of one 256-column block with its activation record, float32."""
    b, block = e.builder, f.unpack(e, w)
    totals = [constant(vector(I32, 8), 0)] * 2  # two chains of additions, for latency
    for j, quants in enumerate(block.quants):
        pairs = _byte_pairs(e, f, quants, e.load(e.at(x, 32 * j), vector(I8, 32)))
        lanes = [2 * j] * 8 + [2 * j + 1] * 8 if f.sub_block == 16 else [j] * 16
        totals[j % 2] = e.add_pair_dot(totals[j % 2], pairs, e.shuffle(block.scales, lanes))
    total, scale = e.sum_integer(b.add(*totals)), e.load(e.at(x, SCALE_K), F32)
    sums = e.load(e.at(x, SUMS_16), vector(I16, 16)) if f.sub_block == 16 else e.load(e.at(x, SUMS_32), vector(I16, 8))
    if f.offset:
        offsets = e.sum_integer(e.pair_dot(block.scales, sums))
        total = b.sub(total, b.mul(offsets, constant(I32, f.offset)))
    product = b.fmul(e.to_float(total), b.fmul(block.d, scale))
    if not f.has_minimums:
        return product
    minimums = e.sum_integer(e.pair_dot(block.minimums, sums))
    return b.fsub(product, b.fmul(e.to_float(minimums), b.fmul(block.dmin, scale)))


def _byte_dot(e: Emitter, f: Format, quants: Value, x: Value) -> Value:
    """Products of 32 columns in 8 partial sums (i32)."""
    if TIER is not Tier.AVX512:
        return e.pair_dot(_byte_pairs(e, f, quants, x), constant(vector(I16, 16), 1))
    if f.signed:
        quants, x = e.absolute_bytes(quants), e.with_sign_of(x, quants)
    return e.quad_dot(constant(vector(I32, 8), 0), quants, x)


def _eight_blocks(e: Emitter, f: Format, w: Value, x: Value) -> Value:
    """The product of eight 32-column blocks with their activation record, float32."""
    b = e.builder
    blocks = [f.unpack(e, e.at(w, f.size * k)) for k in range(8)]
    if TIER is Tier.AVX512 and f.type in NIBBLES:
        dots = _eight_dots_in_pairs(e, f, w, x)
    else:
        columns = [e.load(e.at(x, 32 * k), vector(I8, 32)) for k in range(8)]
        dots = e.sum_each([_byte_dot(e, f, block.quants[0], columns[k]) for k, block in enumerate(blocks)])
    if f.offset:
        dots = b.sub(dots, b.mul(e.load(e.at(x, SUMS_0), vector(I32, 8)), constant(vector(I32, 8), f.offset)))
    d = _halves_of(e, f, w, BlockPart.SCALE) if f.half_scale else e.gather([block.d for block in blocks])
    products = b.fmul(e.to_float(dots), b.fmul(d, e.load(e.at(x, SCALES_0), vector(F32, 8))))
    if f.has_minimums:
        added = b.fmul(_halves_of(e, f, w, BlockPart.MINIMUM), e.load(e.at(x, SUMS_0), vector(F32, 8)))
        products = b.fadd(products, added)
    total = constant(F32, 0.0)
    for k in range(8):
        total = b.fadd(total, e.lane(products, k))
    return total


def _eight_dots_in_pairs(e: Emitter, f: Format, w: Value, x: Value) -> Value:
    """The sums of products of eight blocks of nibbles, i32 × 8: two blocks in a register of 512 bits (measured: a row
    of MXFP4 takes 0.50 ms where one block at a time takes 0.60)."""
    rows = []
    for k in range(4):
        quants = two_of_nibbles(e, f.type, e.at(w, 2 * f.size * k))
        rows.append(e.quad_dot(constant(vector(I32, 16), 0), quants, e.load(e.at(x, 64 * k), vector(I8, 64))))
    return e.sum_halves(rows)


def _halves_of(e: Emitter, f: Format, w: Value, part: BlockPart) -> Value:
    """The float16 of eight blocks, converted together: float32 × 8."""
    bits, at = constant(vector(I16, 8), 0), f.type.format.parts[part].start
    for k in range(8):
        bits = e.builder.insert_element(bits, e.load(e.at(w, f.size * k + at), I16), constant(I32, k))
    return e.half_to_float(bits)


def _few_blocks(e: Emitter, f: Format, w: Value, x: Value, count: Value) -> Value:
    """As `_eight_blocks`, for the 1 to 7 blocks at the end of a row."""
    b = e.builder

    def body(k: Value, totals: list[Value]) -> list[Value]:
        at, columns, words = (b.add(base, b.mul(k, constant(I64, n))) for base, n in ((w, f.size), (x, 32), (x, 4)))
        block = f.unpack(e, at)
        dot = e.sum_integer(_byte_dot(e, f, block.quants[0], e.load(columns, vector(I8, 32))))
        if f.offset:
            dot = b.sub(dot, b.mul(e.load(e.at(words, SUMS_0), I32), constant(I32, f.offset)))
        product = b.fmul(e.to_float(dot), b.fmul(block.d, e.load(e.at(words, SCALES_0), F32)))
        if f.has_minimums:
            product = b.fsub(product, b.fmul(block.dmin, e.load(e.at(words, SUMS_0), F32)))
        return [b.fadd(totals[0], product)]

    return e.loop(count, [constant(F32, 0.0)], body)[0]


def _group(e: Emitter, f: Format, w: Value, x: Value, blocks: Value) -> Value:
    if f.columns == GROUP:
        return _k_block(e, f, w, x)
    whole = e.builder.zext(e.builder.icmp_signed("==", blocks, constant(I64, 8)), I64)
    return e.switch(whole, {1: partial(_eight_blocks, e, f, w, x), 0: partial(_few_blocks, e, f, w, x, blocks)})


@typed_intrinsic
def dot_group(typing_context: Any, weight_type: Any, w: Any, x: Any, blocks: Any) -> Any:
    """The product of one group of columns: weights of that type at `w` and the activation record at `x`, float32.

    `blocks` is the number of 32-column blocks in the group (8 but at the end of a row; not used for K-quants).
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        f = format_of(weight_type)
        if f is None or int(f.type) in SEQUENCE_TYPES:
            return constant(F32, 0.0)
        return _group(Emitter(builder), f, *args[1:])

    return types.float32(weight_type, types.int64, types.int64, types.int64), emit
