"""Cells of the overview of all layers: a line has one, two or four of them, as the halves or quarters of each cell.

Layers follow one another downwards, then to the right: of four, the first two stand in the left half of the cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from rich.color import Color
from rich.segment import Segment
from rich.style import Style

from aprtui.tui.draw.colours import LEVELS, ColourMap, Mark, Rgb, glyph, level_colours, on_colour

HALF = "▀"
LEAST_WIDTH = 3
"""Cells of the narrowest column: one code."""

WIDEST = 5

FAULT_GLYPH = "!"
"""Stands for a cell with an injected fault where there are no colours."""

FAULT: Rgb = (200, 90, 255)
"""Outlines a cell with an injected fault: a colour that no colour map has."""

CURSOR: dict[bool, Rgb] = {True: (255, 255, 255), False: (0, 0, 0)}
"""Outlines the cell under the cursor, by whether the theme is dark."""

_SIGNS = {Mark.NAN: "X", Mark.INF: "I"}


@dataclass(frozen=True, slots=True)
class Inks:
    """The colours of the levels, and what is behind them."""

    colour_map: ColourMap
    background: Rgb
    dark: bool


def cell_segments(
    levels: Sequence[int | None], faulty: Sequence[bool], cursor: int | None, width: int, inks: Inks
) -> list[Segment]:
    """A column's cell with the `levels` of a line's layers (None: there is no such layer).

    Those with an injected fault are outlined, and so is the one under the `cursor`. A single layer fills the cell.
    """
    part, gap = _parts(len(levels), width)
    outlines = [CURSOR[inks.dark] if at == cursor else FAULT if fault else None for at, fault in enumerate(faulty)]
    segments: list[Segment] = []
    for upper in range(0, len(levels), 2):
        lower = upper if len(levels) == 1 else upper + 1
        segments += _pair(levels[upper], levels[lower], outlines[upper], outlines[lower], part, inks)
    return [*segments, _blank(gap, inks.background)] if gap else segments


def pair_at(rows: int, width: int, x: int) -> int:
    """Which pair of a line's `rows` layers stands at cell `x` of a column of `width` cells."""
    return min(x // max(_parts(rows, width)[0], 1), max(rows // 2, 1) - 1)


def _parts(rows: int, width: int) -> tuple[int, int]:
    """How many cells a pair of layers gets in a column of `width` cells, and how many stay empty."""
    pairs = max(rows // 2, 1)
    part = (width - (width > 2 * pairs + 1)) // pairs
    return part, width - part * pairs


@lru_cache(1 << 15)
def _pair(
    upper: int | None, lower: int | None, above: Rgb | None, below: Rgb | None, width: int, inks: Inks
) -> tuple[Segment, ...]:
    """Two layers as the halves of `width` cells; an outline has its colour at the ends, a mark its sign in between."""
    high, low = _colour(upper, inks), _colour(lower, inks)
    sign = next((_SIGNS[Mark(level)] for level in (upper, lower) if level in _SIGNS), "")
    middle = HALF * width
    if above is None and below is None and not sign:
        return (Segment(middle, _style(high, low)),)
    ends = Segment(HALF, _style(above or high, below or low))
    inner = Segment(HALF, _style(high, low))
    cells = [ends, *[inner] * (width - 2), ends][-width:] if width > 2 else [ends, inner][:width]
    if sign and width > 1:
        cells[width // 2] = Segment(sign, on_colour(high if upper in _SIGNS else low, bold=True))
    return tuple(cells)


def _colour(level: int | None, inks: Inks) -> Rgb:
    return inks.background if level is None else level_colours(inks.colour_map)[level] or inks.background


@lru_cache(1 << 13)
def _style(upper: Rgb, lower: Rgb) -> Style:
    return Style(color=Color.from_rgb(*upper), bgcolor=Color.from_rgb(*lower))


@lru_cache(64)
def _blank(width: int, background: Rgb) -> Segment:
    return Segment(" " * width, Style(bgcolor=Color.from_rgb(*background)))


def plain_segments(
    levels: Sequence[int | None], faulty: Sequence[bool], cursor: int | None, width: int, style: Style
) -> list[Segment]:
    """The same without colours: a glyph for each layer, from left to right."""
    segments = []
    for number, (level, fault) in enumerate(zip(levels, faulty, strict=True)):
        text = " " if level is None else FAULT_GLYPH if fault and level < LEVELS else glyph(level)
        segments.append(Segment(text, style + Style(reverse=True) if number == cursor else style))
    return [*segments, Segment(" " * (width - len(levels)), style)]
