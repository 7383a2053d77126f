"""The token stream: what was said and what is generated, wrapped as it comes."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

from rich.cells import get_character_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import MouseDown, MouseEvent, MouseScrollDown, MouseScrollUp, MouseUp, Resize
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from aprtui.tui.draw.colours import tint_styles
from aprtui.tui.widgets.line_widget import LineWidget
from aprtui.tui.widgets.moves import MOVES, PAGES

TAB = "    "

EMPTY = "Press e, type a prompt, then enter."


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


Cell = tuple[str, int]
"""A character, and the number of the piece of text that it belongs to."""


class Wrapper:
    """Greedy word wrapping of a growing text: only the last row can still change."""

    def __init__(self, width: int) -> None:
        self.width = max(width, 2)
        self.rows: list[list[Cell]] = [[]]

    def add(self, text: str, piece: int) -> int:
        """Append `text`; returns the first row that changed."""
        first = len(self.rows) - 1
        cells = [*self.rows.pop(), *((character, piece) for character in text)]
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


SPEAKER_WIDTH = 8
"""Cells at the left for the names of speakers, of which `system` is the longest."""


@dataclass(slots=True)
class _Piece:
    text: str
    token: int | None = None
    """Which token it is; None for what was said to the model, or in a conversation that is over."""
    tint: int | None = None
    speaker: str = ""
    """Who begins to speak with it."""
    row: int = 0
    """The first row that changed when it was added: it begins there or in the next one."""
    look: str = "prompt"
    """How what is no token is drawn, as the component class is named."""


class TextStream(ScrollView, LineWidget, can_focus=True, inherit_bindings=False):
    """Shows what was said to a model and the tokens that it answered with, one of them marked, and follows that one.

    In a conversation, the speakers are named at the left.
    """

    PREFIX = "text-stream"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Line before", show=False, group=MOVES),
        Binding("down,j", "move(1)", "Line after", show=False, group=MOVES),
        Binding("pageup", "move(-10)", "Ten lines up", show=False, group=PAGES),
        Binding("pagedown", "move(10)", "Ten lines down", show=False, group=PAGES),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"text-stream--{name}" for name in ("prompt", "token", "marked", "later", "speaker", "failed")
    }
    DEFAULT_CSS = """
    TextStream {
        overflow-x: hidden; scrollbar-gutter: stable;
        scrollbar-color: $border-blurred; scrollbar-background: $background;
        .text-stream--prompt { color: $text-muted; }
        .text-stream--token { color: $foreground; }
        .text-stream--marked { color: $accent; text-style: bold underline; }
        .text-stream--later { color: $text-disabled; }
        .text-stream--speaker { color: $accent; }
        .text-stream--failed { color: $error; }
    }
    """

    class Pointed(Message):
        """The mouse chose token number `token`."""

        def __init__(self, token: int) -> None:
            super().__init__()
            self.token = token

    class Selected(Message):
        """The mouse was dragged over text, of tokens or of the prompt."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.empty = EMPTY
        """What stands there while there is no text."""
        self._pieces: list[_Piece] = []
        self._tokens: list[_Piece] = []
        self._speakers: dict[int, str] = {}
        """Who begins to speak in a row."""
        self._margin = 0
        self._marked: int | None = None
        self._following = True
        self._pressed: int | None = None
        self._wrapper = Wrapper(80)

    @property
    def text(self) -> str:
        """All text that is shown, without its line wrapping."""
        return "".join(piece.text for piece in self._pieces)

    def clear(self, speakers: bool = False) -> None:
        """Show nothing any more; what comes next has `speakers` or not."""
        self._pieces.clear()
        self._tokens.clear()
        self._margin = SPEAKER_WIDTH if speakers else 0
        self._marked, self._following = None, True
        self._rewrap()
        self._show(0, at_end=True)

    def say(self, text: str, speaker: str = "", look: str = "prompt") -> None:
        """Append something that is no token; a new speaker begins a row. It looks as a component class of that name."""
        self._show(self._append(_Piece(text, speaker=speaker, look=look)), at_end=True)

    def to_beginning(self) -> None:
        """Show the first rows, and stay there."""
        self._following = False
        self.scroll_home(animate=False, immediate=True)

    def add(self, text: str, tint: int | None) -> None:
        """Append the text of the next token; the end stays in view unless the user has scrolled back."""
        piece = _Piece(text, len(self._tokens), tint)
        before = self._tokens[-1].row if self._tokens else None
        self._tokens.append(piece)
        changed = self._append(piece)
        # The mark has moved from the token before.
        self._show(changed if before is None else min(changed, before), self._following)

    def finish(self, tail: str) -> None:
        """Append the stand-in for an unfinished character at the end; it belongs to the last token."""
        if tail and self._pieces:
            tail, last = printable(tail), len(self._pieces) - 1
            self._pieces[last].text += tail
            self._show(self._wrapper.add(tail, last), at_end=True)

    def mark(self, token: int | None) -> None:
        """Mark a token and dim what comes after it; None marks the newest one, whichever it is."""
        if token == self._marked:
            return
        self._marked = token
        self.refresh()
        if token is None:
            self.scroll_end(animate=False, immediate=True)
        elif token < len(self._tokens):
            row = self._tokens[token].row
            if not self.scroll_offset.y <= row < self.scroll_offset.y + self.size.height - 1:
                self.scroll_to(y=max(row - self.size.height // 2, 0), animate=False, immediate=True)

    def tint(self, tints: Sequence[int | None]) -> None:
        for piece, tint in zip(self._tokens, tints, strict=False):
            piece.tint = tint
        self.refresh()

    def on_resize(self, event: Resize) -> None:
        if self.scrollable_content_region.width - self._margin != self._wrapper.width:
            self._rewrap()
            self._show(0, at_end=False)
        if self._following and self._marked is None:
            # The end is known once the new size has been laid out.
            self.call_after_refresh(self.scroll_end, animate=False, immediate=True)

    def action_move(self, lines: int) -> None:
        """Scroll; the text that comes is followed again once its end is in view."""
        self._following = self.scroll_offset.y + lines >= self.max_scroll_y
        self.scroll_relative(y=lines, animate=False, immediate=True)

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        self._following = False

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        self._following = self.scroll_offset.y >= self.max_scroll_y - 1

    def on_mouse_down(self, event: MouseDown) -> None:
        self._pressed = self._piece_at(event)

    def on_mouse_up(self, event: MouseUp) -> None:
        first, last = self._pressed, self._piece_at(event)
        self._pressed = None
        if first is None or last is None:
            return
        token = self._pieces[first].token
        if first == last and token is not None:
            self.post_message(self.Pointed(token))
        elif first != last:
            pieces = self._pieces[min(first, last) : max(first, last) + 1]
            self.post_message(self.Selected(_joined(pieces)))

    def _piece_at(self, event: MouseEvent) -> int | None:
        offset = event.get_content_offset(self)
        if offset is None:
            return None
        row, at = offset.y + self.scroll_offset.y, self._margin
        for character, piece in self._wrapper.rows[row] if row < len(self._wrapper.rows) else ():
            at += get_character_cell_size(character)
            if offset.x < at:
                return piece
        return None

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        number = y + self.scroll_offset.y
        if not self._pieces:
            return Strip([Segment(self.empty if y == 0 else "", self.style("prompt"))]).adjust_cell_length(width)
        if number >= len(self._wrapper.rows):
            return Strip.blank(width, self.style())
        speaker = self._speakers.get(number, "")[: self._margin].ljust(self._margin)
        segments = [Segment(speaker, self.style("speaker"))] if speaker else []
        segments += [
            Segment("".join(character for character, _ in cells), self._style_of(self._pieces[piece]))
            for piece, cells in groupby(self._wrapper.rows[number], lambda cell: cell[1])
        ]
        return Strip(segments).adjust_cell_length(width, self.style())

    def _style_of(self, piece: _Piece) -> Style:
        marked = len(self._tokens) - 1 if self._marked is None else self._marked
        if piece.token is None:
            return self.style(piece.look)
        if piece.token > marked:
            return self.style("later")
        if piece.tint is None:
            return self.style("marked" if piece.token == marked else "token")
        style = self.style("token") + tint_styles(self.background)[piece.tint]
        return style + Style(bold=True, underline=True) if piece.token == marked else style

    def _append(self, piece: _Piece) -> int:
        """Wrap one more piece; returns the first row that changes."""
        piece.text = printable(piece.text)
        self._pieces.append(piece)
        return self._wrap(len(self._pieces) - 1)

    def _wrap(self, number: int) -> int:
        piece = self._pieces[number]
        piece.row = len(self._wrapper.rows) - 1
        if piece.speaker:
            if self._wrapper.rows[-1]:
                self._wrapper.add("\n", number)
            self._speakers[len(self._wrapper.rows) - 1] = piece.speaker
        self._wrapper.add(piece.text, number)
        return piece.row

    def _rewrap(self) -> None:
        self._wrapper = Wrapper((self.scrollable_content_region.width or 80) - self._margin)
        self._speakers.clear()
        for number in range(len(self._pieces)):
            self._wrap(number)

    def _show(self, changed: int, at_end: bool) -> None:
        rows = len(self._wrapper.rows)
        self._grow(Size(self._wrapper.width + self._margin, rows))
        if at_end and self._marked is None:
            self.scroll_end(animate=False, immediate=True)
        self.refresh_lines(changed, rows - changed)
        if changed == 0:
            self.refresh()

    def _grow(self, size: Size) -> None:
        """Take another virtual size. Unless a scroll bar appears or goes, the layout stays as it is.

        Textual would lay out and draw the whole screen again with each row: 17 ms, a fifth of the live screen's time.
        """
        before, height = self.virtual_size, self.scrollable_content_region.height
        if size.width != before.width or (size.height > height) != (before.height > height):
            self.virtual_size = size
            return
        self.set_reactive(TextStream.virtual_size, size)
        if self.show_vertical_scrollbar:
            self.vertical_scrollbar.window_virtual_size = size.height


def _joined(pieces: Sequence[_Piece]) -> str:
    """Their text; a new speaker begins a line."""
    text = ""
    for piece in pieces:
        text += "\n" if piece.speaker and text and not text.endswith("\n") else ""
        text += piece.text
    return text
