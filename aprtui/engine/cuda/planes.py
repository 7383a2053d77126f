"""Weights rearranged for the GPU: blocks whose size no vector load can take become planes.

Blocks of 18, 22, 34 and 210 bytes put every field at an odd address. A matrix of such blocks is stored field by field:
all of its first fields, then all of its second ones, and so on, in as many bytes as before. `kernels/formats.cuh`
reads them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aprtui.model.weight_types import WeightType

_LOAD = 16  # bytes


def in_planes(kind: WeightType) -> bool:
    """Whether matrices of `kind` are rearranged; the others are copied as they lie in the file."""
    return kind.format.is_quantised and kind.format.block_bytes % _LOAD != 0


def _fields(kind: WeightType) -> list[slice]:
    """The bytes of each field of a block in the order of the planes: the widest first, so that all are aligned."""
    found: list[slice] = []
    for field in kind.format.fields:
        start = found[-1].stop if found else 0
        found.append(slice(start, start + field.size))
    return sorted(found, key=lambda bytes_: bytes_.start - bytes_.stop)


def planes(kind: WeightType, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The rows `data` `[rows, row_bytes]` of a matrix of `kind` as the kernels want them, `[rows · row_bytes]`.

    A whole matrix must be given: planes span all of its rows.
    """
    if not in_planes(kind):
        return data.reshape(-1)
    out = np.empty(data.size, np.uint8)
    blocks = data.reshape(-1, kind.format.block_bytes)
    start = 0
    for field in _fields(kind):
        plane = out[start : start + len(blocks) * (field.stop - field.start)].reshape(len(blocks), -1)
        plane[:] = blocks[:, field]
        start += plane.size
    return out
