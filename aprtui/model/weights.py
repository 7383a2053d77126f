"""Weights as they lie in the file: memory-mapped blocks, dequantised only where somebody asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class WeightType(IntEnum):
    """Supported element types, with the numbers that GGUF gives them."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q5_0 = 6
    Q8_0 = 8
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    BF16 = 30


def block_shape(kind: WeightType) -> tuple[int, int]:
    """Values and bytes of one block of `kind`; a row is a whole number of blocks."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    values, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    return values, size


@dataclass(frozen=True, slots=True)
class Weight:
    """A matrix `[rows, columns]` (or a vector, rows = 1) in its stored form.

    `data` is a read-only view of the mapped file, `uint8` of shape `[rows, row_bytes]`.
    """

    name: str
    type: WeightType
    rows: int
    columns: int
    data: NDArray[np.uint8]

    def dequantize(self, rows: slice | Sequence[int] = slice(None)) -> NDArray[np.float32]:
        """The values of `rows` as float32 `[rows, columns]`, bit-equal to `gguf.quants.dequantize`."""
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        blocks = np.ascontiguousarray(self.data[rows])
        return np.asarray(dequantize(blocks, GGMLQuantizationType(self.type)), np.float32).reshape(-1, self.columns)
