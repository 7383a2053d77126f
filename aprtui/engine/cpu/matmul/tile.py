"""Quantised rows times many tokens: the kernel of prefill.

A strip of `LANES` rows is unpacked once, with the rows interleaved (four columns of row 0, the same of row 1, …), so
that the lanes of an integer sum are rows: no sum is ever taken across lanes, one load of weights serves `TOKENS`
tokens, and four activations are broadcast to all lanes. The arithmetic is that of `dot`, to the bit.

A strip is a sequence of records, one per 256 columns (offsets in units of LANES bytes):

    0    quants, 4 columns × LANES rows × 64
    256  integer scales, i32 × LANES × sub-blocks (or, without VNNI, the same i16 twice)
    320  minimums of two sub-blocks, i16 × 2 × LANES × pairs of sub-blocks; where quants have an offset, -offset · scale
    352  d, float32 × LANES (× 8 for 32-column blocks)
    384  dmin, float32 × LANES (of 32-column blocks, × 8, at 256)
"""

from __future__ import annotations

from typing import Any

from numba import types

from aprtui.engine.cpu.emit import F32, I8, I16, I32, I64, Emitter, Value, constant, vector
from aprtui.engine.cpu.jit import typed_intrinsic
from aprtui.engine.cpu.matmul.activations import GROUP, SCALE_K, SCALES_0, SUMS_0, SUMS_16, SUMS_32
from aprtui.engine.cpu.matmul.formats import Format, format_of
from aprtui.engine.cpu.tier import TIER, Tier

_VNNI = TIER is Tier.AVX512
LANES, TOKENS = (16, 8) if _VNNI else (8, 4)
STRIP_RECORD = 388 * LANES
"""Bytes of a strip per 256 columns."""
_SCALES, _MINIMUMS, _D, _DMIN = 256 * LANES, 320 * LANES, 352 * LANES, 384 * LANES
_STEP = 4 * LANES
"""Bytes of one value per row, or of four quants per row."""

_WORDS, _FLOATS = vector(I32, LANES), vector(F32, LANES)
_BYTES, _PAIRS = vector(I8, 4 * LANES), vector(I16, 2 * LANES)


def _store_words(e: Emitter, words: Value, at: Value) -> None:
    """Scatter 32-bit lanes to the places of one row."""
    for i in range(words.type.count):
        e.store(e.lane(words, i), e.at(at, _STEP * i))


def _offset(f: Format) -> int:
    """What the quants of a strip are too large by; signed ones are packed as unsigned bytes for VNNI."""
    return 128 if f.signed and _VNNI else f.offset


def _pack_quants(e: Emitter, f: Format, quants: Value, at: Value) -> None:
    if f.signed and _VNNI:
        quants = e.builder.xor(quants, constant(quants.type, -128))  # signed to unsigned: 128 more
    _store_words(e, e.builder.bitcast(quants, vector(I32, 8)), at)


def _pack_k_block(e: Emitter, f: Format, w: Value, row: Value) -> None:
    b, block = e.builder, f.unpack(e, w)
    for j, quants in enumerate(block.quants):
        _pack_quants(e, f, quants, e.at(row, 8 * _STEP * j))
    scales = e.widen(block.scales, I32, _VNNI)
    if not _VNNI:
        scales = b.or_(scales, e.shifted(scales, 16))
    _store_words(e, scales, e.at(row, _SCALES))
    offset = _offset(f)
    minimums: Value = (
        b.mul(block.scales, constant(vector(I16, GROUP // f.sub_block), -offset)) if offset else block.minimums
    )
    if minimums is not None:
        _store_words(e, b.bitcast(minimums, vector(I32, minimums.type.count // 2)), e.at(row, _MINIMUMS))
    e.store(block.d, e.at(row, _D))
    if block.dmin is not None:
        e.store(block.dmin, e.at(row, _DMIN))


def _pack_blocks(e: Emitter, f: Format, w: Value, row: Value, blocks: Value) -> None:
    def body(k: Value, state: list[Value]) -> list[Value]:
        block = f.unpack(e, e.at(w, e.builder.mul(k, constant(I64, f.size))))
        at = e.at(row, e.builder.mul(k, constant(I64, _STEP)))
        e.store(block.d, e.at(at, _D))
        if block.dmin is not None:
            e.store(block.dmin, e.at(at, _SCALES))
        _pack_quants(e, f, block.quants[0], e.at(row, e.builder.mul(k, constant(I64, 8 * _STEP))))
        return []

    e.loop(blocks, [], body)


@typed_intrinsic
def pack_group(typing_context: Any, weight_type: Any, w: Any, record: Any, lane: Any, blocks: Any) -> Any:
    """Unpack the group of one row at `w` into lane `lane` of a strip's record; `blocks` as in `dot_group`."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e, f = Emitter(builder), format_of(weight_type)
        _, w, record, lane, blocks = args
        if f is not None:
            row = e.at(record, e.shifted(lane, 2))
            if f.columns == GROUP:
                _pack_k_block(e, f, w, row)
            else:
                _pack_blocks(e, f, w, row, blocks)
        return context.get_dummy_value()

    return types.none(weight_type, *[types.int64] * 4), emit


def _broadcast(e: Emitter, address: Value, type_: Any) -> Value:
    """The 32-bit word at `address` in all lanes, seen as `type_`."""
    return e.builder.bitcast(e.splat(e.load(address, I32), LANES), type_)


def _add_dots(
    e: Emitter, f: Format, quants: Value, x: list[Value], quads: int, sums: list[Value], scale: Value | None
) -> list[Value]:
    """`sums` plus the products of 4 · `quads` columns, times `scale` per row (None: 1)."""
    add_dots = _add_dots_vnni if _VNNI else _add_dots_avx2
    return add_dots(e, f, [e.load(e.at(quants, _STEP * i), _BYTES) for i in range(quads)], x, sums, scale)


def _add_dots_vnni(
    e: Emitter, f: Format, quants: list[Value], x: list[Value], sums: list[Value], scale: Value | None
) -> list[Value]:
    b = e.builder
    dots = sums if scale is None else [constant(_WORDS, 0)] * len(x)
    for i, weights in enumerate(quants):
        columns = [_broadcast(e, e.at(a, 4 * i), _BYTES) for a in x]
        dots = [e.quad_dot(dot, weights, xs) for dot, xs in zip(dots, columns, strict=True)]
    return dots if scale is None else [b.add(s, b.mul(dot, scale)) for s, dot in zip(sums, dots, strict=True)]


def _add_dots_avx2(
    e: Emitter, f: Format, quants: list[Value], x: list[Value], sums: list[Value], scale: Value | None
) -> list[Value]:
    b = e.builder
    scale = constant(_PAIRS, 1) if scale is None else b.bitcast(scale, _PAIRS)
    fold = 32767 // (2 * 127 * f.largest)  # so many sums of two products fit into 16 bits
    for first in range(0, len(quants), fold):
        pairs = [constant(_PAIRS, 0)] * len(x)
        for i in range(first, min(first + fold, len(quants))):
            magnitudes = e.absolute_bytes(quants[i]) if f.signed else quants[i]
            for t, a in enumerate(x):
                columns = _broadcast(e, e.at(a, 4 * i), _BYTES)
                signed = e.with_sign_of(columns, quants[i]) if f.signed else columns
                pairs[t] = b.add(pairs[t], e.byte_pair_dot(magnitudes, signed))
        sums = [b.add(s, e.pair_dot(pair, scale)) for s, pair in zip(sums, pairs, strict=True)]
    return sums


def _multiply_k(e: Emitter, f: Format, record: Value, x: list[Value]) -> list[Value]:
    """Products of one 256-column block per row with each token's record, float32 × LANES each."""
    b, quads = e.builder, f.sub_block // 4

    def sub_block(j: Value, sums: list[Value]) -> list[Value]:
        quants = e.at(record, b.mul(j, constant(I64, quads * _STEP)))
        scale = e.load(e.at(record, e.at(b.mul(j, constant(I64, _STEP)), _SCALES)), _WORDS)
        offset = b.mul(j, constant(I64, f.sub_block))
        return _add_dots(e, f, quants, [e.at(a, offset) for a in x], quads, sums, scale)

    sums = e.loop(256 // f.sub_block, [constant(_WORDS, 0)] * len(x), sub_block)
    offset = _offset(f)
    minimums = sums if offset else [constant(_WORDS, 0)] * len(x)
    for i in range(128 // f.sub_block if offset or f.has_minimums else 0):
        pairs = e.load(e.at(record, _MINIMUMS + _STEP * i), _PAIRS)
        at = (SUMS_32 if f.sub_block == 32 else SUMS_16) + 4 * i
        sub_sums = [_broadcast(e, e.at(a, at), _PAIRS) for a in x]
        minimums = [e.add_pair_dot(m, pairs, s) for m, s in zip(minimums, sub_sums, strict=True)]
    d = e.load(e.at(record, _D), _FLOATS)
    scales = [e.splat(e.load(e.at(a, SCALE_K), F32), LANES) for a in x]
    if not f.has_minimums:
        totals = minimums if offset else sums
        return [b.fmul(e.to_float(s), b.fmul(d, scale)) for s, scale in zip(totals, scales, strict=True)]
    dmin = e.load(e.at(record, _DMIN), _FLOATS)
    return [
        b.fsub(b.fmul(e.to_float(s), b.fmul(d, scale)), b.fmul(e.to_float(m), b.fmul(dmin, scale)))
        for s, m, scale in zip(sums, minimums, scales, strict=True)
    ]


def _multiply_blocks(e: Emitter, f: Format, record: Value, x: list[Value], blocks: Value) -> list[Value]:
    """Products of up to eight 32-column blocks per row with each token's record, float32 × LANES each."""
    b = e.builder
    offset = _offset(f)

    def block(k: Value, totals: list[Value]) -> list[Value]:
        quants, columns = e.at(record, b.mul(k, constant(I64, 8 * _STEP))), b.mul(k, constant(I64, 32))
        words = [e.at(a, b.mul(k, constant(I64, 4))) for a in x]
        at = e.at(record, b.mul(k, constant(I64, _STEP)))
        d = e.load(e.at(at, _D), _FLOATS)
        start = [constant(_WORDS, 0)] * len(x)
        if offset:
            start = [b.mul(_broadcast(e, e.at(a, SUMS_0), _WORDS), constant(_WORDS, -offset)) for a in words]
        dots = _add_dots(e, f, quants, [e.at(a, columns) for a in x], 8, start, None)
        scales = [b.fmul(d, e.splat(e.load(e.at(a, SCALES_0), F32), LANES)) for a in words]
        products = [b.fmul(e.to_float(s), scale) for s, scale in zip(dots, scales, strict=True)]
        if f.has_minimums:
            dmin = e.load(e.at(at, _SCALES), _FLOATS)
            added = [b.fmul(dmin, _broadcast(e, e.at(a, SUMS_0), _FLOATS)) for a in words]
            products = [b.fsub(product, minimum) for product, minimum in zip(products, added, strict=True)]
        return [b.fadd(total, product) for total, product in zip(totals, products, strict=True)]

    return e.loop(blocks, [constant(_FLOATS, 0.0)] * len(x), block)


@typed_intrinsic
def multiply_group(
    typing_context: Any, weight_type: Any, record: Any, x: Any, x_bytes: Any, last: Any, sums: Any, blocks: Any
) -> Any:
    """Add the products of a strip's record with the activation records of `TOKENS` tokens to `sums`.

    `x` is the record of the first token, `last` the index of the last one (it stands in for those that are missing);
    `sums` float32 `[TOKENS, LANES]`.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e, f = Emitter(builder), format_of(weight_type)
        _, record, x, x_bytes, last, sums, blocks = args
        if f is None:
            return context.get_dummy_value()
        tokens = []
        for t in range(TOKENS):
            within = builder.icmp_signed("<", constant(I64, t), last)
            tokens.append(e.at(x, builder.mul(x_bytes, builder.select(within, constant(I64, t), last))))
        k_quant = f.columns == GROUP
        products = _multiply_k(e, f, record, tokens) if k_quant else _multiply_blocks(e, f, record, tokens, blocks)
        for t, product in enumerate(products):
            at = e.at(sums, _STEP * t)
            e.store(builder.fadd(e.load(at, _FLOATS), product), at)
        return context.get_dummy_value()

    return types.none(weight_type, *[types.int64] * 6), emit
