"""A heatmap: a tile of levels, two rows to a line of the terminal by half blocks, and a cursor on one of its values.

The widget knows nothing of tensors: its owner gives it a tile as large as `room`, reduced by maximum where there are
more values than cells. Lines are built from a table of segments and cached: noise of 200 × 50 cells takes 3 ms; with a
new style for each cell it took 170.
"""

from __future__ import annotations

from typing import ClassVar, cast

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from textual.cache import LRUCache
from textual.events import Click, MouseDown, MouseUp, Resize
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip

from aprtui.tui.draw.colours import EXACT_ZERO, ColourMap, Mark, glyph, level_colours, level_styles
from aprtui.tui.widgets.line_widget import LineWidget

Tile = NDArray[np.uint8]

UPPER = "▀"
CACHED_LINES = 512
_MARK_GLYPHS = {Mark.NAN: "X", Mark.INF: "I", Mark.ABOVE: "+"}


class Heatmap(LineWidget, can_focus=True):
    """Draws a tile `[rows, columns]` of levels 0 … 63 and marks (`Mark`)."""

    PREFIX = "heatmap"
    COMPONENT_CLASSES: ClassVar[set[str]] = {"heatmap--cursor"}
    DEFAULT_CSS = """
    Heatmap { height: 1fr; .heatmap--cursor { color: #000000; background: #ffffff; text-style: bold; } }
    """

    class Pointed(Message):
        """The mouse chose the value at `row`, `column` of the tile."""

        def __init__(self, heatmap: Heatmap, row: int, column: int) -> None:
            super().__init__()
            self.heatmap, self.row, self.column = heatmap, row, column

    class Selected(Message):
        """Cells were selected with the mouse: from one corner to the other, in lines and cells of the widget."""

        def __init__(self, heatmap: Heatmap, first: tuple[int, int], last: tuple[int, int]) -> None:
            super().__init__()
            self.heatmap, self.first, self.last = heatmap, first, last

    class Resized(Message):
        """The size has changed: the owner should give a tile that fits."""

        def __init__(self, heatmap: Heatmap) -> None:
            super().__init__()
            self.heatmap = heatmap

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._tile: Tile = np.empty((0, 0), np.uint8)
        self._map = ColourMap.CIVIDIS
        self._cursor: tuple[int, int] | None = None
        self._version = 0
        self._pressed: tuple[int, int] | None = None
        self.dragged = False
        """Whether the mouse was moved between its last press and release; then the release is no click."""
        self._lines: LRUCache[tuple[int, int, tuple[int, int] | None, int], Strip] = LRUCache(CACHED_LINES)
        self._segments: dict[tuple[int, int], tuple[str, Style]] = {}

    @property
    def room(self) -> tuple[int, int]:
        """Rows and columns of values that can be shown."""
        return self.size.height * (1 if self.plain else 2), self.size.width

    @property
    def tile(self) -> Tile:
        return self._tile

    def show(self, tile: Tile, colour_map: ColourMap, cursor: tuple[int, int] | None = None) -> None:
        """Draw `tile`, with the cursor on one of its values (row, column)."""
        if colour_map is not self._map:
            self._segments.clear()
        self._tile, self._map, self._cursor = tile, colour_map, cursor
        self._version += 1
        self.refresh()

    def move_cursor(self, cursor: tuple[int, int] | None) -> None:
        """Put the cursor on another value of the same tile; draws the two lines that change."""
        old, self._cursor = self._cursor, cursor
        for place in (old, cursor):
            if place is not None:
                self.refresh(Region(0, place[0] // (1 if self.plain else 2), self.size.width, 1))

    def on_resize(self, event: Resize) -> None:
        self.post_message(self.Resized(self))

    def on_mouse_down(self, event: MouseDown) -> None:
        offset = event.get_content_offset(self)
        self._pressed, self.dragged = None if offset is None else (offset.y, offset.x), False

    def on_mouse_up(self, event: MouseUp) -> None:
        offset, pressed = event.get_content_offset(self), self._pressed
        self._pressed = None
        if offset is not None and pressed is not None and pressed != (offset.y, offset.x):
            self.dragged = True
            self.post_message(self.Selected(self, pressed, (offset.y, offset.x)))

    def on_click(self, event: Click) -> None:
        offset = event.get_content_offset(self)
        if offset is not None and not self.dragged:
            row = offset.y * (1 if self.plain else 2)
            if row < self._tile.shape[0] and offset.x < self._tile.shape[1]:
                self.post_message(self.Pointed(self, row, offset.x))

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._version += 1
        self._segments.clear()

    def render_line(self, y: int) -> Strip:
        cursor = self._cursor if self._cursor is not None and self._cursor[0] // (1 if self.plain else 2) == y else None
        key = (y, self._version, cursor, self.size.width)
        if key not in self._lines:
            self._lines[key] = self._draw(y, cursor)
        return self._lines[key]

    def _draw(self, y: int, cursor: tuple[int, int] | None) -> Strip:
        rows, columns = self._tile.shape
        first = y * (1 if self.plain else 2)
        if first >= rows or not columns:
            return Strip.blank(self.size.width, self.style())
        upper = self._tile[first]
        lower = self._tile[first + 1] if not self.plain and first + 1 < rows else None
        segments = list(self._runs(upper, lower))
        strip = Strip(segments)
        if cursor is not None and cursor[1] < columns:
            strip = self._with_cursor(strip, upper, lower, cursor)
        return strip.adjust_cell_length(self.size.width, self.style())

    def _runs(self, upper: Tile, lower: Tile | None) -> list[Segment]:
        """A segment for each run of equal pairs; 255 stands for a missing lower row."""
        pairs = upper.astype(np.int32) << 8 | (255 if lower is None else lower)
        starts = [0, *(np.flatnonzero(np.diff(pairs)) + 1).tolist()]
        segments = []
        for start, stop in zip(starts, [*starts[1:], pairs.size], strict=True):
            text, style = self._cell(int(upper[start]), 255 if lower is None else int(lower[start]))
            segments.append(Segment(text * (stop - start), style))
        return segments

    def _cell(self, upper: int, lower: int) -> tuple[str, Style]:
        """Glyph and style of a pair of levels; a mark that must be seen without colour takes the whole cell."""
        found = self._segments.get((upper, lower))
        if found is None:
            found = self._segments[upper, lower] = self._new_cell(upper, lower)
        return found

    def _new_cell(self, upper: int, lower: int) -> tuple[str, Style]:
        if self.plain:
            return glyph(upper), self.style()
        for mark, text in _MARK_GLYPHS.items():
            if mark in (upper, lower):
                return text, level_styles(self._map, dark=self.dark)[mark]
        return UPPER, Style(color=self._colour(upper), bgcolor=self._colour(lower))

    def _colour(self, level: int) -> Color | None:
        """The colour of a level; the background's where there is nothing to show (255: no row)."""
        colours = level_colours(self._map, dark=self.dark)
        rgb = EXACT_ZERO if level == Mark.ZERO else colours[level] if level < len(colours) else None
        return self.style().bgcolor if rgb is None else Color.from_rgb(*rgb)

    def _with_cursor(self, strip: Strip, upper: Tile, lower: Tile | None, cursor: tuple[int, int]) -> Strip:
        """The line with the cell under the cursor black on white; the black half is the one that is meant."""
        column, second = cursor[1], not self.plain and cursor[0] % 2
        level = int(lower[column] if second and lower is not None else upper[column])
        text = _MARK_GLYPHS.get(cast(Mark, level)) or (glyph(level) if self.plain else "▄" if second else UPPER)
        style = self.style("cursor") + Style(reverse=self.plain)
        cell = Strip([Segment(text, style)])
        return Strip.join([strip.crop(0, column), cell, strip.crop(column + 1)])
