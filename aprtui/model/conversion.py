"""Types of tensors that ggml does not have, and what each is converted to as it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Conversion:
    """How values are stored, and as which ggml type they are read.

    `convert` takes the `prefix` bytes before the blocks and blocks `[…, block_bytes]`, and gives those of the ggml
    type, `[…, bytes]`: `block_values` values of the one become as many of the other.
    """

    name: str
    block_values: int
    block_bytes: int
    ggml_type: int
    convert: Callable[[Bytes, Bytes], Bytes]
    prefix: int = 0

    def row_bytes(self, columns: int) -> int:
        """Bytes that a row of so many values takes in the file: a whole number of blocks."""
        return columns // self.block_values * self.block_bytes

    def converted(self, prefix: Bytes, rows: Bytes) -> Bytes:
        """Rows `[rows, row_bytes]` of the file as those of the ggml type."""
        return self.convert(prefix, rows.reshape(len(rows), -1, self.block_bytes)).reshape(len(rows), -1)
