"""The heatmap of the tensor screen: at the highest zoom its values are written out in its cells."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click, MouseScrollDown, MouseScrollUp
from textual.message import Message
from textual.strip import Strip

from aprtui.tui.draw.colours import LEVELS, ColourMap, Mark, glyph, level_colours, level_styles, on_colour
from aprtui.tui.draw.numbers import number
from aprtui.tui.draw.viewport import NUMBER_CELLS
from aprtui.tui.widgets.heatmap import Heatmap, Tile
from aprtui.tui.widgets.line_widget import LineWidget
from aprtui.tui.widgets.moves import COLUMNS, ENDS, MOVES, PAGES


class TensorMap(Heatmap):
    """Draws levels, or the values themselves on the colours of their levels, and posts the moves of the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "choose", "Zoom to value"),
        # The same actions as those of tables and stage grids: the same keys stand for one thing.
        Binding("up,k", "move(-1, 0)", "Row above", show=False, group=MOVES),
        Binding("down,j", "move(1, 0)", "Row below", show=False, group=MOVES),
        Binding("left,h", "move(0, -1)", "Column before", show=False, group=MOVES),
        Binding("right,l", "move(0, 1)", "Column after", show=False, group=MOVES),
        Binding("pageup", "move(-10, 0)", "Ten rows up", show=False, group=PAGES),
        Binding("pagedown", "move(10, 0)", "Ten rows down", show=False, group=PAGES),
        Binding("shift+left", "move(0, -10)", "Ten columns back", show=False, group=COLUMNS),
        Binding("shift+right", "move(0, 10)", "Ten columns on", show=False, group=COLUMNS),
        Binding("home", "move_to(0)", "First column", show=False, group=ENDS),
        Binding("end", "move_to(-1)", "Last column", show=False, group=ENDS),
    ]

    class Moved(Message):
        """The user moves the cursor by so many cells; `end` is 0 or −1 for the first or the last column."""

        def __init__(self, rows: int, columns: int, end: int | None = None) -> None:
            super().__init__()
            self.rows, self.columns, self.end = rows, columns, end

    class Chosen(Message):
        """The value under the cursor was chosen."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._numbers: NDArray[np.float32] | None = None

    def show(
        self,
        tile: Tile,
        colour_map: ColourMap,
        cursor: tuple[int, int] | None = None,
        numbers: NDArray[np.float32] | None = None,
    ) -> None:
        """Draw levels, or `numbers` of the same shape on the colours of their levels."""
        self._numbers = numbers
        super().show(tile, colour_map, cursor)

    def move_cursor(self, cursor: tuple[int, int] | None) -> None:
        if self._numbers is None:
            super().move_cursor(cursor)
        else:
            self._cursor = cursor
            self.refresh()

    def action_move(self, rows: int, columns: int) -> None:
        self.post_message(self.Moved(rows, columns))

    def action_move_to(self, end: int) -> None:
        self.post_message(self.Moved(0, 0, end))

    def action_choose(self) -> None:
        self.post_message(self.Chosen())

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        event.stop()
        self.action_move(1, 0)

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        event.stop()
        self.action_move(-1, 0)

    def on_click(self, event: Click) -> None:
        """Point at a value that is written out; at a level, the handler of all heatmaps points."""
        if self._numbers is None or self.dragged:
            return
        event.prevent_default()
        offset = event.get_content_offset(self)
        if offset is not None:
            row, column = offset.y, offset.x // NUMBER_CELLS
            if row < self._numbers.shape[0] and column < self._numbers.shape[1]:
                self.post_message(self.Pointed(self, row, column))

    def render_line(self, y: int) -> Strip:
        numbers = self._numbers
        if numbers is None:
            return super().render_line(y)
        width, base = self.size.width, self.style()
        if y >= numbers.shape[0]:
            return Strip.blank(width, base)
        styles = level_styles(self._map, dark=self.dark)
        segments = []
        for column, (value, level) in enumerate(zip(numbers[y].tolist(), self._tile[y].tolist(), strict=True)):
            style = base if self.plain else base + styles[level]
            if self._cursor == (y, column):
                style = self.style("cursor") + Style(reverse=self.plain)
            text = "·" if level == Mark.MISSING else number(value, 4)
            segments.append(Segment(f"{text:>{NUMBER_CELLS - 1}} ", style))
        return Strip(segments).adjust_cell_length(width, base)


class ColourBar(LineWidget):
    """The colours from one end of the scale to the other, with the numbers of both and what the marks mean."""

    PREFIX = "colour-bar"
    COMPONENT_CLASSES: ClassVar[set[str]] = {"colour-bar--words"}
    DEFAULT_CSS = """
    ColourBar {
        height: 1;
        .colour-bar--words { color: $foreground 66%; }
        &:nocolor .colour-bar--words { text-style: dim; }
    }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._map = ColourMap.CIVIDIS
        self._ends = ("", "")
        self._words = ""
        self._zero: float | None = None

    def show(self, colour_map: ColourMap, ends: tuple[str, str], words: str, zero: float | None = None) -> None:
        """Show the colours between `ends`, with a mark at the share `zero` of the way if there is one."""
        self._map, self._ends, self._words, self._zero = colour_map, ends, words, zero
        self.refresh()

    @property
    def text(self) -> str:
        return f"{self._ends[0]} … {self._ends[1]}  {self._words}"

    def render_line(self, y: int) -> Strip:
        width, base = self.size.width, self.style()
        if not self._ends[0]:
            return Strip.blank(width, base)
        left, right = f"{self._ends[0]} ", f" {self._ends[1]}  "
        room = max(min(width - len(left) - len(right) - len(self._words), 32), 8)
        colours = level_colours(self._map, dark=self.dark)
        segments = [Segment(left, base)]
        at_zero = None if self._zero is None else min(int(self._zero * room), room - 1)
        for cell in range(room):
            level = cell * (LEVELS - 1) // max(room - 1, 1)
            text = "0" if cell == at_zero else glyph(level) if self.plain else " "
            segments.append(Segment(text, base if self.plain else on_colour(colours[level] or (0, 0, 0))))
        segments += [Segment(right, base), Segment(self._words, self.style("words"))]
        return Strip(segments).adjust_cell_length(width, base)
