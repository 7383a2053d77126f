"""Colour levels, and the marks and glyphs that stand for them."""

from __future__ import annotations

from enum import IntEnum

LEVELS = 64
"""Colour levels; more could not be told apart, and few styles mean few colour changes to send."""

LEAST_SPAN = 10.0
"""A column's scale covers at least this factor, so that a stage that hardly varies looks even."""


class Mark(IntEnum):
    """Values of a level tile that are no level; `ABOVE` and `BELOW` lie beyond the ends of the scale."""

    MISSING = 64
    ZERO = 65
    INF = 66
    NAN = 67
    ABOVE = 68
    BELOW = 69


RAMP = " `,:~=*%#@"
"""Glyphs from the lowest to the highest level, for terminals without colour; `+` and `-` mean clipped, `.` missing."""


def glyph(level: int) -> str:
    marks = {
        Mark.MISSING: "·", Mark.ZERO: "0", Mark.INF: "I", Mark.NAN: "X", Mark.ABOVE: "+", Mark.BELOW: "-"
    }  # fmt: skip
    return RAMP[level * len(RAMP) // LEVELS] if level < LEVELS else marks[Mark(level)]
