"""A tensor as it lies in a file, of any type that `gguf` knows.

Unlike `Weight` it asks nothing of the architecture: expert tensors of three dimensions and types that no engine here
computes with can still be read and compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.errors import UnreadableError
from aprtui.model.gguf_file import GgufFile, TensorEntry
from aprtui.model.weight_types import BlockPart, format_named
from aprtui.model.weights import dequantized

BLOCK_VALUES = 1 << 15
"""Values of a tensor that are compared together, so that all scratch arrays stay in the cache.

A Q4_K against a Q8_0 tensor, interleaved on a shared core: 2¹⁵ takes 17 ns a value, 2¹⁴ 22, 2¹⁶ 35, 2¹⁷ 42.
"""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as a matrix `[rows, columns]`: columns are its fastest dimension, rows all others together.

    `shape` is `[rows, columns]` with the dimensions of the rows kept apart, slowest first. `data` is a read-only view
    of the mapped file, `uint8` of shape `[rows, row_bytes]`; a block is `block_values` values in `block_bytes` bytes.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]
    block_values: int
    block_bytes: int

    @property
    def rows(self) -> int:
        return int(self.data.shape[0])

    @property
    def columns(self) -> int:
        return self.shape[-1]

    @property
    def parts(self) -> Mapping[BlockPart, slice]:
        """Bytes of each part of a block; empty for types without parts."""
        row = format_named(self.type)
        return {} if row is None else row.parts

    def row_ranges(self) -> Iterator[slice]:
        """The rows in ranges of about `BLOCK_VALUES` values."""
        step = max(1, BLOCK_VALUES // self.columns)
        for start in range(0, self.rows, step):
            yield slice(start, min(start + step, self.rows))

    def values(self, rows: slice) -> NDArray[np.float32]:
        """The values of `rows`, float32 `[rows, columns]`. Raises `NotImplementedError` where `gguf` cannot tell."""
        return dequantized(self.type, self.data[rows], self.columns)

    def blocks(self, rows: slice) -> NDArray[np.uint8]:
        """The blocks of `rows`, `[rows, blocks, block_bytes]`."""
        part = self.data[rows]
        return part.reshape(part.shape[0], -1, self.block_bytes)


def stored_tensor(file: GgufFile, entry: TensorEntry) -> StoredTensor | None:
    """One tensor of the file, or None where `gguf` does not know its type, so that its size is not known either.

    Raises `UnreadableError` where its shape does not fit its type or its bytes lie outside the file.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if entry.type not in set(GGMLQuantizationType):
        return None
    kind = GGMLQuantizationType(entry.type)
    block_values, block_bytes = GGML_QUANT_SIZES[kind]
    columns, *rest = entry.dimensions
    if columns % block_values:
        raise UnreadableError(
            f"{file.path}: tensor {entry.name} has rows of {columns} values, expected a multiple of {block_values} "
            f"for {kind.name}"
        )
    rows = 1
    for extent in rest:
        rows *= extent
    row_bytes = columns // block_values * block_bytes
    data = file.tensor_bytes(entry, rows * row_bytes).reshape(rows, row_bytes)
    shape = tuple(reversed(entry.dimensions))
    return StoredTensor(entry.name, kind.name, shape, data, block_values, block_bytes)
