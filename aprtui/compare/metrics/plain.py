"""The pass over a pair in numpy: what `fused` computes, for small pairs and where numba is missing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.metrics import blocks
from aprtui.compare.metrics.blocks import Values
from aprtui.compare.metrics.totals import BIN_SHIFT, BINS, FIRST, PartCount, RowSum, Totals
from aprtui.trace.stats import causal_mask

Mask = NDArray[np.bool_]


def add_part(a: Values, b: Values, totals: Totals, part: int) -> None:
    """Add the rows of one part of `a` and `b` (as `Rows.walked`) to `totals`."""
    for first, stop in _pieces(totals, part):
        _add_rows(*_rows(a, b, totals, first, stop), totals, part, first)


def _pieces(totals: Totals, part: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows of one group, of about `BLOCK_VALUES` values."""
    rows = totals.rows
    first, end = totals.bounds[part : part + 2]
    step = max(1, blocks.BLOCK_VALUES // max(1, rows.width))
    while first < end:
        stop = min(first + step, end, (first // rows.rows + 1) * rows.rows)
        yield first, stop
        first = stop


def _rows(a: Values, b: Values, totals: Totals, first: int, stop: int) -> tuple[Values, Values, Mask | None]:
    """Rows `first … stop` of both sides `[rows, columns]`, and which of their values count (None: all)."""
    rows = totals.rows
    if rows.flat:
        begin, end = first * rows.width, min(stop * rows.width, rows.size)
        if end - begin == (stop - first) * rows.width:
            return a[begin:end].reshape(-1, rows.width), b[begin:end].reshape(-1, rows.width), None
        counted = (np.arange((stop - first) * rows.width) < end - begin).reshape(-1, rows.width)
        return _padded(a[begin:end], rows.width), _padded(b[begin:end], rows.width), counted
    if not rows.causal:
        return a[first:stop], b[first:stop], None
    head, query = divmod(first, rows.rows)
    after = query + stop - first
    keys = min(after, rows.width)
    return a[head, query:after, :keys], b[head, query:after, :keys], causal_mask(query, after - query, keys)


def _padded(values: Values, width: int) -> Values:
    out = np.zeros((-(-values.size // width), width), np.float32)
    out.reshape(-1)[: values.size] = values
    return out


def _add_rows(a: Values, b: Values, wanted: Mask | None, totals: Totals, part: int, first: int) -> None:
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    sums = totals.sums[first : first + a.shape[0]]
    equal = a.view(np.uint32) == b.view(np.uint32)
    finite = np.isfinite(a) & np.isfinite(b)
    whole = bool(finite.all())
    compared = finite if wanted is None else finite & wanted
    totals.counts[part, PartCount.EQUAL_BITS] += np.count_nonzero(equal if wanted is None else equal & wanted)
    if not whole:
        _add_non_finite(a, b, (~finite if wanted is None else wanted & ~finite), totals, part, first)
    if whole and wanted is None:
        wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    else:
        wide_a, wide_b = np.where(compared, a, 0).astype(np.float64), np.where(compared, b, 0).astype(np.float64)
    d = wide_b - wide_a
    for column, left, right in (
        (RowSum.D2, d, d), (RowSum.A2, wide_a, wide_a), (RowSum.B2, wide_b, wide_b), (RowSum.AB, wide_a, wide_b)
    ):  # fmt: skip
        # Not `@`: BLAS splits blocks of this size over threads, which costs more than it saves (36 against 0.4 ns a
        # value on busy cores) and gives other bits on other machines.
        sums[:, column] = np.einsum("ij,ij->i", left, right)
    sums[:, RowSum.D] = d.sum(1)
    sums[:, RowSum.A] = wide_a.sum(1)
    sums[:, RowSum.COMPARED] = compared.sum(1)
    np.abs(d, out=d)
    sums[:, RowSum.ABS_D] = d.sum(1)
    sums[:, RowSum.MAX_D] = d.max(1, initial=0.0)
    sums[:, RowSum.MAX_A] = np.abs(wide_a).max(1, initial=0.0)
    with np.errstate(over="ignore"):
        bins = (d[compared] if not whole or wanted is not None else d.reshape(-1)).astype(np.float32).view(np.int32)
    totals.histogram[part] += np.bincount(bins >> BIN_SHIFT, minlength=BINS)
    if totals.channels.shape[2]:
        totals.channels[part, 0] += np.einsum("ij,ij->j", wide_a, wide_a)
        totals.channels[part, 1] += np.einsum("ij,ij->j", wide_b, wide_b)
        totals.channels[part, 2] += np.einsum("ij,ij->j", wide_a, wide_b)


def _add_non_finite(a: Values, b: Values, special: Mask, totals: Totals, part: int, first: int) -> None:
    """Count the `special` values, NaN or Inf on either side, by kind."""
    kind_a, kind_b = kinds(a), kinds(b)
    found = {
        PartCount.NAN_A: kind_a == 1,
        PartCount.NAN_B: kind_b == 1,
        PartCount.INF_A: kind_a > 1,
        PartCount.INF_B: kind_b > 1,
        PartCount.NAN_BOTH: (kind_a == 1) & (kind_b == 1),
        PartCount.INF_BOTH: (kind_a > 1) & (kind_a == kind_b),
    }
    for count, mask in found.items():
        rows, columns = np.nonzero(mask & special)
        totals.counts[part, count] += rows.size
        places = totals.first[part, count]
        room = int(np.count_nonzero(places < 0))
        positions = ((rows + first) * totals.rows.width + columns)[:room]
        places[FIRST - room : FIRST - room + positions.size] = positions
    totals.sums[first : first + a.shape[0], RowSum.MISMATCHES] = ((kind_a != kind_b) & special).sum(1)


def kinds(values: Values) -> NDArray[np.int8]:
    """0 for finite values, 1 for NaN, 2 for +Inf, 3 for −Inf."""
    out = np.zeros(values.shape, np.int8)
    out[np.isnan(values)] = 1
    out[np.isposinf(values)] = 2
    out[np.isneginf(values)] = 3
    return out
