"""A stage of both sides as three tiles, A, B and B − A, of the same values at the same places; without a screen.

Values are read by position, a part at a time: a capture may be written anew while it is looked at, and a stage may be
larger than the memory that a screen should take.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aprtui.errors import UnreadableError
from aprtui.trace.capture import Capture
from aprtui.trace.graph import Node
from aprtui.trace.stage_reader import StageReader
from aprtui.tui.diff_sides import Sides
from aprtui.tui.tiles import (
    Read,
    Scale,
    ScaleKind,
    Size,
    Viewport,
    finite_range,
    largest,
    magnitudes,
    reduced,
    scale_for,
    showing,
    whole,
    zoomed,
)

Values = NDArray[np.float32]
Cancelled = Callable[[], bool]


def never() -> bool:
    """Nobody cancels."""
    return False


ZOOM = 0.5
"""Of the values a cell, at one step inwards."""


@dataclass(frozen=True, slots=True)
class View:
    """What is seen: `plane` is the head of an attention map, the cursor stands on a value (row, column)."""

    viewport: Viewport = field(default_factory=Viewport)
    plane: int = 0
    row: int = 0
    column: int = 0

    def moved(self, rows: int, columns: int, shape: Size, room: Size) -> View:
        """The cursor moved by cells, the view behind it."""
        row = min(max(self.row + rows * self.viewport.rows_per_cell, 0), max(shape[0] - 1, 0))
        column = min(max(self.column + columns * self.viewport.columns_per_cell, 0), max(shape[1] - 1, 0))
        return replace(self, row=row, column=column, viewport=showing(self.viewport, shape, room, row, column))

    def zoomed(self, inwards: bool, shape: Size, room: Size) -> View:
        """More, or fewer, values a cell, the cursor in the middle."""
        factor = ZOOM if inwards else 1 / ZOOM
        return replace(self, viewport=zoomed(self.viewport, shape, room, factor, self.row, self.column))

    @property
    def cell(self) -> Size:
        """The cell that the cursor is in."""
        return self.viewport.cell(self.row, self.column)


@dataclass(frozen=True, slots=True)
class PairTiles:
    """Levels of A, B and B − A with the scales that they are on: one for both sides, one for the difference."""

    tiles: tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]
    scale: Scale
    difference: Scale


class StagePair:
    """One stage of both sides. Raises `UnreadableError` where the two cannot be laid side by side."""

    def __init__(self, a: StageReader, b: StageReader, axes: tuple[str, ...]) -> None:
        if a.shape != b.shape:
            raise UnreadableError(
                f"A is {_shape(a.shape)}, B {_shape(b.shape)}: not laid side by side here: enter opens B's alone"
            )
        self._readers = (a, b)
        self._axes = axes

    @property
    def shape(self) -> Size:
        """Rows and columns of a plane."""
        return self._readers[0].plane_shape

    @property
    def planes(self) -> int:
        """Heads of an attention map, else 1."""
        return self._readers[0].planes

    def beginning(self, room: Size, cancelled: Cancelled = never) -> tuple[View, PairTiles]:
        """All of the stage, the cursor on the value that differs most, and its tiles: each value is read once."""
        viewport = whole(self.shape, room)
        found = [self._reduced(View(viewport, plane), room, cancelled) for plane in range(self.planes)]
        plane = max(range(self.planes), key=lambda plane: int(magnitudes(found[plane][2]).max(initial=0)))
        differences = magnitudes(found[plane][2])
        if not differences.size:
            return View(viewport), _levels(found[plane])
        down, right = divmod(int(differences.argmax()), differences.shape[1])
        row, column, _ = largest(self._difference(plane), *viewport.values(down, right, self.shape))
        return View(viewport, plane, row, column), _levels(found[plane])

    def tiles(self, view: View, room: Size, cancelled: Cancelled = never) -> PairTiles:
        """The tiles of what `view` shows, at most as large as `room`."""
        return _levels(self._reduced(view, room, cancelled))

    def _reduced(self, view: View, room: Size, cancelled: Cancelled) -> tuple[Values, Values, Values]:
        """A, B and B − A reduced in one pass: the three lie side by side, each filled up to whole cells."""
        viewport = view.viewport
        rows, columns = viewport.cells(self.shape, room)
        seen = slice(viewport.column, min(viewport.column + columns * viewport.columns_per_cell, self.shape[1]))
        width, filled = seen.stop - seen.start, columns * viewport.columns_per_cell

        def read(lines: slice, _: slice) -> Values:
            a, b = (reader.values(lines, seen, view.plane) for reader in self._readers)
            joined = np.zeros((a.shape[0], 3, filled), np.float32)
            joined[:, 0, :width], joined[:, 1, :width] = a, b
            with np.errstate(invalid="ignore", over="ignore"):
                np.subtract(b, a, out=joined[:, 2, :width])
            return joined.reshape(a.shape[0], 3 * filled)

        side_by_side = Viewport(viewport.row, 0, viewport.rows_per_cell, viewport.columns_per_cell)
        tile = reduced(read, (self.shape[0], 3 * filled), side_by_side, (rows, 3 * columns), cancelled)
        a, b, difference = tile.reshape(rows, 3, columns).swapaxes(0, 1)
        return a, b, difference

    def words(self, view: View) -> str:
        """The value under the cursor on both sides, with its bits."""
        row, column = slice(view.row, view.row + 1), slice(view.column, view.column + 1)
        a, b = (float(self._side(side, view.plane)(row, column)[0, 0]) for side in (0, 1))
        names = self._axes[-2:] if len(self._axes) > 1 else ("row", "column")
        place = f"{names[0]} {view.row}, {names[1]} {view.column}"
        place = f"head {view.plane}, {place}" if self.planes > 1 else place
        return f"{place}: A {a:.6g} ({_bits(a)}), B {b:.6g} ({_bits(b)}), B − A {b - a:.3g}"

    def close(self) -> None:
        """Close both files."""
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


def open_pair(sides: Sides, node: Node) -> StagePair:
    """The stage `node` of both sides. Raises `UnreadableError`."""
    if sides.a is None or sides.b is None:
        raise UnreadableError("two stage files are compared as they lie: enter opens B's alone")
    a = _reader(sides.a, node)
    try:
        return StagePair(a, _reader(sides.b, node), tuple(str(axis) for axis in sides.a.graph[node.stage].axes))
    except BaseException:
        a.close()
        raise


def _reader(capture: Capture, node: Node) -> StageReader:
    file = capture.files.get(node)
    if file is None:
        raise UnreadableError(f"{capture.path.name} has no {node}")
    return StageReader(file.path, file.shape)


def open_files(a: Path, b: Path) -> StagePair:
    """Two stage files as one row of values each. Raises `UnreadableError`."""
    left = StageReader(a, None)
    try:
        return StagePair(left, StageReader(b, None), ())
    except BaseException:
        left.close()
        raise


def _levels(values: tuple[Values, Values, Values]) -> PairTiles:
    a, b, difference = values
    both = scale_for(ScaleKind.SYMMETRIC, *finite_range(np.concatenate([a, b])))
    own = scale_for(ScaleKind.SYMMETRIC, *finite_range(difference))
    return PairTiles((both.levels(a), both.levels(b), own.levels(difference)), both, own)


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _bits(value: float) -> str:
    return struct.pack(">f", value).hex()
