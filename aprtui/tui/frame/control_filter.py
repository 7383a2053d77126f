"""Screens without control characters: texts of others are drawn, and none of them steers the terminal."""

from __future__ import annotations

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

from aprtui.terminal_output import is_control

STAND_IN = "�"


def without_controls(text: str) -> str:
    """`text` in as many cells, without what a terminal acts upon or cannot encode."""
    if text.isprintable():
        return text
    return "".join(
        STAND_IN * cell_len(character) if is_control(character) else character for character in text
    )  # fmt: skip


class ControlFilter(LineFilter):
    """Lets no control character through to the terminal. All that is drawn passes line filters, borders as well."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        if all(text.isprintable() for text, _, _ in segments):
            return segments
        return [Segment(without_controls(text), style, control) for text, style, control in segments]
