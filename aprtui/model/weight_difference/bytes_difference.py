"""Where the bytes of two tensors differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from aprtui.model.weights import StoredTensor


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
