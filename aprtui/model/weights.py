"""Tensors as they lie in the file: memory-mapped blocks, dequantised only where values are needed.

A `Weight` is of a type that engines compute with. A `StoredTensor` asks nothing of the architecture: expert tensors of
three dimensions and types that no engine here computes with can still be read and compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.errors import UnreadableError
from aprtui.model.gguf_file import TensorEntry
from aprtui.model.model_file import ModelFile
from aprtui.model.weight_types import BlockPart, WeightType, format_named


@dataclass(frozen=True, slots=True)
class Weight:
    """A matrix `[rows, columns]` (or a vector, rows = 1) in its stored form.

    `data` is a read-only view of the mapped file, `uint8` of shape `[rows, row_bytes]`. The matrices of `experts` lie
    one after the other: `rows` counts those of all.
    """

    name: str
    type: WeightType
    rows: int
    columns: int
    data: NDArray[np.uint8]
    experts: int = 1

    @property
    def expert_rows(self) -> int:
        """Rows of the matrix of one expert."""
        return self.rows // self.experts

    def expert(self, index: int) -> Weight:
        """The matrix of one expert."""
        rows = slice(index * self.expert_rows, (index + 1) * self.expert_rows)
        return Weight(self.name, self.type, self.expert_rows, self.columns, self.data[rows])

    def dequantize(self, rows: slice | Sequence[int] = slice(None)) -> NDArray[np.float32]:
        """The values of `rows` as float32 `[rows, columns]`, bit-equal to `gguf.quants.dequantize`."""
        return dequantized(self.type.name, self.data[rows], self.columns)

    def of_values(self, values: NDArray[np.float32]) -> Weight:
        """The same matrix with other `values` `[rows, columns]`, kept as float32."""
        stored = np.ascontiguousarray(values, np.float32).reshape(self.rows, self.columns).view(np.uint8)
        return Weight(self.name, WeightType.F32, self.rows, self.columns, stored, self.experts)


def dequantized(kind: str, data: NDArray[np.uint8], columns: int) -> NDArray[np.float32]:
    """The values of rows `data` `[rows, row_bytes]` of the type that ggml calls `kind`, as float32 `[rows, columns]`.

    Raises `NotImplementedError` for a type that `gguf` cannot dequantise.
    """
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    with np.errstate(over="ignore", invalid="ignore"):  # scales may be NaN or inf: what comes of them is the value
        values = dequantize(np.ascontiguousarray(data), GGMLQuantizationType[kind])
    return np.asarray(values, np.float32).reshape(-1, columns)


def type_name(number: int) -> str:
    """What ggml calls the element type with that number."""
    from gguf import GGMLQuantizationType

    return GGMLQuantizationType(number).name if number in set(GGMLQuantizationType) else f"number {number}"


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
        row = format_named(self.type)
        return {} if row is None else row.parts

    def has_layout_of(self, other: StoredTensor) -> bool:
        """Whether the two have one type and one shape, so that their bytes can be compared."""
        return self.type == other.type and self.shape == other.shape

    def has_bytes_of(self, other: StoredTensor) -> bool:
        """Whether the two have one layout and the same bytes; stops at the first range that differs."""
        return self.has_layout_of(other) and all(
            np.array_equal(self.data[rows], other.data[rows]) for rows in self.row_ranges()
        )

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


def stored_tensor(file: ModelFile, entry: TensorEntry) -> StoredTensor | None:
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
    rows = math.prod(rest)
    row_bytes = columns // block_values * block_bytes
    data = file.tensor_bytes(entry, rows * row_bytes).reshape(rows, row_bytes)
    shape = tuple(reversed(entry.dimensions))
    return StoredTensor(entry.name, kind.name, shape, data, block_values, block_bytes)
