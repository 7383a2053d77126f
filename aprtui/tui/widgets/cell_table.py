"""A table of short cells with a cursor on one of them: lines are named at the left, columns above."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.strip import Strip

from aprtui.tui.draw.text import clipped, padded
from aprtui.tui.widgets.jump_targets import JumpPlace
from aprtui.tui.widgets.moves import MOVES
from aprtui.tui.widgets.table import GAP, Column, Row, Table, Tone

_NAME_SHARE, _LEAST_NAME = 3, 12
"""Names of lines take at most a third of the width."""


@dataclass(frozen=True, slots=True)
class CellLine:
    """A line: its name, and a text and a tone for each column."""

    name: str
    cells: tuple[tuple[str, Tone], ...]


class CellTable(Table):
    """A `Table` whose cursor has a column too; columns that have no room are scrolled to."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(0, -1)", "Column to the left", show=False, group=MOVES),
        Binding("right,l", "move(0, 1)", "Column to the right", show=False, group=MOVES),
    ]

    def __init__(self, empty: str = "", *, id: str | None = None) -> None:
        super().__init__((Column(""),), empty, id=id)
        self._lines: Sequence[CellLine] = ()
        self._titles: Sequence[str] = ()
        self._column = 0
        self._first_column = 0

    def show_lines(self, titles: Sequence[str], lines: Sequence[CellLine]) -> None:
        """Show other lines, below the `titles` of their columns."""
        self._titles, self._lines = titles, lines
        self._column = min(self._column, max(len(titles) - 1, 0))
        self.show([Row(number, (line.name,)) for number, line in enumerate(lines)])

    @property
    def cell(self) -> tuple[int, int] | None:
        """Line and column of the cursor; None where there are no cells."""
        return (self._cursor, self._column) if self._lines and self._titles else None

    def point_at(self, line: int, column: int) -> None:
        """Put the cursor on a cell that is there; a cell that is not there is left alone."""
        if line < len(self._lines) and column < len(self._titles):
            self._column = column
            self.action_move_to(line, wrap=False)
            self.post_message(self.Pointed(self))
            self.refresh()

    def action_move(self, rows: int, columns: int = 0) -> None:
        if columns and self._titles:
            before, self._column = self._column, min(max(self._column + columns, 0), len(self._titles) - 1)
            if self._column != before:
                self.post_message(self.Pointed(self))
                self.refresh()
        if rows:
            super().action_move(rows)

    def jump_places(self) -> list[JumpPlace]:
        name, width, shown = self._layout()
        in_view = range(self._first, min(self._first + self._height, len(self._lines)))
        return [
            JumpPlace(line - self._first + 1, name + GAP + place * (width + GAP), width, (line, column))
            for line in in_view
            for place, column in enumerate(shown)
        ]

    def jump_to(self, target: object) -> None:
        assert isinstance(target, tuple)
        self.point_at(*target)

    def draw_line(self, y: int) -> Strip:
        if not self._lines or not self._titles:
            return super().draw_line(y)
        name, width, shown = self._layout()
        gap, base = Segment(" " * GAP, self.style()), self.style()
        if y == 0:
            head = self.style("head")
            more = "◂" if self._first_column else "", "▸" if shown.stop < len(self._titles) else ""
            texts = [padded(clipped(self._titles[column], width), width) for column in shown]
            segments = [Segment(padded(more[0] + more[1], name), head)]
            segments += [part for text in texts for part in (gap, Segment(text, head))]
            return Strip(segments).adjust_cell_length(self.size.width, base)
        index = self._first + y - 1
        if index >= len(self._lines):
            return Strip.blank(self.size.width, base)
        line, here = self._lines[index], index == self._cursor
        segments = [Segment(padded(clipped(line.name, name), name), self.style(Tone.PLAIN if here else Tone.MUTED))]
        for column in shown:
            text, tone = line.cells[column]
            style = self.style(tone)
            if here and column == self._column:
                style += self.style("cursor" if self.has_focus else "resting", partial=True)
            segments += [gap, Segment(padded(clipped(text, width), width), style)]
        return Strip(segments).adjust_cell_length(self.size.width, base)

    def _layout(self) -> tuple[int, int, range]:
        """The width of the names and of a column, and the columns in view, that of the cursor among them."""
        room = self.size.width
        longest = max((cell_len(line.name) for line in self._lines), default=0)
        name = min(longest, max(room // _NAME_SHARE, _LEAST_NAME))
        texts = [*self._titles, *(text for line in self._lines[:200] for text, _ in line.cells)]
        fitting = max((room - name) // max(len(self._titles), 1) - GAP, 8)
        width = min(max(map(cell_len, texts), default=1), max(fitting, 14))
        count = max((room - name) // (width + GAP), 1)
        first = min(max(self._first_column, self._column - count + 1), self._column)
        self._first_column = max(min(first, len(self._titles) - count), 0)
        return name, width, range(self._first_column, min(self._first_column + count, len(self._titles)))
