"""What of a tensor is on the screen, and where the cursor stands: zoom, pan, and how values share the cells there are.

There are three magnifications. Where values are more than cells, a cell stands for several; where they are fewer, a row
takes some lines and a column some cells; and above that, each value has room to be written out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aprtui.tui.draw.tiles import Size, Tiling, panned, showing, whole, zoomed

NUMBER_CELLS = 10
"""Cells of a value that is written out."""

MOST_LINES, MOST_CELLS = 4, 6
"""A row is never higher, a column never wider: what is small should look small."""


@dataclass(frozen=True, slots=True)
class Grain:
    """How values are drawn: so many lines a row (0: two rows share a line, as half blocks), so many cells a column."""

    lines: int
    cells: int
    numbers: bool = False

    def room(self, lines: int, cells: int) -> Size:
        """Rows and columns of values that have room."""
        return (lines // self.lines if self.lines else 2 * lines), cells // self.cells


def grain_for(shape: Size, lines: int, cells: int, *, numbers: bool, plain: bool) -> Grain:
    """The grain at which as much as possible is seen of a tensor of `shape`, as large as it can be.

    `plain` screens have no half blocks.
    """
    if numbers:
        return Grain(1, NUMBER_CELLS, numbers=True)
    high = min(lines // max(shape[0], 1), MOST_LINES)
    wide = min(cells // max(shape[1], 1), MOST_CELLS)
    return Grain(max(high, 1) if plain else high, max(wide, 1))


@dataclass(frozen=True, slots=True)
class Viewport:
    """A tensor of `shape` seen through a widget of so many lines and cells; the cursor is on one of its values."""

    shape: Size
    lines: int
    cells: int
    tiling: Tiling
    row: int = 0
    column: int = 0
    numbers: bool = False
    plain: bool = False

    @classmethod
    def of(cls, shape: Size, lines: int, cells: int, *, plain: bool = False) -> Viewport:
        grain = grain_for(shape, lines, cells, numbers=False, plain=plain)
        return cls(shape, lines, cells, whole(shape, grain.room(lines, cells)), plain=plain)

    @property
    def grain(self) -> Grain:
        return grain_for(self.shape, self.lines, self.cells, numbers=self.numbers, plain=self.plain)

    @property
    def room(self) -> Size:
        """Rows and columns of cells that there are."""
        rows, columns = self.grain.room(self.lines, self.cells)
        return max(rows, 1), max(columns, 1)

    @property
    def is_whole(self) -> bool:
        rows, columns = self.tiling.cells(self.shape, self.room)
        return rows * self.tiling.rows_per_cell >= self.shape[0] and (
            columns * self.tiling.columns_per_cell >= self.shape[1]
        )

    @property
    def is_closest(self) -> bool:
        """Whether a cell stands for a single value."""
        return self.tiling.rows_per_cell == self.tiling.columns_per_cell == 1

    @property
    def cursor_cell(self) -> Size:
        return self.tiling.cell(self.row, self.column)

    @property
    def repeats(self) -> Size:
        """How often a row and a column of cells are repeated in the tile that a heatmap draws."""
        grain = self.grain
        if grain.numbers:
            return 1, 1
        # A line holds two rows of a tile, but one where there are no half blocks.
        return (grain.lines if self.plain else max(2 * grain.lines, 1)), grain.cells

    @property
    def cursor(self) -> Size:
        """The cursor's place in the tile that a heatmap draws: the middle of its cell."""
        down, right = self.repeats
        row, column = self.cursor_cell
        return row * down + (down - 1) // 2, column * right + (right - 1) // 2

    def enlarged(self, levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The tile that a heatmap draws, of the levels of cells."""
        down, right = self.repeats
        return np.repeat(np.repeat(levels, down, axis=0), right, axis=1)

    def resized(self, lines: int, cells: int) -> Viewport:
        """The same for a widget of another size; what was seen whole still is."""
        if self.is_whole and not self.numbers:
            return replace(Viewport.of(self.shape, lines, cells, plain=self.plain), row=self.row, column=self.column)
        view = replace(self, lines=lines, cells=cells)
        fit = whole(self.shape, view.room)
        tiling = replace(
            view.tiling,
            rows_per_cell=min(view.tiling.rows_per_cell, fit.rows_per_cell),
            columns_per_cell=min(view.tiling.columns_per_cell, fit.columns_per_cell),
        )
        return replace(view, tiling=tiling)._in_view()

    def moved(self, rows: int, columns: int) -> Viewport:
        """The cursor moved by cells."""
        return self.at(
            self.row + rows * self.tiling.rows_per_cell, self.column + columns * self.tiling.columns_per_cell
        )

    def at(self, row: int, column: int) -> Viewport:
        """The cursor on another value, brought into view."""
        row = min(max(row, 0), max(self.shape[0] - 1, 0))
        column = min(max(column, 0), max(self.shape[1] - 1, 0))
        return replace(self, row=row, column=column)._in_view()

    def panned(self, rows: int, columns: int) -> Viewport:
        """Other cells in view; the cursor goes along."""
        tiling = panned(self.tiling, self.shape, self.room, rows, columns)
        moved = replace(self, tiling=tiling)
        return moved.at(self.row + tiling.row - self.tiling.row, self.column + tiling.column - self.tiling.column)

    def closer(self) -> Viewport:
        """Half as many values a cell around the cursor; from single values on, numbers."""
        if self.is_closest:
            return self.written_out()
        return replace(self, tiling=zoomed(self.tiling, self.shape, self.room, 0.5, self.row, self.column))

    def farther(self) -> Viewport:
        """Twice as many values a cell."""
        if self.numbers:
            view = replace(self, numbers=False)
            return replace(view, tiling=zoomed(view.tiling, self.shape, view.room, 1, self.row, self.column))
        return replace(self, tiling=zoomed(self.tiling, self.shape, self.room, 2, self.row, self.column))

    def fitted(self) -> Viewport:
        view = Viewport.of(self.shape, self.lines, self.cells, plain=self.plain)
        return replace(view, row=self.row, column=self.column)

    def written_out(self) -> Viewport:
        """Numbers, around the cursor."""
        view = replace(self, numbers=True)
        return replace(view, tiling=zoomed(Tiling(), self.shape, view.room, 1, self.row, self.column))

    def with_zoom(self, rows_per_cell: int, columns_per_cell: int) -> Viewport:
        """So many values a cell, around the cursor."""
        tiling = replace(self.tiling, rows_per_cell=rows_per_cell, columns_per_cell=columns_per_cell)
        return replace(self, tiling=zoomed(tiling, self.shape, self.room, 1, self.row, self.column))

    def pointed(self, row: int, column: int) -> Viewport:
        """The cursor where the mouse points, a place in the tile that a heatmap draws."""
        down, right = self.repeats
        rows, columns = self.tiling.values(row // down, column // right, self.shape)
        return self.at(rows.start, columns.start)

    def framed(self, first: Size, last: Size) -> Viewport:
        """Zoomed in to the rectangle between two places of the widget, each a line and a cell."""
        grain = self.grain
        down = grain.lines or 0.5
        (above, below), (left, right) = (sorted(ends) for ends in zip(first, last, strict=True))
        # The last line is in the frame with all of its rows.
        top, bottom = int(above / down), max(int((below + 1) / down) - 1, int(below / down))
        left, right = left // grain.cells, right // grain.cells
        first_rows, first_columns = self.tiling.values(top, left, self.shape)
        last_rows, last_columns = self.tiling.values(bottom, right, self.shape)
        rows, columns = slice(first_rows.start, last_rows.stop), slice(first_columns.start, last_columns.stop)
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return self
        # One cell less than there is room for: a tiling begins at a whole cell, which may lie before the frame.
        fit = whole((rows.stop - rows.start, columns.stop - columns.start), (self.room[0] - 1, self.room[1] - 1))
        middle = self.at((rows.start + rows.stop) // 2, (columns.start + columns.stop) // 2)
        return middle.with_zoom(fit.rows_per_cell, fit.columns_per_cell)

    def _in_view(self) -> Viewport:
        return replace(self, tiling=showing(self.tiling, self.shape, self.room, self.row, self.column))


def rows_of_line(view: Viewport, line: int) -> slice:
    """The rows of values that a line shows; empty below the last one."""
    grain, tiling = view.grain, view.tiling
    first = line // grain.lines if grain.lines else 2 * line
    count = 1 if grain.lines else 2
    top = tiling.row + first * tiling.rows_per_cell
    return slice(min(top, view.shape[0]), min(top + count * tiling.rows_per_cell, view.shape[0]))


def zoom_words(view: Viewport) -> str:
    """How much of the tensor is seen, in words."""
    rows, columns = view.tiling.rows_per_cell, view.tiling.columns_per_cell
    if view.numbers:
        return "numbers"
    whole_text = "whole" if view.is_whole else "part"
    return f"{whole_text}, a cell a value" if view.is_closest else f"{whole_text}, {rows}×{columns} values a cell"


def ruler(view: Viewport, width: int) -> str:
    """Numbers of columns above the cells that show them, as many as have room."""
    line, at = [" "] * width, 0
    cells, per_cell = view.grain.cells, view.tiling.columns_per_cell
    count = view.tiling.cells(view.shape, view.room)[1]
    for cell in range(count):
        text = str(view.tiling.column + cell * per_cell)
        start = cell * cells
        # A number stands where its column begins; some space must be left between two.
        if start >= at and start + len(text) <= width:
            line[start : start + len(text)] = text
            at = start + max(len(text) + 2, 8 if not view.numbers else 0)
    return "".join(line)
