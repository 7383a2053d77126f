"""What one pass over a pair adds up, before it becomes metrics: sums of each row, and counts over parts of the tensor.

The rows are split into `PARTS` parts, those of a small pair into one, by their shape alone. Every part has counts of
its own and every row sums of its own, all are merged in row order, and so the number of threads changes no bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.metrics.blocks import Rows

SMALL = 200_000
"""Values below which numpy's pass is taken: it needs 25 ns a value, numba 0.3 s to load and once 3 s to compile."""

PARTS = 8
"""More threads than this gain nothing: the pass is bound by memory. Each part holds sums of every channel."""

ROWS = 16
"""Rows that the compiled pass takes together. Pieces of a part are whole groups, so that their size changes no bit."""

FIRST = 3
"""Positions of NaN and of Inf that are recorded for each side."""

BINS = 16384
BIN_SHIFT = 17
"""A histogram's bin of a float32 magnitude is its bit pattern without the low 17 bits: 64 bins an octave."""


class RowSum(IntEnum):
    """Columns of the row sums; d = b − a, over the values that are finite on both sides."""

    D2 = 0
    A2 = 1
    B2 = 2
    AB = 3
    ABS_D = 4
    D = 5
    A = 6
    MAX_D = 7
    MAX_A = 8
    COMPARED = 9
    MISMATCHES = 10


class PartCount(IntEnum):
    """Columns of the counts of a part."""

    EQUAL_BITS = 0
    NAN_A = 1
    NAN_B = 2
    INF_A = 3
    INF_B = 4
    NAN_BOTH = 5
    INF_BOTH = 6


@dataclass(frozen=True, slots=True)
class Totals:
    """The state of a pass. Arrays of parts have the part as their first axis.

    `sums` `[rows, RowSum]`; `counts` `[parts, PartCount]`; `first` `[parts, PartCount, FIRST]`, flat positions, −1
    where there is none; `histogram` `[parts, BINS]` of abs(d); `channels` `[parts, 3, width]`: a², b² and a·b by
    channel (no channels for attention maps and flat tensors).
    """

    rows: Rows
    bounds: tuple[int, ...]
    sums: NDArray[np.float64]
    counts: NDArray[np.int64]
    first: NDArray[np.int64]
    histogram: NDArray[np.int64]
    channels: NDArray[np.float64]

    @classmethod
    def of(cls, rows: Rows) -> Totals:
        """Empty totals; part i has the rows from `bounds[i]` to `bounds[i + 1]`."""
        parts = 1 if rows.size < SMALL else PARTS  # a part costs as much as some thousand values
        ends = np.cumsum(rows.lengths())
        marks = np.arange(1, parts) * (rows.size / parts)
        inner = np.searchsorted(ends, marks, side="right").tolist() if rows.count else [0] * (parts - 1)
        width = 0 if rows.causal or rows.flat else rows.width
        return cls(
            rows,
            (0, *inner, rows.count),
            np.zeros((rows.count, len(RowSum))),
            np.zeros((parts, len(PartCount)), np.int64),
            np.full((parts, len(PartCount), FIRST), -1, np.int64),
            np.zeros((parts, BINS), np.int64),
            np.zeros((parts, 3, width)),
        )

    @property
    def parts(self) -> int:
        return len(self.bounds) - 1

    def tokens(self) -> NDArray[np.float64]:
        """The row sums added up over heads, or over all of a flat tensor: `[tokens, RowSum]`."""
        shape = (self.rows.rows, 1) if self.rows.flat else (self.rows.groups, self.rows.rows)
        table = self.sums.reshape(*shape, len(RowSum))
        out: NDArray[np.float64] = table.sum(0)
        for column in (RowSum.MAX_D, RowSum.MAX_A):
            out[:, column] = table[:, :, column].max(0, initial=0.0)
        return out

    def first_positions(self, count: PartCount) -> tuple[int, ...]:
        """Flat positions of the first few of a kind, in row-major order."""
        found = self.first[:, count, :].reshape(-1)
        return tuple(int(position) for position in found[found >= 0][:FIRST])
