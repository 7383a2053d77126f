"""The token stream: prompt and generated text, wrapped as it comes."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from enum import StrEnum
from itertools import groupby
from typing import ClassVar

from rich.cells import get_character_cell_size
from rich.segment import Segment
from textual.events import Resize
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip


class Kind(StrEnum):
    """Who wrote a piece of text."""

    PROMPT = "prompt"
    GENERATED = "generated"
    LATEST = "latest"


TAB = "    "


def printable(text: str) -> str:
    """`text` with everything that would move a terminal's cursor replaced by a visible character."""
    return "".join(_visible(character) for character in text.replace("\r\n", "\n").replace("\t", TAB))


def _visible(character: str) -> str:
    code = ord(character)
    if character == "\n" or (0x20 <= code < 0x7F):
        return character
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    # Further control characters, and those that change the direction of a line.
    hostile = unicodedata.category(character) == "Cc" or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069
    return "�" if hostile else character


Cell = tuple[str, Kind]


class Wrapper:
    """Greedy word wrapping of a growing text: only the last row can still change."""

    def __init__(self, width: int) -> None:
        self.width = max(width, 2)
        self.rows: list[list[Cell]] = [[]]

    def add(self, text: str, kind: Kind) -> int:
        """Append `text`; returns the first row that changed."""
        first = len(self.rows) - 1
        cells = [*self.rows.pop(), *((character, kind) for character in text)]
        self.rows.extend(self._wrap(cells))
        return first

    def _wrap(self, cells: list[Cell]) -> Iterator[list[Cell]]:
        row: list[Cell] = []
        used = 0
        for cell in cells:
            if cell[0] == "\n":
                yield row
                row, used = [], 0
                continue
            size = get_character_cell_size(cell[0])
            if used + size > self.width:
                row, rest = _break(row, cell[0])
                yield row
                row, used = rest, sum(get_character_cell_size(character) for character, _ in rest)
            row.append(cell)
            used += size
        yield row


def _break(row: list[Cell], following: str) -> tuple[list[Cell], list[Cell]]:
    """A full row and the word at its end, which goes to the next row; a word as long as the row is cut."""
    if following == " ":
        return row, []
    for index in range(len(row) - 1, 0, -1):
        if row[index][0] == " ":
            return row[: index + 1], row[index + 1 :]
    return row, []


class TextStream(ScrollView, can_focus=False):
    """Shows the text of a generation and follows its end."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"text-stream--{kind}" for kind in Kind}
    DEFAULT_CSS = """
    TextStream {
        .text-stream--prompt { color: $text-muted; }
        .text-stream--generated { color: $foreground; }
        .text-stream--latest { color: $accent; text-style: bold underline; }
    }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._pieces: list[tuple[str, Kind]] = []
        self._wrapper = Wrapper(80)

    @property
    def text(self) -> str:
        """All text that is shown, without its line wrapping."""
        return "".join(text for text, _ in self._pieces)

    def clear(self) -> None:
        """Show nothing."""
        self._pieces.clear()
        self._rewrap()

    def add(self, text: str, kind: Kind) -> None:
        """Append `text`, keeping the end in view if it was. Marks the newest piece of generated text."""
        if not text:
            return
        at_end = self.scroll_offset.y >= self.max_scroll_y - 1
        changed = len(self._wrapper.rows) - 1
        if self._pieces and self._pieces[-1][1] is Kind.LATEST:
            self._pieces[-1] = (self._pieces[-1][0], Kind.GENERATED)
            changed = self._unmark()
        self._pieces.append((printable(text), Kind.LATEST if kind is Kind.GENERATED else kind))
        changed = min(changed, self._wrapper.add(*self._pieces[-1]))
        self._show(changed, at_end)

    def on_resize(self, event: Resize) -> None:
        """Wrap anew where the width has changed."""
        if self.scrollable_content_region.width != self._wrapper.width:
            self._rewrap()

    def render_line(self, y: int) -> Strip:
        """Row `y` of what is in view."""
        width = self.scrollable_content_region.width
        number = y + self.scroll_offset.y
        base = self.rich_style
        if number >= len(self._wrapper.rows):
            return Strip.blank(width, base)
        segments = [
            Segment("".join(character for character, _ in cells), self.get_component_rich_style(f"text-stream--{kind}"))
            for kind, cells in groupby(self._wrapper.rows[number], lambda cell: cell[1])
        ]
        return Strip(segments).adjust_cell_length(width, base)

    def _unmark(self) -> int:
        """Make the newest piece an ordinary one; returns the first row that changed."""
        rows = self._wrapper.rows
        for number in range(len(rows) - 1, -1, -1):
            marked = [index for index, (_, kind) in enumerate(rows[number]) if kind is Kind.LATEST]
            for index in marked:
                rows[number][index] = (rows[number][index][0], Kind.GENERATED)
            if rows[number] and not marked:
                return number
        return 0

    def _rewrap(self) -> None:
        self._wrapper = Wrapper(self.scrollable_content_region.width or 80)
        for text, kind in self._pieces:
            self._wrapper.add(text, kind)
        self._show(0, at_end=True)

    def _show(self, changed: int, at_end: bool) -> None:
        """Draw the rows from `changed` on."""
        rows = len(self._wrapper.rows)
        self.virtual_size = Size(self._wrapper.width, rows)
        if at_end:
            self.scroll_end(animate=False, immediate=True)
        self.refresh_lines(changed, rows - changed)
        if changed == 0:
            self.refresh()
