"""A pane of rows with bars; the marked row is always in view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from textual.events import MouseScrollDown, MouseScrollUp
from textual.strip import Strip

from aprtui.tui.draw.bars import Bar, bar_cells
from aprtui.tui.widgets.line_widget import LineWidget


class BarList(LineWidget):
    """Shows `Bar`s; where there are none, a text that says why, and what to do."""

    PREFIX = "bar-list"
    COMPONENT_CLASSES: ClassVar[set[str]] = {"bar-list--token", "bar-list--marked", "bar-list--bar", "bar-list--empty"}
    DEFAULT_CSS = """
    BarList {
        .bar-list--token { color: $foreground; }
        .bar-list--marked { color: $accent; text-style: bold; }
        .bar-list--bar { color: $secondary; }
        .bar-list--empty { color: $text-muted; }
    }
    """

    def __init__(self, title: str, *, id: str, classes: str) -> None:
        super().__init__(id=id, classes=classes)
        self.border_title = title
        self._bars: Sequence[Bar] = ()
        self._empty: Sequence[str] = ()
        self._label_width = 0
        self._first = 0

    @property
    def bars(self) -> Sequence[Bar]:
        return self._bars

    def show(self, bars: Sequence[Bar], empty: str = "") -> None:
        lines = empty.splitlines()
        if bars == self._bars and lines == self._empty:
            return
        self._bars, self._empty = bars, lines
        self._label_width = max((len(bar.label) for bar in bars), default=0)
        self._keep_marked_in_view()
        self.refresh()

    def render_line(self, y: int) -> Strip:
        width, base = self.size.width, self.style()
        if not self._bars:
            text = self._empty[y] if y < len(self._empty) else ""
            style = self.style("empty")
            return Strip([Segment(text, style)]).adjust_cell_length(width, base)
        number = self._first + y
        if number >= len(self._bars):
            return Strip.blank(width, base)
        bar = self._bars[number]
        token, share, drawn = bar_cells(bar, self._label_width, width, self.plain)
        style = self.style("marked" if bar.marked else "token")
        segments = [Segment(token, style), Segment(share, style)]
        segments.append(Segment(drawn, style if bar.marked else self.style("bar")))
        return Strip(segments).adjust_cell_length(width, base)

    def on_resize(self) -> None:
        self._keep_marked_in_view()

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        self._scroll(1)

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        self._scroll(-1)

    def _scroll(self, by: int) -> None:
        self._first = max(0, min(self._first + by, len(self._bars) - self.size.height))
        self.refresh()

    def _keep_marked_in_view(self) -> None:
        height = max(self.size.height, 1)
        marked = next((number for number, bar in enumerate(self._bars) if bar.marked), 0)
        first = min(max(self._first, marked - height + 1), marked)
        self._first = max(0, min(first, len(self._bars) - height))
