"""A widget that shows lines of text in a few inks; its owner says what stands in them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget


class Ink(StrEnum):
    """How a piece of a line stands out."""

    PLAIN = "plain"
    MUTED = "muted"
    STRONG = "strong"
    ACCENT = "accent"
    BAD = "bad"
    MARKED = "marked"


Piece = tuple[str, Ink]


class Lines(Widget):
    """Shows lines of pieces, cut where there is no room."""

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

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._lines: Sequence[Sequence[Piece]] = ()
        self._styles_of: dict[Ink, Style] = {}

    @property
    def text(self) -> str:
        """What is shown, without inks."""
        return "\n".join("".join(text for text, _ in line) for line in self._lines)

    def show(self, lines: Sequence[Sequence[Piece]]) -> None:
        """Show other lines."""
        if lines != self._lines:
            self._lines = lines
            self.refresh()

    def notify_style_update(self) -> None:
        """The theme has changed."""
        super().notify_style_update()
        self._styles_of.clear()

    def render_line(self, y: int) -> Strip:
        """Line `y`."""
        line = self._lines[y] if y < len(self._lines) else ()
        segments = [Segment(text, self._style(ink)) for text, ink in line]
        return Strip(segments).adjust_cell_length(self.size.width, self.rich_style)

    def _style(self, ink: Ink) -> Style:
        if ink not in self._styles_of:
            self._styles_of[ink] = self.get_component_rich_style(f"lines--{ink}")
        return self._styles_of[ink]
