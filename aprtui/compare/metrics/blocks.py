"""Walking a stage tensor in blocks, so that memory stays bounded whatever its size.

Attention maps count where key ≤ query only: above the diagonal some engines write zeros and some what they computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprtui.trace.stats import causal_mask

BLOCK_VALUES = 1 << 15
"""Values a block holds at most (a row of an attention map may be longer): 256 kB as float64, so a few stay in cache."""

Values = NDArray[np.float32]
Positions = Sequence[int] | NDArray[np.intp]


def blocks(values: Values, causal: bool) -> Iterator[tuple[Values, Positions]]:
    """Blocks of `values`, each 1-D, with the flat index of each of their elements.

    `causal` walks `[heads, query, key]` where key ≤ query; else any shape, all elements in row-major order.
    """
    if causal:
        yield from _causal_blocks(values)
        return
    flat = values.reshape(-1)
    for start in range(0, flat.size, BLOCK_VALUES):
        stop = min(start + BLOCK_VALUES, flat.size)
        yield flat[start:stop], range(start, stop)


def _causal_blocks(maps: Values) -> Iterator[tuple[Values, Positions]]:
    heads, queries, keys = maps.shape
    rows = max(1, BLOCK_VALUES // max(1, keys))
    for head in range(heads):
        for first in range(0, queries, rows):
            query, key = np.nonzero(causal_mask(first, min(rows, queries - first), keys))
            yield maps[head, query + first, key], (head * queries + query + first) * keys + key


def unravel(index: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    coordinates: tuple[Any, ...] = np.unravel_index(index, shape)
    return tuple(int(coordinate) for coordinate in coordinates)


FLAT_ROW = 1 << 16
"""Values in a row of a tensor whose shape is unknown; a thread takes one row at a time."""


@dataclass(frozen=True, slots=True)
class Rows:
    """How a tensor is walked: `groups` × `rows` rows, row-major, numbered through; a row is one token (of one head).

    `causal`: row `query` of a head ends at key = query. `flat`: the rows are pieces of one, the last may be short.
    """

    groups: int
    rows: int
    width: int
    size: int
    causal: bool
    flat: bool

    @classmethod
    def of(cls, shape: tuple[int, ...], causal: bool) -> Rows:
        """Rows of `[tokens, width]`, or of `[heads, query, key]` where `causal`; any other shape is walked flat."""
        if causal:
            heads, queries, keys = shape
            lengths = np.minimum(np.arange(1, queries + 1), keys)
            return cls(heads, queries, keys, heads * int(lengths.sum()), causal=True, flat=False)
        if len(shape) == 2:
            return cls(1, shape[0], shape[1], shape[0] * shape[1], causal=False, flat=False)
        size = int(np.prod(shape))
        return cls(1, -(-size // FLAT_ROW), FLAT_ROW, size, causal=False, flat=True)

    @property
    def count(self) -> int:
        return self.groups * self.rows

    @property
    def tokens(self) -> int:
        """Number of tokens: a flat tensor is one."""
        return 1 if self.flat else self.rows

    def lengths(self) -> NDArray[np.int64]:
        if self.causal:
            return np.tile(np.minimum(np.arange(1, self.rows + 1), self.width), self.groups)
        lengths = np.full(self.count, self.width)
        if self.flat and self.rows:
            lengths[-1] = self.size - (self.rows - 1) * self.width
        return lengths

    def position(self, row: int, column: int) -> int:
        """The flat index of a value, row-major, in the compared shape."""
        return row * self.width + column

    def walked(self, values: Values) -> Values:
        """`values` as `[rows, width]` or `[heads, query, key]`; one dimension where flat."""
        return values.reshape(-1) if self.flat else values

    def row(self, values: Values, row: int) -> Values:
        """The values of one row of `walked`."""
        if self.flat:
            return values[row * self.width : (row + 1) * self.width]
        group, token = divmod(row, self.rows)
        return values[group, token, : token + 1] if self.causal else values[token]
