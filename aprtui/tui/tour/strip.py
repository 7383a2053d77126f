"""The strip of the tour: three lines below the tabs of every screen."""

from __future__ import annotations

from rich.text import Text
from textual.widgets import Static


class TourStrip(Static):
    """What to do next and which key does it; the first line says where the tour is and how to leave it."""

    DEFAULT_CSS = """
    TourStrip {
        height: 3; padding: 0 1; background: $panel-lighten-1; color: $foreground;
    }
    """

    def __init__(self, text: Text) -> None:
        super().__init__(text)
        self._shown = text

    def show(self, text: Text) -> None:
        if text.markup != self._shown.markup:
            self._shown = text
            self.update(text)
