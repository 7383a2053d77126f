"""Reading a stage file by position, a part at a time, for files that may change while they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aprtui.trace.aprt import HEADER_BYTES, AprtError, parse_header
from aprtui.trace.positional import PositionalFile
from aprtui.trace.stats import Accumulator, StageStats, accumulate, causal_mask

BLOCK_VALUES = 1 << 18
"""Values that are read at once where all of a file is: 1 MB."""


class StageReader:
    """A stage file as planes `[rows, columns]`: one of tokens × channels, or one of queries × keys for each head.

    Raises `UnreadableError` for a file that is no stage file, is truncated, or is truncated later.
    """

    def __init__(self, path: Path, shape: tuple[int, ...] | None) -> None:
        """`shape` is `[tokens, width]` or `[heads, query, key]`; None takes all values as one row."""
        self.file = PositionalFile(path)
        try:
            self.layer, self.count = parse_header(path, self.file.read(0, HEADER_BYTES), self.file.size)
            self.shape = shape if shape is not None and len(shape) > 1 else (1, self.count)
            if np.prod(self.shape, dtype=np.int64) != self.count:
                raise AprtError(
                    path, 8, f"header declares {self.count} values, shape {list(self.shape)} needs "
                    f"{np.prod(self.shape, dtype=np.int64)}: the file is not the one that the manifest lists"
                )  # fmt: skip
        except BaseException:
            self.close()
            raise

    @property
    def planes(self) -> int:
        """Number of planes: the heads of an attention map, else one."""
        return self.shape[0] if len(self.shape) == 3 else 1

    @property
    def plane_shape(self) -> tuple[int, int]:
        """Rows and columns of a plane."""
        return self.shape[-2], self.shape[-1]

    def place(self, row: int, column: int, plane: int = 0) -> int:
        """Offset of a value in the file, in bytes."""
        rows, columns = self.plane_shape
        return HEADER_BYTES + 4 * ((plane * rows + row) * columns + column)

    def values(self, rows: slice, columns: slice, plane: int = 0) -> NDArray[np.float32]:
        """The values `[rows, columns]` of a part of a plane."""
        width = self.plane_shape[1]
        count, wanted = rows.stop - rows.start, columns.stop - columns.start
        if count > 1 and 2 * wanted < width:
            part = np.empty((count, wanted), "<f4")
            for index in range(count):
                self.file.fill(part[index], self.place(rows.start + index, columns.start, plane))
            return part
        whole = np.empty((count, width) if count > 1 else (1, wanted), "<f4")
        self.file.fill(whole, self.place(rows.start, 0 if count > 1 else columns.start, plane))
        return whole[:, columns] if count > 1 else whole

    def blocks(self) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
        """All values in file order: plane, first row, and some of its rows."""
        rows, columns = self.plane_shape
        step = max(BLOCK_VALUES // max(columns, 1), 1)
        for plane in range(self.planes):
            for first in range(0, rows, step):
                yield plane, first, self.values(slice(first, min(first + step, rows)), slice(0, columns), plane)

    def close(self) -> None:
        self.file.close()


def reader_stats(reader: StageReader, causal: bool, cancelled: Callable[[], bool] = lambda: False) -> StageStats:
    """Statistics of a whole file; `causal` counts key ≤ query. `cancelled` may end it early."""
    total = Accumulator()
    for _, first, block in reader.blocks():
        if cancelled():
            break
        total.merge(accumulate(block[causal_mask(first, *block.shape)] if causal else block))
    return total.finish()
