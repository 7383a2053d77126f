"""What the threads of the tensor screen read: a tile, a whole plane, a checksum."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from aprtui.progress import Cancelled
from aprtui.trace.aprt import HEADER_BYTES
from aprtui.trace.profile import Profile, profile
from aprtui.tui.draw.tiles import Tiling, reduced
from aprtui.tui.draw.viewport import Viewport
from aprtui.tui.screens.tensor.source import StageSource, TensorSource

BATCH_SECONDS = 0.15
"""A tile that takes longer to read is shown in parts."""

_CRC_CHUNK = 1 << 20
_BAND = 4


@dataclass(frozen=True, slots=True, eq=False)
class TileValues:
    """The values `[rows, columns]` of the cells of a tiling of one plane; the first `known` rows have been read."""

    source: TensorSource
    plane: int
    tiling: Tiling
    numbers: bool
    values: NDArray[np.float32]
    known: int


def read_tile(source: TensorSource, plane: int, viewport: Viewport, cancelled: Cancelled) -> Iterator[TileValues]:
    """The tile that a viewport shows; if it takes long, also the part of it that has been read so far."""
    read, tiling, room = partial(source.read, plane), viewport.tiling, viewport.room
    rows, columns = tiling.cells(source.shape, room)
    values = np.zeros((rows, columns), np.float32)
    last_shown = time.monotonic()
    for first in range(0, rows, _BAND):
        count = min(_BAND, rows - first)
        top = tiling.row + first * tiling.rows_per_cell
        band = Tiling(top, tiling.column, tiling.rows_per_cell, tiling.columns_per_cell)
        values[first : first + count] = reduced(read, source.shape, band, (count, columns), cancelled)
        if cancelled():
            return
        if time.monotonic() - last_shown > BATCH_SECONDS and first + count < rows:
            yield TileValues(source, plane, tiling, viewport.numbers, values.copy(), first + count)
            last_shown = time.monotonic()
    yield TileValues(source, plane, tiling, viewport.numbers, values, rows)


def plane_profile(source: TensorSource, plane: int, cancelled: Cancelled) -> Profile | None:
    """Statistics of a whole plane; None if it was cancelled."""
    found = profile(partial(source.read, plane), source.shape, source.causal, cancelled)
    return None if cancelled() else found


def checksum_problem(source: TensorSource, cancelled: Cancelled) -> str:
    """A problem in words if a stage file is not the one that its manifest describes; else empty."""
    if not isinstance(source, StageSource) or source.crc32 is None:
        return ""
    crc, at, end = 0, 0, HEADER_BYTES + 4 * source.count
    while at < end and not cancelled():
        piece = source.file.read(at, min(_CRC_CHUNK, end - at))
        if not piece:
            break
        crc, at = zlib.crc32(piece, crc), at + len(piece)
    if cancelled() or crc == source.crc32:
        return ""
    return (
        f"{source.file.path}: CRC32 is {crc:08x}, the manifest says {source.crc32:08x}: changed since the capture: "
        "capture again"
    )
