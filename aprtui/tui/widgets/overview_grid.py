"""A grid of layers with two views: a line for each layer, and an overview with up to four layers a line."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from rich.segment import Segment
from textual.geometry import Size
from textual.strip import Strip

from aprtui.trace.graph.stage import Node
from aprtui.tui.draw.grid_layout import code_rows, header_rows
from aprtui.tui.draw.overview import (
    ABSENT,
    CODE_WIDTH,
    LEAST_WIDTH,
    WIDEST,
    Outlines,
    OverviewPaint,
    OverviewPalette,
    pair_at,
    plain_columns,
)  # fmt: skip
from aprtui.tui.widgets.layer_grid import LABEL, LayerGrid


class GridView(StrEnum):
    """How a grid shows its layers."""

    NUMBERS = "numbers"
    OVERVIEW = "overview"


class OverviewGrid(LayerGrid):
    """Shows the overview where not all layers have room with a line each, unless one of the views is asked for.

    Beside what a `LayerGrid` asks of it, a subclass gives the levels of its cells and their `palette`, and says how
    many lines stand `below` the rows of a view, and how much `room` a view may take.
    """

    LEAST_CELL: ClassVar[int] = LayerGrid.NARROWEST
    """Where cells are narrower, the overview is shown."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._view: GridView | None = None
        self._in_overview: tuple[Size, bool] | None = None
        self._paints: dict[tuple[int, int], OverviewPaint] = {}

    @property
    def view(self) -> GridView:
        """The view that is shown."""
        return GridView.OVERVIEW if self._overview else GridView.NUMBERS

    @property
    def wanted_view(self) -> GridView | None:
        """The view that was asked for; None where the room decides."""
        return self._view

    def show_view(self, view: GridView | None) -> None:
        self._view = view
        self.change_lines()

    def change_lines(self) -> None:
        """Draw everything again: what stands on which line has changed, and maybe the height."""
        self.forget_lines()
        if self._has_cells:
            self._scroll()
        self.refresh(layout=True)

    def palette(self) -> OverviewPalette:
        """What the levels look like."""
        raise NotImplementedError

    def levels(self, rows: range) -> NDArray[np.uint8] | int:
        """The levels of the cells of `rows`, `[rows, columns]`, or one of all."""
        raise NotImplementedError

    def outlined(self) -> Collection[Node]:
        """The stages whose cells are outlined."""
        return ()

    def below(self, width: int, overview: bool) -> int:
        """How many lines there are below the rows of a view in a grid of this width."""
        raise NotImplementedError

    def room(self, view: GridView, container: Size, viewport: Size) -> int:
        """How many lines the content of the grid may have within its container."""
        raise NotImplementedError

    def lines_below(self, width: int) -> int:
        return self.below(width, self._overview)

    def has_room_for_all(self, width: int) -> bool:
        """Also without lines between the groups, where the overview may be shown."""
        without = LABEL + LEAST_WIDTH * len(self._all_columns)
        return super().has_room_for_all(width) or (self.may_show_overview and width >= without)

    @property
    def may_show_overview(self) -> bool:
        return self._view is not GridView.NUMBERS

    @property
    def scrolled_cell(self) -> int:
        return self.LEAST_CELL if self._view is GridView.NUMBERS else self.NARROWEST

    # The views

    @property
    def _overview(self) -> bool:
        size = self.size
        if self._in_overview is None or self._in_overview[0] != size:
            self._in_overview = size, self._overview_at(size)
        return self._in_overview[1]

    def _overview_at(self, size: Size) -> bool:
        """Whether a grid of this size shows the overview."""
        if self._widths(size.width, overview=True)[0] < LEAST_WIDTH or not self.may_show_overview:
            return False
        return self._view is GridView.OVERVIEW or self._prefers_overview(size)

    def _prefers_overview(self, size: Size) -> bool:
        cell = self._widths(size.width, overview=False)[0]
        return cell < self.LEAST_CELL or self._lines_of_numbers(size.width) > size.height

    def _lines_of_numbers(self, width: int) -> int:
        """How many lines the view with a line for each layer needs."""
        cell = self._widths(width, overview=False)[0]
        return len(self._draw_names(cell)) + self._row_count + self.below(width, overview=False)

    def _lines_beside_rows(self, width: int) -> int:
        """The lines of the overview that show no layers."""
        codes = code_rows(self._columns, self._widths(width, overview=True)[0])
        return len(codes) + self.below(width, overview=True)

    def _widths(self, width: int, overview: bool) -> tuple[int, int]:
        """The cells of a column in a grid of `width` cells, and of what stands at the right of the rows."""
        most = WIDEST if overview else self.WIDEST
        separated = not overview or self._has_separators(width)
        room = self._room_of_columns(width) if separated else self._room_beside_label(width)
        return min(room // max(len(self.window(width)), 1), most), 0

    def _has_separators(self, width: int) -> bool:
        """Whether an overview of `width` cells has room for lines between its groups."""
        return self._room_of_columns(width) >= CODE_WIDTH * len(self.window(width))

    @property
    def _groups_in_view(self) -> Sequence[tuple[str, int]]:
        return () if self._overview and not self._has_separators(self.size.width) else self._groups

    def _cell_width(self, width: int) -> int:
        return self._widths(width, self._overview)[0]

    def rows_a_line(self, size: Size) -> int:
        return self._rows_in(size) if self._overview_at(size) else 1

    def _rows_in(self, size: Size) -> int:
        """How many layers of the overview share a line: two where all of them have room then, else four.

        Glyphs stand side by side: of them, three have room beside a blank.
        """
        if self._lines_beside_rows(size.width) + self._lines_of_rows(2) <= size.height:
            return 2
        if self.plain:
            return min(max(self._widths(size.width, overview=True)[0] - 1, 2), 3)
        return 4

    def row_at(self, first: int, x: int) -> int:
        """Of the two layers that stand above one another, a second click means the other."""
        if not self._overview:
            return first
        rows = self._lines.rows
        upper = first + 2 * pair_at(rows, self._cell_width(self.size.width), x)
        lower = min(upper + 1, first + rows - 1, self._row_count - 1)
        return lower if self._row_of(self._cursor) == upper else upper

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        if not self._has_cells:
            return super().get_content_height(container, viewport, width)
        room = {view: self.room(view, container, viewport) for view in GridView}
        if not self._overview_at(Size(width, room[GridView.NUMBERS])):
            wanted = self._lines_of_numbers(width) + self.LINES_ABOVE
            return min(wanted if self._fits(width) else self.EMPTY_HEIGHT, room[GridView.NUMBERS])
        rows = self._rows_in(Size(width, room[GridView.OVERVIEW]))
        wanted = self._lines_beside_rows(width) + self.LINES_ABOVE + self._lines_of_rows(rows)
        return min(wanted, room[GridView.OVERVIEW])

    def forget_lines(self) -> None:
        super().forget_lines()
        self._in_overview = None

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._paints.clear()

    # Drawing

    def _draw_head(self, width: int) -> list[Strip]:
        """Names of groups and stages; in the overview, codes."""
        if not self._overview:
            return self._draw_names(width)
        rows = self._header_segments(code_rows(self._columns, width))
        return [Strip(self._header_line(row, self._groups_in_view)) for row in rows]

    def _draw_names(self, width: int) -> list[Strip]:
        """The lines above the rows in the view with a line for each layer."""
        return self.head_of(header_rows(self._columns, width), width)

    def overview_segments(self, row: int) -> list[Segment]:
        """The line of the overview that begins with `row`: the number of a layer, and the cells of all."""
        lines = self._lines
        rows = range(row, min(row + lines.rows, self._row_count))
        at = self._row_of(self._cursor)
        cursor = None if at is None or at not in rows or not self.marks_cursor else self._cursor
        layer = self._layers[rows[0]] if cursor is None else cursor.layer
        assert layer is not None
        text, group = self.layer_label(layer), self.style("group")
        number = text.strip()
        before = text.index(number)
        label = [
            Segment(text[:before], group),
            Segment(number, group if cursor is None else self.style("cursor-label")),
            Segment(text[before + len(number) :], group),
        ]
        levels = np.full((lines.rows, len(self._all_columns)), ABSENT, np.uint8)
        levels[: len(rows)] = self.levels(rows)
        window = self.window(lines.size.width)
        levels = np.ascontiguousarray(levels[:, window.start : window.stop])
        places = ((self._row_of(node), node) for node in self.outlined() if node.stage in self._columns)
        outlines = Outlines(
            [self._place(node, rows) for at, node in places if at in rows],
            None if cursor is None else self._place(cursor, rows),
        )
        cells = self.overview_cells(levels, outlines, self._cell_width(lines.size.width))
        groups = (
            [segment for cell in group for segment in cell] for group in self._by_group(cells, self._groups_in_view)
        )
        return [*label, *self._separated("", groups)[1:]]

    @property
    def marks_cursor(self) -> bool:
        """Whether the cursor is seen."""
        return True

    def overview_cells(self, levels: NDArray[np.uint8], outlines: Outlines, width: int) -> list[list[Segment]]:
        """Cells of `width` for `levels` `[rows, columns]`, which share a line."""
        if self.plain:
            return plain_columns(levels, outlines, self.palette(), width, self.style())
        shape = len(levels), width
        if shape not in self._paints:
            self._paints[shape] = OverviewPaint(self.palette(), self.background, *shape, dark=self.dark)
        return self._paints[shape].columns(levels, outlines)

    def _place(self, node: Node, rows: range) -> tuple[int, int]:
        """Layer and column of a stage in a line of the overview."""
        return self._row_of_layer[node.layer or 0] - rows.start, self._columns.index(node.stage)
