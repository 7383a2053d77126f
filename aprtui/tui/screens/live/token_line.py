"""One line about the token looked at: what its tint means, and the token in words."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from textual.strip import Strip

from aprtui.engine.logit_noise import LogitNoise
from aprtui.tui.draw.colours import tint_styles
from aprtui.tui.draw.signals import TintSignal, TokenFigures, token_words
from aprtui.tui.draw.text import joined
from aprtui.tui.widgets.line_widget import LineWidget


class TokenLine(LineWidget):
    """The legend of a signal, and a token in words."""

    PREFIX = "token-line"
    COMPONENT_CLASSES: ClassVar[set[str]] = {"token-line--name"}
    DEFAULT_CSS = """
    TokenLine {
        height: 1; padding: 0 1; color: $text-muted;
        .token-line--name { color: $accent; text-style: bold; }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._signal = TintSignal.PROBABILITY
        self._words: list[str] = []

    def show(self, signal: TintSignal, token: TokenFigures | None, noise: LogitNoise | None) -> None:
        words = [] if token is None else token_words(token, noise, signal)
        if (signal, words) != (self._signal, self._words):
            self._signal, self._words = signal, words
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """Legend first, words after it as far as there is room."""
        width, base = self.size.width, self.style()
        legend = self._legend()
        room = width - sum(segment.cell_length for segment in legend)
        words = joined(self._words, room) if self._words and room > 0 else ""
        name, gap, rest = words.partition(" id ")
        segments = [Segment(name, self.style("name")), Segment(gap + rest, base)]
        return Strip([*legend, *segments]).adjust_cell_length(width, base)

    def _legend(self) -> list[Segment]:
        base = self.style()
        if self._signal is TintSignal.NONE:
            return [Segment("no tint  ", base)]
        sure, unsure = self._signal.ends
        if self.plain:
            return [Segment(f"{self._signal}  ", base)]
        steps = [Segment(" ", base + style) for style in tint_styles(self.background)]
        return [Segment(f"{self._signal} {sure} ", base), *steps, Segment(f" {unsure}   ", base)]
