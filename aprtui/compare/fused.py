"""The pass over a pair as compiled kernels: memory is read once, by several threads that take parts of the tensor.

Imports numba: only `passes` imports this module, when a pair is large enough. Values are taken in tiles of up to four
rows that stay in the nearest cache while short loops read them; each loop is simple enough for the compiler to use
vectors. Measured, in ns a value on one core of 2.6 GHz with 512-bit vectors: look 0.05, sums 0.35, histogram 0.27,
channels 0.17.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from aprtui.compare.jit import intrinsic, kernel, reduction
from aprtui.compare.totals import BIN_SHIFT, BINS, FIRST, Count, Sum

_ROWS = 4
_BLOCK = 512  # 16 kB for a tile of both sides
_LONG_BLOCK = 1024  # of a row taken by itself, in the place of several
_B = _ROWS * _BLOCK  # where side B begins in a tile

_MAGNITUDE = np.int32(0x7FFFFFFF)
_FULL_EXPONENT = np.int32(0x7F800000)
_SHIFT, _SECOND, _ONE = np.uint32(BIN_SHIFT), np.uint32(BINS), np.int32(1)
_D2, _A2, _B2, _AB, _ABS_D, _D, _A, _MAX_D, _MAX_A, _COMPARED, _MISMATCHES = (int(column) for column in Sum)
_EQUAL, _NAN_A, _NAN_B, _INF_A, _INF_B, _NAN_BOTH, _INF_BOTH = (int(column) for column in Count)

_LINE = 16  # values in 64 bytes


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


@kernel
def _look(a: Any, b: Any) -> Any:
    """Of bit patterns: how many are equal, and how many places are NaN or Inf on either side."""
    equal, special = np.int32(0), np.int32(0)
    for i in range(a.size):
        equal += np.int32(a[i] == b[i])
        special += np.int32(max(a[i] & _MAGNITUDE, b[i] & _MAGNITUDE) >= _FULL_EXPONENT)
    return equal, special


@kernel
def _copy(values: Any, into: Any) -> None:
    for i in range(values.size):
        into[i] = values[i]


@reduction
def _add_finite(a: Any, b: Any, sums: Any, magnitudes: Any) -> None:
    """Add finite values to the sums of a row; leaves abs(d) as float32 in `magnitudes`."""
    d2, a2, b2, ab, absolute, total_d, total_a = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    largest, largest_a = np.int64(0), np.int64(0)
    for i in range(a.size):
        x, y = np.float64(a[i]), np.float64(b[i])
        d = y - x
        size = np.float64(abs(d))
        d2 += d * d
        a2 += x * x
        b2 += y * y
        ab += x * y
        absolute += size
        total_d += d
        total_a += x
        # As bit patterns, which have the order of the numbers: a maximum of floats keeps the loop from vectors.
        largest = max(largest, size.view(np.int64))
        largest_a = max(largest_a, np.float64(abs(x)).view(np.int64))
        magnitudes[i] = np.float32(size)
    sums[_D2] += d2
    sums[_A2] += a2
    sums[_B2] += b2
    sums[_AB] += ab
    sums[_ABS_D] += absolute
    sums[_D] += total_d
    sums[_A] += total_a
    sums[_MAX_D] = max(sums[_MAX_D], np.int64(largest).view(np.float64))
    sums[_MAX_A] = max(sums[_MAX_A], np.int64(largest_a).view(np.float64))
    sums[_COMPARED] += a.size


@kernel
def _add_bins(bits: Any, histogram: Any, a: Any, b: Any, next_a: int, next_b: int) -> None:
    """Count magnitudes by bin, in turns into two histograms: counting one bin twice in a row is slow.

    On the way has the block fetched that begins at `next_a` and `next_b`, a few lines at a time: the cache takes
    no more than some twenty at once.
    """
    whole = bits.size & ~(_LINE - 1)
    for first in range(0, whole, _LINE):
        _prefetch(a, next_a + first)
        _prefetch(b, next_b + first)
        for i in range(first, first + _LINE, 2):
            histogram[np.uint32(bits[i]) >> _SHIFT] += _ONE
            histogram[(np.uint32(bits[i + 1]) >> _SHIFT) + _SECOND] += _ONE
    for i in range(whole, bits.size):
        histogram[np.uint32(bits[i]) >> _SHIFT] += _ONE


@reduction
def _add_channels(tile: Any, a2: Any, b2: Any, ab: Any) -> None:
    """Add the rows of a tile to the sums of its channels; rows that are not there are zero."""
    for i in range(ab.size):
        a, b = np.float64(tile[i]), np.float64(tile[i + _B])
        c, d = np.float64(tile[i + _BLOCK]), np.float64(tile[i + _BLOCK + _B])
        e, f = np.float64(tile[i + 2 * _BLOCK]), np.float64(tile[i + 2 * _BLOCK + _B])
        g, h = np.float64(tile[i + 3 * _BLOCK]), np.float64(tile[i + 3 * _BLOCK + _B])
        a2[i] += a * a + c * c + e * e + g * g
        b2[i] += b * b + d * d + f * f + h * h
        ab[i] += a * b + c * d + e * f + g * h


@kernel
def _note(count: int, position: int, counts: Any, first: Any) -> None:
    if counts[count] < FIRST:
        first[count, counts[count]] = position
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
def _add_block(a: Any, b: Any, position: int, sums: Any, counts: Any, first: Any, size: Any) -> Any:
    """Add a block of one row, which lies in a tile; puts zero in the place of NaN and Inf.

    Leaves abs(d) in `size`; returns at how many places the bits are equal, and how many NaN and Inf.
    """
    equal, special = _look(a.view(np.int32), b.view(np.int32))
    counts[_EQUAL] += equal
    apart = _set_apart(a, b, position, sums, counts, first) if special else 0
    _add_finite(a, b, sums, size)
    sums[_COMPARED] -= apart
    return equal, apart


@kernel
def add_rows(
    a: Any, b: Any, places: Any, sums: Any, counts: Any, first: Any, histogram: Any, channels: Any
) -> None:  # fmt: skip
    """Add rows to the totals of one part; see `Totals`.

    `a` and `b` are the memory of both sides as one dimension; `places` `[rows, 4]` has where a row begins in a,
    where in b, its length and its flat position in the compared shape; `sums` `[rows, Sum]` are theirs. The
    `histogram` is a pair of them, one after the other. Rows are of one length where there are channels.
    """
    tile = np.zeros(2 * _B, np.float32)
    size = np.empty(_LONG_BLOCK, np.float32)
    count = places.shape[0]
    rows = _ROWS if channels.shape[1] else 1
    block = _BLOCK if channels.shape[1] else _LONG_BLOCK
    for row in range(0, count, rows):
        here = min(rows, count - row)
        if here < rows:
            tile[:] = 0
        for at in range(0, places[row, 2], block):
            n = min(block, places[row, 2] - at)
            for k in range(here):
                begin_a, begin_b, position = places[row + k, 0] + at, places[row + k, 1] + at, places[row + k, 3]
                left, right = tile[k * _BLOCK : k * _BLOCK + n], tile[_B + k * _BLOCK : _B + k * _BLOCK + n]
                _copy(a[begin_a : begin_a + n], left)
                _copy(b[begin_b : begin_b + n], right)
                equal, apart = _add_block(left, right, position + at, sums[row + k], counts, first, size)
                if equal == n:
                    histogram[0] += np.int32(n)
                else:
                    _add_bins(size[:n].view(np.int32), histogram, a, b, begin_a + block, begin_b + block)
                histogram[0] -= np.int32(apart)
            if channels.shape[1]:
                _add_channels(tile, channels[0, at : at + n], channels[1, at : at + n], channels[2, at : at + n])
