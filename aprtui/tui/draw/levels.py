"""Colour levels, their marks and glyphs, and short texts for numbers."""

from __future__ import annotations

import math
from enum import IntEnum
from functools import lru_cache

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


_PREFIXES = {-12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T"}


def signed(value: float, width: int) -> str:
    """`value` with its sign in at most `width` ≥ 4 characters, as `short` writes it."""
    return f"{'−' if value < 0 else '+'}{short(abs(value), width - 1)}"


@lru_cache(1 << 16)
def short(value: float, width: int) -> str:
    """`value` ≥ 0 in at most `width` ≥ 3 characters and three digits, with SI prefixes: `43m`, `.43`, `4.3`, `4k`.

    Widths below 3 give an empty text; values too small or too large for the prefixes give `~0` and `>T`.
    """
    if width < 3:
        return ""
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Inf"
    if value < 1e-12 or value >= 1e15:
        return "~0" if value < 1 else ">T"
    exponent = 3 * math.floor(math.log10(value) / 3)
    for power in (0,) if exponent == -3 and value >= 0.09951 else (exponent, exponent + 3):
        for digits in (3, 2, 1):
            text = _digits(value / 10.0**power, digits) + _PREFIXES.get(power, "?")
            if len(text) <= width and "?" not in text:
                return text
    return ">T"


def _digits(value: float, digits: int) -> str:
    """`value` < 1000 with `digits` significant digits and no exponent; 1000 where it rounds up to that."""
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = max(0, digits - 1 - math.floor(math.log10(rounded)))
    text = f"{rounded:.{decimals}f}"
    # A leading 0 is worth its place only where it costs no digit.
    return text[1:] if digits < 3 and text.startswith("0.") else text


RAMP = " `,:~=*%#@"
"""Glyphs from the lowest to the highest level, for terminals without colour; `+` and `-` mean clipped, `.` missing."""


def glyph(level: int) -> str:
    """The glyph of a level or mark."""
    marks = {
        Mark.MISSING: "·", Mark.ZERO: "0", Mark.INF: "I", Mark.NAN: "X", Mark.ABOVE: "+", Mark.BELOW: "-"
    }  # fmt: skip
    return RAMP[level * len(RAMP) // LEVELS] if level < LEVELS else marks[Mark(level)]
