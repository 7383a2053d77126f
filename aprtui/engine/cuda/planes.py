"""Weights rearranged for the GPU: blocks whose size no vector load can take become planes.

Blocks of 18, 22, 34 and 210 bytes put every field at an odd address. A matrix of such blocks is stored field by field:
all of its first fields, then all of its second ones, and so on, in as many bytes as before. `kernels/formats.cuh`
reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from aprtui.model.weights import WeightType

# Fields of a block as (first byte, bytes), in the order of the planes: widest loads first, so that all are aligned.
_FIELDS: Mapping[WeightType, tuple[tuple[int, int], ...]] = MappingProxyType(
    {
        WeightType.Q4_0: ((2, 16), (0, 2)),
        WeightType.Q5_0: ((6, 16), (2, 4), (0, 2)),
        WeightType.Q8_0: ((2, 32), (0, 2)),
        WeightType.Q6_K: ((0, 128), (128, 64), (192, 16), (208, 2)),
    }
)


def in_planes(kind: WeightType) -> bool:
    """Whether matrices of `kind` are rearranged; the others are copied as they lie in the file."""
    return kind in _FIELDS


def planes(kind: WeightType, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The rows `data` `[rows, row_bytes]` of a matrix of `kind` as the kernels want them, `[rows · row_bytes]`.

    A whole matrix must be given: planes span all of its rows.
    """
    out = np.empty(data.size, np.uint8)
    if kind not in _FIELDS:
        out[:] = data.reshape(-1)
        return out
    blocks = data.reshape(-1, sum(size for _, size in _FIELDS[kind]))
    start = 0
    for first, size in _FIELDS[kind]:
        plane = out[start : start + len(blocks) * size].reshape(-1, size)
        plane[:] = blocks[:, first : first + size]
        start += plane.size
    return out
