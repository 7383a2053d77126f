"""Weights as they lie in the file: memory-mapped blocks, dequantised only where values are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.model.weight_types import WeightType


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
        return dequantized(self.type.name, self.data[rows], self.columns)


def dequantized(kind: str, data: NDArray[np.uint8], columns: int) -> NDArray[np.float32]:
    """The values of rows `data` `[rows, row_bytes]` of the type that ggml calls `kind`, as float32 `[rows, columns]`.

    Raises `NotImplementedError` for a type that `gguf` cannot dequantise.
    """
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    values = dequantize(np.ascontiguousarray(data), GGMLQuantizationType[kind])
    return np.asarray(values, np.float32).reshape(-1, columns)
