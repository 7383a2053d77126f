"""A table of texts with a cursor on one of its rows. Only what is in view is drawn: thousands of rows cost nothing."""

from __future__ import annotations

import textwrap
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.events import Click, MouseScrollDown, MouseScrollUp, Resize
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip

from aprtui.tui.draw.text import clipped, clipped_start, padded
from aprtui.tui.widgets.jump_targets import JumpPlace, JumpTargets
from aprtui.tui.widgets.moves import ENDS, MOVES, PAGES

GAP = 2
"""Cells between columns."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    If there is no room for all, those with the highest `rank` are left out; one that `grows` is clipped, at its
    beginning if its end matters more. Before others are left out, it is not cut below its `least` width. In rows that
    do not stand out themselves, its cells have its `tone`.
    """

    title: str
    right: bool = False
    grows: bool = False
    rank: int = 0
    end_matters: bool = False
    least: int = 18
    tone: Tone | None = None


class Tone(StrEnum):
    """How a row stands out."""

    PLAIN = "plain"
    MUTED = "muted"
    MARKED = "marked"
    BAD = "bad"
    GOOD = "good"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class Row:
    """A row, and the `key` by which its owner knows it; `first` is the tone of its first cell, if it has its own."""

    key: Hashable
    cells: tuple[str, ...]
    tone: Tone = Tone.PLAIN
    first: Tone | None = None


class Table(JumpTargets, can_focus=True):
    """Shows rows below a line of titles; where there are none, it says what to do."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "choose", "Open"),
        # The same actions as those of a stage grid, which has columns too: a key means one thing.
        Binding("up,k", "move(-1, 0)", "Row above", show=False, group=MOVES),
        Binding("down,j", "move(1, 0)", "Row below", show=False, group=MOVES),
        Binding("pageup", "move(-10, 0)", "Ten rows up", show=False, group=PAGES),
        Binding("pagedown", "move(10, 0)", "Ten rows down", show=False, group=PAGES),
        Binding("home", "move_to(0)", "First row", show=False, group=ENDS),
        Binding("end", "move_to(-1)", "Last row", show=False, group=ENDS),
    ]
    PREFIX = "table"
    COMPONENT_CLASSES: ClassVar[set[str]] = {f"table--{name}" for name in ("head", "cursor", "resting", *Tone)}
    DEFAULT_CSS = """
    Table {
        .table--head { color: $text-muted; text-style: bold; }
        .table--plain { color: $foreground; }
        .table--muted { color: $text-muted; }
        .table--marked { color: $accent; text-style: bold; }
        .table--bad { color: $error; }
        .table--good { color: $success; text-style: bold; }
        .table--unsure { color: $foreground; text-style: bold; }
        .table--cursor { color: $background; background: $accent; text-style: bold; }
        .table--resting { background: $boost; text-style: bold; }
        &:nocolor .table--cursor { text-style: reverse bold; }
        &:nocolor .table--resting { text-style: bold underline; }
    }
    """

    class Pointed(Message):
        """The cursor stands on another row."""

        def __init__(self, table: Table) -> None:
            super().__init__()
            self.table = table

        @property
        def control(self) -> Table:
            return self.table

    class Chosen(Pointed):
        """The row under the cursor was chosen, by enter or by a click on it."""

    def __init__(self, columns: Sequence[Column], empty: str = "", *, id: str | None = None) -> None:
        super().__init__(id=id, classes="pane")
        self.empty = empty
        self._columns = tuple(columns)
        self._rows: Sequence[Row] = ()
        self._needed: list[int] = []
        self._widths: list[int] | None = None
        self._cursor = 0
        self._first = 0

    @property
    def rows(self) -> Sequence[Row]:
        return self._rows

    @property
    def key(self) -> Hashable | None:
        """The key of the row under the cursor; None where there is no row."""
        return self._rows[self._cursor].key if self._rows else None

    def show(self, rows: Sequence[Row], columns: Sequence[Column] | None = None) -> None:
        """Show other rows; the cursor stays on the row with the same key where there is one."""
        before, height = self.key, len(self._rows)
        self._columns = self._columns if columns is None else tuple(columns)
        self._rows = rows
        cells = [column.title for column in self._columns], *(row.cells for row in rows)
        self._needed = [max(map(cell_len, texts), default=0) for texts in zip(*cells, strict=True)]
        self._widths = None
        places = [index for index, row in enumerate(rows) if row.key == before]
        self._put(places[0] if places else min(self._cursor, max(len(rows) - 1, 0)))
        if self.key != before:
            self.post_message(self.Pointed(self))
        # Unless the height is that of the rows, their number does not change the layout.
        grows = self.styles.height is not None and self.styles.height.is_auto
        self.refresh(layout=grows and len(rows) != height)

    def point(self, key: Hashable) -> bool:
        """Put the cursor on the row with `key`, without a message; returns whether there is one."""
        places = [index for index, row in enumerate(self._rows) if row.key == key]
        if places:
            self._put(places[0])
        return bool(places)

    def action_move(self, rows: int, columns: int = 0) -> None:
        """Move the cursor by rows; it has no column."""
        self.action_move_to(self._cursor + rows, wrap=False)

    def action_move_to(self, row: int, wrap: bool = True) -> None:
        """Put the cursor on a row; negative numbers count from the end where they `wrap`."""
        if not self._rows:
            return
        row = row + len(self._rows) if row < 0 and wrap else row
        before = self._cursor
        self._put(min(max(row, 0), len(self._rows) - 1))
        if self._cursor != before:
            self.post_message(self.Pointed(self))

    def action_choose(self) -> None:
        if self._rows:
            self.post_message(self.Chosen(self))

    def jump_places(self) -> list[JumpPlace]:
        in_view = range(self._first, min(self._first + self._height, len(self._rows)))
        return [JumpPlace(row - self._first + 1, 0, self.size.width, row) for row in in_view]

    def jump_to(self, target: Hashable) -> None:
        assert isinstance(target, int)
        self.action_move_to(target)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """All rows and their titles; at least the lines of the text for an empty table."""
        return max(len(self._rows) + 1 if self._rows else len(self._empty_lines(width)), 4)

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        self.action_move(1)

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        self.action_move(-1)

    def on_click(self, event: Click) -> None:
        offset = event.get_content_offset(self)
        if offset is None or not 1 <= offset.y <= min(self._height, len(self._rows) - self._first):
            return
        row = self._first + offset.y - 1
        if row == self._cursor:
            self.action_choose()
        else:
            self.action_move_to(row)

    def on_resize(self, event: Resize) -> None:
        self._widths = None
        self._put(self._cursor)

    def draw_line(self, y: int) -> Strip:
        width, base = self.size.width, self.style()
        if not self._rows:
            lines = self._empty_lines(width)
            text = lines[y] if y < len(lines) else ""
            return Strip([Segment(text, self.style(Tone.MUTED))]).adjust_cell_length(width, base)
        if y == 0:
            text = self._line([column.title for column in self._columns])
            return Strip([Segment(text, self.style("head"))]).adjust_cell_length(width, base)
        index = self._first + y - 1
        if index >= len(self._rows):
            return Strip.blank(width, base)
        row = self._rows[index]
        style = self.style(row.tone)
        if index == self._cursor:
            style += self.style("cursor" if self.has_focus else "resting", partial=True)
            return Strip([Segment(set_cell_size(self._line(row.cells), width), style)])
        return Strip(list(self._toned(row))).adjust_cell_length(width, base)

    def _empty_lines(self, width: int) -> list[str]:
        return [part for line in self.empty.splitlines() for part in textwrap.wrap(line, max(width, 10)) or [""]]

    @property
    def _height(self) -> int:
        return max(self.size.height - 1, 1)

    def _put(self, row: int) -> None:
        self._cursor = row
        if self.size.height:  # else there is no layout yet, and rows before the cursor may have room
            first = min(max(self._first, row - self._height + 1), row)
            self._first = max(0, min(first, len(self._rows) - self._height))
        place = f"{row + 1} of {len(self._rows)}" if self._rows else ""
        if self.border_subtitle != place:
            self.border_subtitle = place
        self.refresh()

    def _line(self, cells: Sequence[str]) -> str:
        widths = self._column_widths()
        return (" " * GAP).join(
            _fitted(text, width, column)
            for text, width, column in zip(cells, widths, self._columns, strict=True)
            if width
        )

    def _toned(self, row: Row) -> Iterator[Segment]:
        """The cells of a row, each in its tone: that of the row's first cell, of the row, or of the column."""
        gap, first = "", row.first
        for text, width, column in zip(row.cells, self._column_widths(), self._columns, strict=True):
            tone = first or (column.tone if column.tone and row.tone is Tone.PLAIN else row.tone)
            first = None
            if width:
                yield Segment(gap, self.style(row.tone))
                yield Segment(_fitted(text, width, column), self.style(tone))
                gap = " " * GAP

    def _column_widths(self) -> list[int]:
        """The width of each column; 0 where there is no room for it."""
        if self._widths is None:
            self._widths = column_widths(self._columns, self._needed, self.size.width)
        return self._widths


def column_widths(columns: Sequence[Column], needed: Sequence[int], room: int) -> list[int]:
    """Widths of columns that need so many cells, in `room`: 0 for those that are left out."""
    widths = [min(need, column.least) if column.grows else need for column, need in zip(columns, needed, strict=True)]
    for index in sorted(range(len(columns)), key=lambda index: (-columns[index].rank, -index)):
        if columns[index].rank and _total(widths) > room:
            widths[index] = 0
    # Those that need least come first: as many as possible are whole.
    for index in sorted(range(len(columns)), key=lambda index: (needed[index], index)):
        if columns[index].grows and widths[index]:
            widths[index] = max(min(needed[index], widths[index] + room - _total(widths)), 1)
    return widths


def _total(widths: Sequence[int]) -> int:
    used = [width for width in widths if width]
    return sum(used) + GAP * (len(used) - 1)


def _fitted(text: str, width: int, column: Column) -> str:
    text = clipped_start(text, width) if column.end_matters else clipped(text, width)
    return padded(text, width, right=column.right)
