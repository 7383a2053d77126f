"""The lines around every screen: the tabs above it, and a line of words about the focused cell below."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from textual.events import Click
from textual.reactive import reactive
from textual.strip import Strip

from aprtui.tui.draw.text import clipped, clipped_start, padded
from aprtui.tui.frame.state import ScreenName
from aprtui.tui.widgets.line_widget import LineWidget

LEAST_COLUMNS, LEAST_ROWS = 80, 24
"""The smallest terminal that screens are made for."""


class TabBar(LineWidget):
    """The screens with their keys, the current one marked; `detail` at the right says what it shows."""

    PREFIX = "tab-bar"
    COMPONENT_CLASSES: ClassVar[set[str]] = {"tab-bar--name", "tab-bar--current", "tab-bar--warning"}
    DEFAULT_CSS = """
    TabBar {
        height: 1; background: $panel; color: $text-muted; padding: 0 1;
        .tab-bar--name { color: $accent; text-style: bold; }
        .tab-bar--current { color: $foreground; background: $background; text-style: bold underline; }
        .tab-bar--warning { color: $error; text-style: bold; }
    }
    """

    detail: reactive[str] = reactive("")

    def __init__(self, current: ScreenName) -> None:
        super().__init__()
        self._current = current

    def render_line(self, y: int) -> Strip:
        width, base = self.size.width, self.style()
        segments = [Segment("aprtui", self.style("name")), Segment("  ", base)]
        for number, name in enumerate(ScreenName, 1):
            style = self.style("current") if name is self._current else base
            segments += [Segment(f" {number} {name.capitalize()} ", style), Segment(" ", base)]
        room = width - sum(len(segment.text) for segment in segments)
        detail, style = self.detail, base
        columns, rows = self.app.size
        if columns < LEAST_COLUMNS or rows < LEAST_ROWS:
            detail = f"{columns}×{rows}: made for {LEAST_COLUMNS}×{LEAST_ROWS}"
            style = self.style("warning")
            if len(detail) > room:
                return Strip([Segment(detail, style)]).adjust_cell_length(width, base)
        detail = clipped_start(detail, room) if room > 8 else ""
        return Strip([*segments, Segment(padded(detail, room, right=True), style)]).adjust_cell_length(width, base)

    async def on_click(self, event: Click) -> None:
        at = 8  # behind the padding and the program's name
        for name in ScreenName:
            width = len(f" 1 {name} ")
            if at <= event.x - 1 < at + width:
                await self.run_action(f"app.go('{name}')")
            at += width + 1


class ReadoutLine(LineWidget):
    """One line that describes the focused cell in plain words: for screen readers, logs, and screens without colour."""

    DEFAULT_CSS = "ReadoutLine { height: 1; padding: 0 1; background: $panel; color: $foreground; }"

    text: reactive[str] = reactive("")

    def render_line(self, y: int) -> Strip:
        width, base = self.size.width, self.style()
        return Strip([Segment(clipped(self.text, width), base)]).adjust_cell_length(width, base)
