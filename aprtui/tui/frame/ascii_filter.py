"""Screens in ASCII alone: a stand-in for every character that they draw, cell for cell."""

from __future__ import annotations

from functools import lru_cache

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

STAND_IN = "?"
"""Stands for each cell of a non-ASCII character that no screen draws itself: it comes from a token or a name."""

# Characters with a meaning have stand-ins of their own; those of frames and bars share theirs.
_MEANINGS = {
    "−": "-", "–": "-", "…": "~", "×": "x", "÷": "/", "·": ".", "µ": "u", "≥": ">",
    "↑": "^", "↓": "v", "←": "<", "→": ">", "↔": "|", "⏎": "$", "⇥": ">", "⋯": "~",
    "◆": "#", "●": "#", "❯": ">", "▸": ">", "◂": "<", "■": "#", "▶": ">", "‖": "|", "✗": "x", "✓": "+",
    "🔎": "/ ",
}  # fmt: skip
_FRAMES = {"-": "─━═▔▁", "|": "│┃║▎▏▕▌▐▊", "+": "┌┐└┘├┤┬┴┼╭╮╰╯", "#": "█▇▆▅▄▀▋▉▍", "_": "▂▃"}
_ASCII = _MEANINGS | {drawn: text for text, characters in _FRAMES.items() for drawn in characters}


@lru_cache(4096)
def to_ascii(text: str) -> str:
    """`text` in as many cells, without a character beyond ASCII."""
    if text.isascii():
        return text
    return "".join(
        character if character.isascii() else _ASCII.get(character, STAND_IN * cell_len(character))
        for character in text
    )


class AsciiFilter(LineFilter):
    """Lets nothing but ASCII through to the terminal."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [Segment(to_ascii(text), style, control) for text, style, control in segments]
