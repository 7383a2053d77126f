"""Walking a stage tensor in blocks, so that memory stays bounded whatever its size.

Attention maps count where key ≤ query only: above the diagonal some engines write zeros and some what they computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_VALUES = 1 << 15
"""Values a block holds at most (a row of an attention map may be longer): 256 kB as float64, so a few stay in cache."""

Values = NDArray[np.float32]
Positions = Sequence[int] | NDArray[np.intp]


def blocks(values: Values, causal: bool) -> Iterator[tuple[Values, Positions]]:
    """Blocks of `values`, each 1-D, with the flat index of each of their elements.

    `causal` walks `[heads, query, key]` where key ≤ query; else any shape, all elements in row-major order.
    """
    yield from _causal_blocks(values) if causal else _flat_blocks(values)


def _flat_blocks(values: Values) -> Iterator[tuple[Values, Positions]]:
    flat = values.reshape(-1)
    for start in range(0, flat.size, BLOCK_VALUES):
        stop = min(start + BLOCK_VALUES, flat.size)
        yield flat[start:stop], range(start, stop)


def _causal_blocks(maps: Values) -> Iterator[tuple[Values, Positions]]:
    heads, queries, keys = maps.shape
    rows = max(1, BLOCK_VALUES // max(1, keys))
    for head in range(heads):
        for first in range(0, queries, rows):
            query, key = np.nonzero(np.arange(keys) <= np.arange(first, min(first + rows, queries))[:, None])
            yield maps[head, query + first, key], (head * queries + query + first) * keys + key


def causal_size(shape: tuple[int, ...]) -> int:
    """Number of elements of `[heads, T, T]` with key ≤ query."""
    heads, tokens, _ = shape
    return heads * tokens * (tokens + 1) // 2


def unravel(index: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Coordinates of the flat `index` in `shape`."""
    coordinates: tuple[Any, ...] = np.unravel_index(index, shape)
    return tuple(int(coordinate) for coordinate in coordinates)
