"""The pass over a pair as compiled kernels: memory is read once, by several threads that take parts of the tensor.

Imports numba: only `passes` imports this module, when a pair is large enough. Rows that have channels are taken
in groups of `ROWS`, of a group blocks of `_BLOCK` columns, and of a block two rows at a time, so that the sums of the
block's channels stay in the nearest cache and are read and written once for two rows. Each loop is simple enough for
the compiler to use vectors. The processor does not prefetch rows that lie so far apart, so instructions fetch what
comes two rows later.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numpy.typing import NDArray

from aprtui.compare.metrics.jit import intrinsic, kernel, reduction
from aprtui.compare.metrics.totals import BIN_SHIFT, BINS, FIRST, ROWS, PartCount, RowSum, Totals

_BLOCK = 1024

_MAGNITUDE = np.int32(0x7FFFFFFF)
_FULL_EXPONENT = np.int32(0x7F800000)
_SHIFT, _SECOND, _ONE = np.uint32(BIN_SHIFT), np.uint32(BINS), np.int32(1)
_D2, _A2, _B2, _AB, _ABS_D, _D, _A, _MAX_D, _MAX_A, _COMPARED, _MISMATCHES = (int(column) for column in RowSum)
_EQUAL, _NAN_A, _NAN_B, _INF_A, _INF_B, _NAN_BOTH, _INF_BOTH = (int(column) for column in PartCount)

_LINE = 16  # values in 64 bytes
_NOTHING = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, np.int64(0))


class PartWorkspace(NamedTuple):
    """The totals of a part of the tensor, and memory to work in: kernels have none of their own.

    `counts`, `first` and `channels` as in `Totals`, of one part; `histogram` is a pair of them, one after the other.
    Of a block of two rows `spare_a` and `spare_b` hold both where they cannot be taken where they lie, and `sizes`
    abs(d); `block` has the sums of a block's channels, `absent_row` those of a row that is not there.
    """

    counts: NDArray[np.int64]
    first: NDArray[np.int64]
    channels: NDArray[np.float64]
    histogram: NDArray[np.int32]
    spare_a: NDArray[np.float32]
    spare_b: NDArray[np.float32]
    sizes: NDArray[np.float32]
    block: NDArray[np.float64]
    absent_row: NDArray[np.float64]

    @classmethod
    def of(cls, totals: Totals, index: int) -> PartWorkspace:
        """The workspace of part `index` of `totals`, to which `add_rows` then adds but for the histogram."""
        histogram, sizes = np.zeros(2 * BINS, np.int32), np.zeros(2 * _BLOCK, np.float32)
        spare_a, spare_b = np.zeros((2, 2, _BLOCK), np.float32)
        block, absent_row = np.zeros((3, _BLOCK)), np.zeros(len(RowSum))
        counts, first, channels = totals.counts[index], totals.first[index], totals.channels[index]
        return cls(counts, first, channels, histogram, spare_a, spare_b, sizes, block, absent_row)


@intrinsic
def _prefetch(typing_context: Any, values: Any, index: Any) -> Any:
    """Have the cache line of `values[index]` fetched; no error whatever the index."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        byte, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), (byte, i32, i32, i32))
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        place = builder.bitcast(builder.gep(data, [args[1]]), byte)
        builder.call(function, (place, i32(0), i32(3), i32(1)))  # to read, into all levels, data
        return context.get_dummy_value()

    return types.none(values, types.int64), emit


@reduction
def _look(a: Any, b: Any) -> Any:
    """Of bit patterns: how many are equal, and the largest magnitude of either side."""
    equal = np.float32(0)  # a whole number below 2^24, in lanes of the values' width
    largest_a, largest_b = np.int32(0), np.int32(0)
    for i in range(a.size):
        equal += np.float32(1) if a[i] == b[i] else np.float32(0)
        largest_a = max(largest_a, np.int32(a[i] & _MAGNITUDE))
        largest_b = max(largest_b, np.int32(b[i] & _MAGNITUDE))
    return np.int64(equal), largest_a, largest_b


@reduction
def _plus(sums: Any, a: float, b: float) -> Any:
    """The first columns of `RowSum`, the last as a bit pattern, with one pair of finite values more."""
    d2, a2, b2, ab, absolute, total_d, total_a, largest = sums
    d = b - a
    size = np.float64(abs(d))
    # Bit patterns have the order of the numbers: a maximum of floats keeps the loop from vectors.
    largest = max(largest, size.view(np.int64))
    return d2 + d * d, a2 + a * a, b2 + b * b, ab + a * b, absolute + size, total_d + d, total_a + a, largest


@kernel
def _enter(found: Any, count: int, sums: Any) -> bool:
    """Add what a block of one row has to the sums of the row; returns whether nothing differs."""
    d2, a2, b2, ab, absolute, total_d, total_a, largest = found
    sums[_D2] += d2
    sums[_A2] += a2
    sums[_B2] += b2
    sums[_AB] += ab
    sums[_ABS_D] += absolute
    sums[_D] += total_d
    sums[_A] += total_a
    sums[_MAX_D] = max(sums[_MAX_D], np.int64(largest).view(np.float64))
    sums[_COMPARED] += count
    return bool(largest == 0)


@reduction
def _add_row(a: Any, b: Any, sums: Any, sizes: Any) -> bool:
    """Add finite values to the sums of a row; leaves abs(d) as float32 in `sizes`, returns whether all is 0."""
    found = _NOTHING
    for i in range(a.size):
        x, y = np.float64(a[i]), np.float64(b[i])
        found = _plus(found, x, y)
        sizes[i] = np.float32(abs(y - x))
    return _enter(found, a.size, sums)


@reduction
def _add_two_rows(
    a: Any, b: Any, next_a: Any, next_b: Any, sums: Any, next_sums: Any, sizes: Any,
    channels_a: Any, channels_b: Any, channels_ab: Any,
) -> Any:  # fmt: skip
    """`_add_row` of two rows, and of both to the sums of their channels: each is read and written once for two rows."""
    found, next_found = _NOTHING, _NOTHING
    for i in range(a.size):
        x, y = np.float64(a[i]), np.float64(b[i])
        v, w = np.float64(next_a[i]), np.float64(next_b[i])
        found, next_found = _plus(found, x, y), _plus(next_found, v, w)
        sizes[i], sizes[i + _BLOCK] = np.float32(abs(y - x)), np.float32(abs(w - v))
        channels_a[i] += x * x + v * v
        channels_b[i] += y * y + w * w
        channels_ab[i] += x * y + v * w
    return _enter(found, a.size, sums), _enter(next_found, a.size, next_sums)


@kernel
def _add_bins(bits: Any, equal: bool, histogram: Any, a: Any, b: Any, next_a: int, next_b: int) -> None:
    """Count magnitudes by bin, in turns into two histograms: counting one bin twice in a row is slow.

    On the way has the block fetched that begins at `next_a` and `next_b`, a few lines at a time: the cache takes
    no more than some twenty at once.
    """
    whole = bits.size & ~(_LINE - 1)
    if equal:
        histogram[0] += np.int32(bits.size)
        return
    for first in range(0, whole, _LINE):
        _prefetch(a, next_a + first)
        _prefetch(b, next_b + first)
        for i in range(first, first + _LINE, 2):
            histogram[np.uint32(bits[i]) >> _SHIFT] += _ONE
            histogram[(np.uint32(bits[i + 1]) >> _SHIFT) + _SECOND] += _ONE
    for i in range(whole, bits.size):
        histogram[np.uint32(bits[i]) >> _SHIFT] += _ONE


@kernel
def _note(count: int, position: int, counts: Any, first: Any) -> None:
    """Count a NaN or an Inf; of its kind the least positions are kept, in order."""
    place = min(counts[count], FIRST)
    while place > 0 and first[count, place - 1] > position:
        if place < FIRST:
            first[count, place] = first[count, place - 1]
        place -= 1
    if place < FIRST:
        first[count, place] = position
    counts[count] += 1


@kernel
def _set_apart(a: Any, b: Any, position: int, sums: Any, counts: Any, first: Any) -> int:
    """Count NaN and Inf, and put zero on both sides in their place; returns at how many places."""
    found = 0
    for i in range(a.size):
        x, y = a[i], b[i]
        if np.isfinite(x) and np.isfinite(y):
            continue
        if np.isnan(x):
            _note(_NAN_A, position + i, counts, first)
        elif np.isinf(x):
            _note(_INF_A, position + i, counts, first)
        if np.isnan(y):
            _note(_NAN_B, position + i, counts, first)
        elif np.isinf(y):
            _note(_INF_B, position + i, counts, first)
        if np.isnan(x) and np.isnan(y):
            _note(_NAN_BOTH, position + i, counts, first)
        elif x == y:
            _note(_INF_BOTH, position + i, counts, first)
        else:
            sums[_MISMATCHES] += 1
        a[i], b[i] = np.float32(0), np.float32(0)
        found += 1
    return found


@kernel
def _look_at(a: Any, b: Any, sums: Any, counts: Any) -> bool:
    """Count equal bits in a block of one row; returns whether all of it is finite, and then enters the largest of a."""
    equal, largest_a, largest_b = _look(a.view(np.int32), b.view(np.int32))
    counts[_EQUAL] += equal
    if max(largest_a, largest_b) >= _FULL_EXPONENT:
        return False
    sums[_MAX_A] = max(sums[_MAX_A], np.float64(np.int32(largest_a).view(np.float32)))
    return True


@kernel
def _copy_finite(a: Any, b: Any, into_a: Any, into_b: Any, position: int, sums: Any, part: Any) -> None:
    """Copy a block of one row with zero in the place of NaN and Inf, which are counted, and not as compared."""
    for i in range(a.size):
        into_a[i], into_b[i] = a[i], b[i]
    apart = _set_apart(into_a, into_b, position, sums, part.counts, part.first)
    sums[_COMPARED] -= apart
    part.histogram[0] -= np.int32(apart)
    for i in range(a.size):
        sums[_MAX_A] = max(sums[_MAX_A], np.float64(abs(into_a[i])))


@kernel
def _add_lone_rows(a: Any, b: Any, places: Any, sums: Any, part: Any) -> None:
    """`add_rows` without channels: of any lengths, one after the other."""
    for k in range(places.shape[0]):
        for at in range(0, places[k, 2], _BLOCK):
            n = min(_BLOCK, places[k, 2] - at)
            x, y, sizes = places[k, 0] + at, places[k, 1] + at, part.sizes[:n]
            left, right = a[x : x + n], b[y : y + n]
            if _look_at(left, right, sums[k], part.counts):
                equal = _add_row(left, right, sums[k], sizes)
            else:
                spare_a, spare_b = part.spare_a[0, :n], part.spare_b[0, :n]
                _copy_finite(left, right, spare_a, spare_b, places[k, 3] + at, sums[k], part)
                equal = _add_row(spare_a, spare_b, sums[k], sizes)
            _add_bins(sizes.view(np.int32), equal, part.histogram, a, b, x + _BLOCK, y + _BLOCK)


@kernel
def _add_pair(a: Any, b: Any, places: Any, at: int, n: int, sums: Any, part: Any) -> Any:
    """Add `n` values of two rows, or of one, from column `at` on; returns of which of them nothing differs."""
    rows = places.shape[0]
    finite = True
    for k in range(rows):
        x, y = places[k, 0] + at, places[k, 1] + at
        finite = _look_at(a[x : x + n], b[y : y + n], sums[k], part.counts) and finite
    channels_a, channels_b, channels_ab = part.block[0, :n], part.block[1, :n], part.block[2, :n]
    if finite and rows == 2:
        x, y, v, w = places[0, 0] + at, places[0, 1] + at, places[1, 0] + at, places[1, 1] + at
        return _add_two_rows(
            a[x : x + n], b[y : y + n], a[v : v + n], b[w : w + n], sums[0], sums[1], part.sizes,
            channels_a, channels_b, channels_ab,
        )  # fmt: skip
    spare_a, spare_b = part.spare_a, part.spare_b
    spare_a[1, :], spare_b[1, :] = 0, 0
    for k in range(rows):
        x, y = places[k, 0] + at, places[k, 1] + at
        position = places[k, 3] + at
        _copy_finite(a[x : x + n], b[y : y + n], spare_a[k, :n], spare_b[k, :n], position, sums[k], part)
    return _add_two_rows(
        spare_a[0, :n], spare_b[0, :n], spare_a[1, :n], spare_b[1, :n], sums[0],
        sums[1] if rows == 2 else part.absent_row, part.sizes, channels_a, channels_b, channels_ab,
    )  # fmt: skip


@kernel
def _two_rows_later(row: int, at: int, first: int, stop: int, count: int, width: int) -> Any:
    """Row and column of the block that is taken two rows after that of `row` at `at`, in the group `first … stop`."""
    row += 2
    if row < stop:
        return row, at
    if at + _BLOCK < width:
        return row - (stop - first), at + _BLOCK
    return min(row, count - 1), 0


@kernel
def add_rows(a: Any, b: Any, places: Any, sums: Any, part: Any) -> None:
    """Add rows to the totals of one part.

    `a` and `b` are the memory of both sides as one dimension; `places` `[rows, 4]` has where a row begins in a,
    where in b, its length and its flat position in the compared shape; `sums` `[rows, RowSum]` are theirs. Where there
    are channels all rows have as many values.
    """
    count, width = places.shape[0], part.channels.shape[1]
    if width == 0:
        _add_lone_rows(a, b, places, sums, part)
        return
    for first in range(0, count, ROWS):
        stop = min(first + ROWS, count)
        for at in range(0, width, _BLOCK):
            n = min(_BLOCK, width - at)
            for side in range(3):
                part.block[side, :n] = 0.0
            for row in range(first, stop, 2):
                here = min(2, stop - row)
                equal = _add_pair(a, b, places[row : row + here], at, n, sums[row : row + here], part)
                for k in range(here):
                    sizes = part.sizes[k * _BLOCK : k * _BLOCK + n].view(np.int32)
                    later, column = _two_rows_later(row + k, at, first, stop, count, width)
                    next_a, next_b = places[later, 0] + column, places[later, 1] + column
                    _add_bins(sizes, equal[k], part.histogram, a, b, next_a, next_b)
            for side in range(3):
                for i in range(n):
                    part.channels[side, at + i] += part.block[side, i]
