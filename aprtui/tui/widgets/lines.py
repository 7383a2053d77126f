"""A widget that shows lines of text in a few inks; its owner says what stands in them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar

from rich.segment import Segment
from textual.events import Resize
from textual.message import Message
from textual.strip import Strip

from aprtui.tui.widgets.line_widget import LineWidget


class Ink(StrEnum):
    """How a piece of a line stands out."""

    PLAIN = "plain"
    MUTED = "muted"
    STRONG = "strong"
    ACCENT = "accent"
    BAD = "bad"
    MARKED = "marked"


Piece = tuple[str, Ink]


class Lines(LineWidget):
    """Shows lines of pieces, cut where there is no room."""

    PREFIX = "lines"
    COMPONENT_CLASSES: ClassVar[set[str]] = {f"lines--{ink}" for ink in Ink}
    DEFAULT_CSS = """
    Lines {
        .lines--plain { color: $foreground; }
        .lines--muted { color: $text-muted; }
        .lines--strong { color: $foreground; text-style: bold; }
        .lines--accent { color: $accent; }
        .lines--bad { color: $error; text-style: bold; }
        .lines--marked { color: $background; background: $accent; text-style: bold; }
        &:nocolor .lines--marked { text-style: reverse bold; }
    }
    """

    class Resized(Message):
        """The size has changed: an owner whose lines depend on it should give others."""

        def __init__(self, lines: Lines) -> None:
            super().__init__()
            self.lines = lines

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._lines: Sequence[Sequence[Piece]] = ()

    @property
    def text(self) -> str:
        """What is shown, without inks."""
        return "\n".join("".join(text for text, _ in line) for line in self._lines)

    def on_resize(self, event: Resize) -> None:
        self.post_message(self.Resized(self))

    def show(self, lines: Sequence[Sequence[Piece]]) -> None:
        if lines != self._lines:
            self._lines = lines
            self.refresh()

    def render_line(self, y: int) -> Strip:
        line = self._lines[y] if y < len(self._lines) else ()
        segments = [Segment(text, self.style(ink)) for text, ink in line]
        return Strip(segments).adjust_cell_length(self.size.width, self.style())
