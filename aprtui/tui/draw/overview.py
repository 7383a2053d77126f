"""Cells of the overview of all layers: a line has one, two or four of them, as the halves or quarters of each cell.

Layers follow one another downwards, then to the right: of four, the first two stand in the left half of the cell.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.segment import Segment
from rich.style import Style

from aprtui.tui.draw.colours import Rgb, on_colour

HALF = "▀"
LEAST_WIDTH = 2
"""Cells of the narrowest column: codes of neighbours stand in different lines."""

CODE_WIDTH = 3
"""Cells of a column from which on there are lines between groups of columns, and room beside them for other things."""

WIDEST = 6

ABSENT = 255
"""Among levels: there is no such layer."""

FAULT_GLYPH = "!"
"""Stands for a cell with an injected fault where there are no colours."""

FAULT: Rgb = (200, 90, 255)
"""Outlines a cell with an injected fault: a colour that no colour map has."""

CURSOR: dict[bool, Rgb] = {True: (255, 255, 255), False: (0, 0, 0)}
"""Outlines the cell under the cursor, by whether the theme is dark."""

Pair = tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class OverviewPalette:
    """What the levels of an overview look like, each by its value: below `ABSENT`.

    `colours` has None for those that look like the background, `glyphs` stand in where there are no colours; those
    with one of the `signs` show it in either case.
    """

    colours: Sequence[Rgb | None]
    signs: Mapping[int, str]
    glyphs: Sequence[str]


@dataclass(frozen=True, slots=True)
class Outlines:
    """Which cells of a line are outlined: those with an injected fault, and the one under the cursor.

    Each is (layer, column), the layers of the line counted from 0.
    """

    faults: Collection[tuple[int, int]] = ()
    cursor: tuple[int, int] | None = None


class OverviewPaint:
    """Draws lines of `rows` layers with columns of `width` cells, and keeps what it has drawn once."""

    def __init__(self, palette: OverviewPalette, background: Rgb, rows: int, width: int, *, dark: bool) -> None:
        self._colours = [background if colour is None else colour for colour in palette.colours]
        self._colours += [background] * (ABSENT + 1 - len(self._colours))
        self._signs = palette.signs
        self._cursor = CURSOR[dark]
        self._part, gap = _parts(rows, width)
        self._gap = [Segment(" " * gap, Style(bgcolor=Color.from_rgb(*background)))] if gap else []
        self._drawn: dict[int, Pair] = {}

    def columns(self, levels: NDArray[np.uint8], outlines: Outlines) -> list[list[Segment]]:
        """The cells of a line with `levels` `[rows, columns]`, ABSENT where there is no such layer."""
        single = len(levels) == 1
        upper, lower = (levels, levels) if single else (levels[0::2], levels[1::2])
        keys = upper.astype(np.int32) << 8 | lower
        drawn = self._drawn
        for key in {key for key in keys.ravel().tolist() if key not in drawn}:
            drawn[key] = self._pair(key, None, None)
        cells = [[segment for key in column for segment in drawn[key]] + self._gap for column in keys.T.tolist()]
        for column in {column for _, column in (*outlines.faults, *([outlines.cursor] if outlines.cursor else []))}:
            cells[column] = [*self._outlined(keys[:, column].tolist(), column, outlines, single), *self._gap]
        return cells

    def _outlined(self, keys: list[int], column: int, outlines: Outlines, single: bool) -> Iterator[Segment]:
        def outline(layer: int) -> Rgb | None:
            if (layer, column) == outlines.cursor:
                return self._cursor
            return FAULT if (layer, column) in outlines.faults else None

        for number, key in enumerate(keys):
            yield from self._pair(key, outline(2 * number), outline(0 if single else 2 * number + 1))

    def _pair(self, key: int, above: Rgb | None, below: Rgb | None) -> Pair:
        """Two layers as the halves of cells; an outline has its colour at the ends, a sign stands in between."""
        upper, lower, width = key >> 8, key & 0xFF, self._part
        high, low = self._colours[upper], self._colours[lower]
        signs = self._signs
        sign = next((signs[level] for level in (upper, lower) if level in signs), "")
        if above is None and below is None and not (sign and width > 1):
            return (Segment(HALF * width, _halves(high, low)),)
        ends, inner = Segment(HALF, _halves(above or high, below or low)), Segment(HALF, _halves(high, low))
        cells = [ends, *[inner] * (width - 2), ends] if width > 2 else [ends, inner][:width]
        if sign and width > 1:
            cells[width // 2] = Segment(sign, on_colour(high if upper in signs else low, bold=True))
        return tuple(cells)


def pair_at(rows: int, width: int, x: int) -> int:
    """Which pair of a line's `rows` layers stands at cell `x` of a column of `width` cells."""
    return min(x // max(_parts(rows, width)[0], 1), max(rows // 2, 1) - 1)


def _parts(rows: int, width: int) -> tuple[int, int]:
    """How many cells a pair of layers gets in a column of `width` cells, and how many stay empty."""
    pairs = max(rows // 2, 1)
    part = (width - (width > 2 * pairs + 1)) // pairs
    return part, width - part * pairs


def _halves(upper: Rgb, lower: Rgb) -> Style:
    return Style(color=Color.from_rgb(*upper), bgcolor=Color.from_rgb(*lower))


def plain_columns(
    levels: NDArray[np.uint8], outlines: Outlines, palette: OverviewPalette, width: int, style: Style
) -> list[list[Segment]]:
    """The same without colours: a glyph for each layer, from left to right; the cursor is reversed.

    A fault has one of its own, which no sign gives way to.
    """
    cells = []
    for number, column in enumerate(levels.T.tolist()):
        texts = [
            " " if level == ABSENT
            else FAULT_GLYPH if (layer, number) in outlines.faults and level not in palette.signs
            else palette.signs.get(level) or palette.glyphs[level]
            for layer, level in enumerate(column)
        ]  # fmt: skip
        cells.append(
            [
                Segment(text, style + Style(reverse=True) if (layer, number) == outlines.cursor else style)
                for layer, text in enumerate(texts)
            ]
            + [Segment(" " * (width - len(texts)), style)]
        )
    return cells
