"""Rows of Q4_K and Q5_K as one sequence of blocks, times one row of int8 activations: the kernel of decoding.

The arithmetic is that of `dot`. What is done once per block (scales, minimums, the last sums) is done for eight blocks
at once, a lane each; they may belong to several rows. A block on its own is a chain of 60 cycles, of which the CPU sees
two at a time (measured: 27 cycles a block of Q4_K, against 22 this way).
"""

from __future__ import annotations

from typing import Any

from numba import types

from aprtui.engine.cpu.emit import F32, I8, I16, I32, I64, Emitter, Value, constant, vector
from aprtui.engine.cpu.jit import typed_intrinsic
from aprtui.engine.cpu.matmul.activations import RECORD, SCALE_K, SUMS_32
from aprtui.engine.cpu.matmul.formats import FORMATS, Format, format_of, split_scales
from aprtui.model.weight_types import ScalePacking

_FORMATS = tuple(f for f in FORMATS.values() if f.type.format.scale_packing is ScalePacking.SIX_BITS)
SEQUENCE_TYPES = tuple(int(f.type) for f in _FORMATS)
"""Types whose rows are read as a sequence of blocks: Q4_K and Q5_K, whose minimums and scales are packed alike."""
BLOCKS = 8
"""Blocks that are worked on together."""
_AHEAD = 1024
"""Bytes by which weights are fetched in advance (measured: 512 to 2048 are alike, more is worse)."""


def _multiply(
    e: Emitter, f: Format, w: Value, x: Value, column: Value, blocks: Value, count: Value, out: Value
) -> None:
    b = e.builder
    at = [e.at(w, offset) for offset in _offsets(e, f, count)]
    places = e.room(vector(I64, BLOCKS))
    records = _records(e, x, column, blocks, places)
    scale = e.gather([e.load(e.at(record, SCALE_K), F32) for record in records])
    words, sums = (e.room(vector(I32, 8 * BLOCKS)) for _ in range(2))
    d, minimums = _headers(e, at, records, scale, words)

    def multiply(k: Value, state: list[Value]) -> list[Value]:
        address, record = e.at(w, b.mul(k, constant(I64, f.size))), e.load(e.at(places, e.shifted(k, 3)), I64)
        e.prefetch(e.at(address, _AHEAD), f.size)
        totals = [constant(vector(I32, 8), 0)] * 2  # two chains of additions, for latency
        for j, quants in enumerate(f.unpack(e, address).quants):
            pairs = e.byte_pair_dot(quants, e.load(e.at(record, 32 * j), vector(I8, 32)))
            word = e.load(e.at(words, e.at(e.shifted(k, 2), 4 * BLOCKS * j)), I32)
            totals[j % 2] = e.add_pair_dot(totals[j % 2], pairs, b.bitcast(e.splat(word, 8), pairs.type))
        e.store(b.add(*totals), e.at(sums, e.shifted(k, 5)))
        return []

    e.loop(count, [], multiply)
    dots = e.sum_each([e.load(e.at(sums, 32 * k), vector(I32, 8)) for k in range(BLOCKS)])
    e.store(b.fsub(b.fmul(e.to_float(dots), b.fmul(d, scale)), minimums), out)


def _offsets(e: Emitter, f: Format, count: Value) -> list[Value]:
    """Byte offsets of `BLOCKS` blocks; the last one stands in for missing ones."""
    b, last = e.builder, e.builder.mul(e.builder.sub(count, constant(I64, 1)), constant(I64, f.size))
    offsets = [constant(I64, f.size * k) for k in range(BLOCKS)]
    return [b.select(b.icmp_unsigned("<", offset, last), offset, last) for offset in offsets]


def _records(e: Emitter, x: Value, column: Value, blocks: Value, places: Value) -> list[Value]:
    """Addresses of the activation records that the blocks meet, also stored at `places`."""
    b, records = e.builder, []
    offset, end = (b.mul(n, constant(I64, RECORD)) for n in (column, blocks))
    for k in range(BLOCKS):
        records.append(e.at(x, offset))
        e.store(records[k], e.at(places, 8 * k))
        following = e.at(offset, RECORD)
        offset = b.select(b.icmp_signed("==", following, end), constant(I64, 0), following)
    return records


def _headers(e: Emitter, at: list[Value], records: list[Value], scale: Value, words: Value) -> tuple[Value, Value]:
    """d of the blocks, and the products of their minimums; scales go to `words` as i16 pairs, `[sub-block, block]`."""
    b, half = e.builder, vector(I16, BLOCKS)
    halves, *packed = _transpose(e, [e.load(address, vector(I32, 4)) for address in at])
    d, dmin = (e.half_to_float(b.trunc(bits, half)) for bits in (halves, e.shifted(halves, -16)))
    low, high, low_minimums, high_minimums = split_scales(e, *packed)
    zeros = constant(vector(I8, 4 * BLOCKS), 0)

    def spread(source: Value, first: int, second: int) -> Value:
        """Two bytes of each lane, as i16 × 2 of that lane."""
        lanes = [i for k in range(BLOCKS) for i in (4 * k + first, 4 * BLOCKS, 4 * k + second, 4 * BLOCKS)]
        return b.bitcast(e.shuffle(b.bitcast(source, zeros.type), lanes, zeros), vector(I16, 2 * BLOCKS))

    for j in range(8):
        e.store(spread((low, high)[j // 4], j % 4, j % 4), e.at(words, 4 * BLOCKS * j))
    total = constant(vector(I32, BLOCKS), 0)
    for j, pair in enumerate(_transpose(e, [e.load(e.at(r, SUMS_32), vector(I32, 4)) for r in records])):
        minimums = spread((low_minimums, high_minimums)[j // 2], 2 * (j % 2), 2 * (j % 2) + 1)
        total = e.add_pair_dot(total, minimums, b.bitcast(pair, minimums.type))
    return d, b.fmul(e.to_float(total), b.fmul(dmin, scale))


def _transpose(e: Emitter, rows: list[Value]) -> list[Value]:
    """Eight vectors of four lanes as four vectors of eight."""
    p, q, r, s = (e.concatenate(rows[i], rows[i + 4]) for i in range(4))
    low, high = [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]
    low_pairs, high_pairs = [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]
    halves = [(e.shuffle(p, lanes, q), e.shuffle(r, lanes, s)) for lanes in (low, high)]
    return [e.shuffle(left, lanes, right) for left, right in halves for lanes in (low_pairs, high_pairs)]


@typed_intrinsic
def multiply_blocks(
    typing_context: Any, weight_type: Any, w: Any, x: Any, column: Any, blocks: Any, count: Any, out: Any
) -> Any:
    """The products of `count` ≤ `BLOCKS` consecutive blocks of Q4_K or Q5_K at `w`, to `out` (float32 × `BLOCKS`).

    The first one is the `column`-th of its row, which has `blocks`; after the last follows the first of the next row.
    `x` is a row of activations.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        f = format_of(weight_type)
        if f in _FORMATS:
            _multiply(Emitter(builder), f, *args[1:])
        return context.get_dummy_value()

    return types.none(weight_type, *[types.int64] * 6), emit
