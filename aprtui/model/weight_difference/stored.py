"""A tensor as it lies in a file, of any type that `gguf` knows, and where the bytes of two of them differ.

Unlike `Weight` it asks nothing of the architecture: expert tensors of three dimensions and types that no engine here
computes with can still be compared.
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
        """All dimensions but the fastest, together."""
        return int(self.data.shape[0])

    @property
    def columns(self) -> int:
        """Values of a row."""
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


def same_layout(a: StoredTensor, b: StoredTensor) -> bool:
    """Whether the two have one type and one shape, so that their bytes can be compared."""
    return a.type == b.type and a.shape == b.shape


def equal_bytes(a: StoredTensor, b: StoredTensor) -> bool:
    """Whether the two have one type, one shape and the same bytes; stops at the first range that differs."""
    return same_layout(a, b) and all(np.array_equal(a.data[rows], b.data[rows]) for rows in a.row_ranges())


@dataclass(frozen=True, slots=True)
class BytesDifference:
    """Where the bytes of two tensors of one type and shape differ.

    `first_block` counts blocks within `first_row`; `parts` counts for each part of a quantised block in how many blocks
    it differs, and is empty for types that have no parts.
    """

    rows: int
    blocks: int
    first_row: int
    first_block: int
    parts: Mapping[str, int]


def bytes_difference(a: StoredTensor, b: StoredTensor) -> BytesDifference | None:
    """Where the bytes differ, or None where they are equal; the two must have one type and shape."""
    layout = a.parts
    row_count = block_count = 0
    first: tuple[int, int] | None = None
    parts = dict.fromkeys(layout, 0)
    for rows in a.row_ranges():
        if np.array_equal(a.data[rows], b.data[rows]):
            continue
        differs = a.blocks(rows) != b.blocks(rows)
        differing_blocks = differs.any(axis=2)
        row_count += int(np.count_nonzero(differing_blocks.any(axis=1)))
        block_count += int(np.count_nonzero(differing_blocks))
        for name, part in layout.items():
            parts[name] += int(np.count_nonzero(differs[:, :, part].any(axis=2)))
        if first is None:
            row, block = divmod(int(differing_blocks.argmax()), differing_blocks.shape[1])
            first = rows.start + row, block
    if first is None:
        return None
    return BytesDifference(row_count, block_count, *first, {name: count for name, count in parts.items() if count})
