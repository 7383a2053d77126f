"""The verdict of a comparison on four lines, the last of which can be done without: its word, and what it rests on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rich.segment import Segment
from textual.reactive import reactive
from textual.strip import Strip

from aprtui.tui.draw.text import clipped
from aprtui.tui.widgets.line_widget import LineWidget

COLUMN = 10
"""Cells of the word and the space around it."""


@dataclass(frozen=True, slots=True)
class VerdictText:
    """A word (PASS, FAIL, UNKNOWN, or what is going on) and lines beside it."""

    word: str = ""
    lines: tuple[str, ...] = ()


class VerdictLines(LineWidget):
    PREFIX = "verdict"
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"verdict--{name}" for name in ("pass", "fail", "unknown", "other", "first", "rest")
    }
    DEFAULT_CSS = """
    VerdictLines {
        height: 4; padding: 0 1; background: $panel;
        .verdict--pass { color: $background; background: $accent; text-style: bold; }
        .verdict--fail { color: $background; background: $error; text-style: bold; }
        .verdict--unknown { color: $background; background: $foreground; text-style: bold; }
        .verdict--other { color: $accent; text-style: bold; }
        .verdict--first { color: $foreground; text-style: bold; }
        .verdict--rest { color: $text-muted; }
        &:nocolor .verdict--pass, &:nocolor .verdict--fail, &:nocolor .verdict--unknown { text-style: reverse bold; }
    }
    """

    text: reactive[VerdictText] = reactive(VerdictText())

    def render_line(self, y: int) -> Strip:
        width, content = self.size.width, self.text
        name = content.word.lower() if content.word in ("PASS", "FAIL", "UNKNOWN") else "other"
        word = content.word if y == 0 else ""
        style = self.style(name) if word else self.style()
        text = clipped(content.lines[y] if y < len(content.lines) else "", max(width - COLUMN, 0))
        rest = self.style("first" if y == 0 else "rest")
        segments = [Segment(f" {word} ".center(COLUMN - 1), style), Segment(" ", self.style()), Segment(text, rest)]
        return Strip(segments).adjust_cell_length(width, self.style())
