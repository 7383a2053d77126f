"""The two sides of a comparison, and a stage of both as three tiles: A, B and B − A, of the same values. No screen.

Values are read by position, a part at a time: a capture may be written again while it is shown, and a stage may be
larger than the memory that a screen should take.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aprtui.errors import AprtuiError, UnreadableError
from aprtui.progress import Cancelled
from aprtui.recordings.captures.stand_in import open_capture
from aprtui.trace.archive import is_single_file
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph
from aprtui.trace.stage_reader import StageReader
from aprtui.tui.draw.tiles import (
    Read,
    Scale,
    ScaleKind,
    Size,
    Tiling,
    finite_range,
    largest,
    magnitudes,
    reduced,
    scale_for,
)
from aprtui.tui.draw.viewport import Viewport

Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sides:
    """Both captures; None for two stage files, and where one cannot be opened."""

    a: Capture | None
    b: Capture | None
    files: tuple[Path, Path] | None = None
    """Two stage files, where these are compared."""

    @property
    def graph(self) -> StageGraph | None:
        """The graph of a side that says what kinds its layers are of; None where neither does."""
        graphs = (side.graph for side in (self.a, self.b) if side is not None)
        return next((graph for graph in graphs if graph.layer_kinds), None)

    @property
    def swapped(self) -> Sides:
        return Sides(self.b, self.a, None if self.files is None else self.files[::-1])


def open_sides(a: Path, b: Path) -> Sides:
    """Both captures, or both stage files. The comparison itself reports a side that cannot be opened."""
    if is_single_file(a) and is_single_file(b):
        return Sides(None, None, (a, b))
    return Sides(_opened(a), _opened(b))


def _opened(path: Path) -> Capture | None:
    try:
        return open_capture(path, copied=True)
    except (AprtuiError, OSError):
        return None


@dataclass(frozen=True, slots=True)
class PairTiles:
    """Levels of A, B and B − A with the scales that they are on: one for both sides, one for the difference."""

    tiles: tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]
    scale: Scale
    difference: Scale
    words: str
    """How large the values in view are, and how far apart."""


class PairReader:
    """Reads one stage of both sides. Raises `UnreadableError` where the two have different shapes."""

    def __init__(self, a: StageReader, b: StageReader, axes: tuple[str, ...]) -> None:
        if a.shape != b.shape:
            raise UnreadableError(
                f"A is {_shape(a.shape)}, B {_shape(b.shape)}: not laid side by side here: enter opens B's alone"
            )
        self._readers = (a, b)
        self._axes = axes

    @property
    def shape(self) -> Size:
        return self._readers[0].plane_shape

    @property
    def planes(self) -> int:
        return self._readers[0].planes

    def beginning(self, view: Viewport, cancelled: Cancelled = lambda: False) -> tuple[int, Viewport, PairTiles]:
        """The plane of the value that differs most, `view` with the cursor on it, and its tiles.

        `view` is of all values: each is read once.
        """
        found = [self._reduced(view, plane, cancelled) for plane in range(self.planes)]
        plane = max(range(self.planes), key=lambda plane: int(magnitudes(found[plane][2]).max(initial=0)))
        differences = magnitudes(found[plane][2])
        if not differences.size:
            return 0, view, _levels(found[plane])
        down, right = divmod(int(differences.argmax()), differences.shape[1])
        row, column, _ = largest(self._difference(plane), *view.tiling.values(down, right, self.shape))
        return plane, view.at(row, column), _levels(found[plane])

    def tiles(self, view: Viewport, plane: int, cancelled: Cancelled = lambda: False) -> PairTiles:
        return _levels(self._reduced(view, plane, cancelled))

    def _reduced(self, view: Viewport, plane: int, cancelled: Cancelled) -> tuple[Values, Values, Values]:
        """A, B and B − A reduced in one pass: the three lie side by side, each filled up to whole cells."""
        tiling = view.tiling
        rows, columns = tiling.cells(self.shape, view.room)
        seen = slice(tiling.column, min(tiling.column + columns * tiling.columns_per_cell, self.shape[1]))
        width, filled = seen.stop - seen.start, columns * tiling.columns_per_cell

        def read(lines: slice, _: slice) -> Values:
            a, b = (reader.values(lines, seen, plane) for reader in self._readers)
            joined = np.zeros((a.shape[0], 3, filled), np.float32)
            joined[:, 0, :width], joined[:, 1, :width] = a, b
            with np.errstate(invalid="ignore", over="ignore"):
                np.subtract(b, a, out=joined[:, 2, :width])
            return joined.reshape(a.shape[0], 3 * filled)

        side_by_side = Tiling(tiling.row, 0, tiling.rows_per_cell, tiling.columns_per_cell)
        tile = reduced(read, (self.shape[0], 3 * filled), side_by_side, (rows, 3 * columns), cancelled)
        a, b, difference = tile.reshape(rows, 3, columns).swapaxes(0, 1)
        return a, b, difference

    def words(self, view: Viewport, plane: int) -> str:
        """The value under the cursor on both sides, with its bits."""
        if not all(self.shape):
            return "no values"
        row, column = slice(view.row, view.row + 1), slice(view.column, view.column + 1)
        a, b = (float(self._side(side, plane)(row, column)[0, 0]) for side in (0, 1))
        names = self._axes or ("row", "column")
        place = f"{names[0]} {view.row}, {names[1]} {view.column}"
        place = f"head {plane}, {place}" if self.planes > 1 else place
        return f"{place}: A {a:.6g}, B {b:.6g}, B − A {b - a:.3g} (bits {_bits(a)}, {_bits(b)})"

    def close(self) -> None:
        for reader in self._readers:
            reader.close()

    def _side(self, side: int, plane: int) -> Read:
        reader = self._readers[side]
        return lambda rows, columns: reader.values(rows, columns, plane)

    def _difference(self, plane: int) -> Read:
        a, b = self._side(0, plane), self._side(1, plane)

        def read(rows: slice, columns: slice) -> Values:
            with np.errstate(invalid="ignore", over="ignore"):
                return b(rows, columns) - a(rows, columns)

        return read


def open_pair(sides: Sides, node: Node) -> PairReader:
    """The stage `node` of both sides; of two stage files all values as one row. Raises `UnreadableError`."""
    axes: tuple[str, ...] = ()
    if sides.files is not None:
        (a, shape_a), (b, shape_b) = ((path, None) for path in sides.files)
    elif sides.a is None or sides.b is None:
        raise UnreadableError("two stage files are compared as they lie: enter opens B's alone")
    else:
        (a, shape_a), (b, shape_b) = (_file_of(capture, node) for capture in (sides.a, sides.b))
        stage = sides.a.graph[node.stage]
        axes = ("query" if stage.is_attention_map else "token", stage.column_axis)
    left = StageReader(a, shape_a)
    try:
        return PairReader(left, StageReader(b, shape_b), axes)
    except BaseException:
        left.close()
        raise


def _file_of(capture: Capture, node: Node) -> tuple[Path, tuple[int, ...] | None]:
    file = capture.files.get(node)
    if file is None:
        raise UnreadableError(f"{capture.path.name} has no {node}")
    return file.path, file.shape


def _levels(values: tuple[Values, Values, Values]) -> PairTiles:
    a, b, difference = values
    both = scale_for(ScaleKind.SYMMETRIC, *finite_range(np.concatenate([a, b])))
    own = scale_for(ScaleKind.SYMMETRIC, *finite_range(difference))
    tiles = both.levels(a), both.levels(b), own.levels(difference)
    return PairTiles(tiles, both, own, _sizes(np.concatenate([a, b]), difference))


def _sizes(sides: Values, difference: Values) -> str:
    magnitude, distance = (max(map(abs, finite_range(values))) for values in (sides, difference))
    apart = f"B − A up to {distance:.3g}" if distance else "no finite value differs"
    odd = "" if np.isfinite(difference).all() else ", NaN or Inf among them"
    return f"A, B up to {magnitude:.3g}, {apart}{odd}"


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _bits(value: float) -> str:
    return struct.pack(">f", value).hex()
