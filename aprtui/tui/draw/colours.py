"""Levels of values, the glyphs and colours that stand for them, and the themes of the app.

The colour maps read the same with and without colour-vision deficiency.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum, StrEnum
from functools import cache

from rich.color import Color
from rich.style import Style
from textual.theme import Theme

LEVELS = 64
"""Colour levels; more could not be told apart, and few styles mean few colour changes to send."""


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


def _theme(
    name: str, *, dark: bool, accent: str, muted: str, error: str, success: str, text: str,
    surfaces: tuple[str, str, str, str],
) -> Theme:  # fmt: skip
    """A theme with one colour for all that stands out, and one for FAIL and PASS each; `surfaces` are background,
    surface, panel and border."""
    background, surface, panel, border = surfaces
    return Theme(
        name, primary=accent, accent=accent, warning=accent, success=success, secondary=muted, error=error,
        foreground=text, background=background, surface=surface, panel=panel, dark=dark,
        variables={"border": accent, "border-blurred": border, "footer-key-foreground": accent},
    )  # fmt: skip


DARK = _theme(
    "aprtui-dark", dark=True, accent="#e1cc55", muted="#8a8678", error="#ff6b81", success="#7fb8e6",
    text="#d8dce3",
    surfaces=("#0e1116", "#12161d", "#1a1f29", "#343c49"),
)  # fmt: skip
LIGHT = _theme(
    "aprtui-light", dark=False, accent="#7a5c00", muted="#6d6a5f", error="#b3113a", success="#1f5f99",
    text="#1d2129",
    surfaces=("#fbfaf6", "#f4f2ea", "#e8e5da", "#c3bfb0"),
)  # fmt: skip

# Ten evenly spaced colours of cividis (Nuñez, Anderton and Renslow 2018, PLOS ONE 13(7) e0199239), which reads the same
# with and without colour-vision deficiency.
_CIVIDIS = (
    (0, 34, 78), (18, 53, 112), (59, 73, 108), (87, 93, 109), (112, 113, 115),
    (138, 134, 120), (165, 156, 116), (195, 179, 105), (225, 204, 85), (254, 232, 56),
)  # fmt: skip

# Diverging, for signed values: blue below zero, orange above. Zero is as the background of the theme: small values are
# calm, large ones of either sign stand out.
_DIVERGING_ON_DARK = (
    (172, 212, 244), (98, 168, 222), (52, 118, 180), (30, 72, 116), (18, 36, 56), (14, 17, 22),
    (54, 33, 15), (116, 64, 14), (180, 98, 18), (234, 144, 46), (255, 205, 128),
)  # fmt: skip
# Ends of ColorBrewer's PuOr by way of a light middle.
_DIVERGING_ON_LIGHT = (
    (5, 48, 97), (33, 102, 172), (67, 147, 195), (146, 197, 222), (209, 229, 240), (251, 250, 246),
    (253, 219, 199), (244, 165, 130), (230, 97, 1), (179, 88, 6), (127, 59, 8),
)  # fmt: skip

# Error against its bound, in six steps: blue up to the bound, and beyond it red where it is a stage's own, ochre where
# it may be inherited. What no bound judges is grey.
_WITHIN_ON_DARK = ((30, 42, 56), (43, 66, 90), (66, 106, 145))
_WITHIN_ON_LIGHT = ((222, 233, 243), (188, 212, 233), (140, 182, 217))
_ADDED_ON_DARK = (*_WITHIN_ON_DARK, (222, 116, 122), (240, 84, 104), (255, 58, 88))
_ADDED_ON_LIGHT = (*_WITHIN_ON_LIGHT, (232, 138, 148), (212, 74, 100), (179, 17, 58))
_OBSERVED_ON_DARK = (*_WITHIN_ON_DARK, (106, 86, 52), (148, 116, 60), (188, 146, 72))
_OBSERVED_ON_LIGHT = (*_WITHIN_ON_LIGHT, (242, 222, 184), (228, 196, 136), (206, 166, 92))
_UNBOUNDED_ON_DARK = ((26, 30, 38), (101, 111, 126))
_UNBOUNDED_ON_LIGHT = ((236, 234, 226), (142, 146, 154))

_MARK_COLOURS = {Mark.NAN: (255, 45, 111), Mark.INF: (255, 138, 0)}

Rgb = tuple[int, int, int]

CURSOR = {
    True: Style(reverse=True, bold=True, color="#ffffff", bgcolor="#000000"),
    False: Style(reverse=True, bold=True, color="#000000", bgcolor="#ffffff"),
}
"""The style of the cell under the cursor, by whether the theme is dark; without colours it is still reversed."""

TINTS = 8
"""Tints of text; more could not be told apart, and equal neighbours are drawn as one segment."""


class ColourMap(StrEnum):
    """What levels 0 … 63 look like."""

    CIVIDIS = "cividis"
    DIVERGING = "diverging"
    ADDED = "added error"
    OBSERVED = "observed error"
    UNBOUNDED = "unbounded error"


_STOPS = {
    ColourMap.CIVIDIS: _CIVIDIS,
    ColourMap.DIVERGING: _DIVERGING_ON_DARK,
    ColourMap.ADDED: _ADDED_ON_DARK,
    ColourMap.OBSERVED: _OBSERVED_ON_DARK,
    ColourMap.UNBOUNDED: _UNBOUNDED_ON_DARK,
}
_STOPS_ON_LIGHT = {
    ColourMap.DIVERGING: _DIVERGING_ON_LIGHT,
    ColourMap.ADDED: _ADDED_ON_LIGHT,
    ColourMap.OBSERVED: _OBSERVED_ON_LIGHT,
    ColourMap.UNBOUNDED: _UNBOUNDED_ON_LIGHT,
}

EXACT_ZERO: Rgb = (4, 8, 14)
"""Of an exact zero on a logarithmic scale, darker than the lowest level: the background would look like a high one on a
light theme."""


@cache
def level_colours(colour_map: ColourMap = ColourMap.CIVIDIS, *, dark: bool = True) -> tuple[Rgb | None, ...]:
    """The colour of each level and mark of a tile, by its value; None for marks without a colour of their own.

    `dark` says whether the theme is.
    """
    stops = _STOPS[colour_map] if dark else _STOPS_ON_LIGHT.get(colour_map, _STOPS[colour_map])
    levels = [_mixed(stops, level / (LEVELS - 1)) for level in range(LEVELS)]
    ends = {Mark.ABOVE: levels[-1], Mark.BELOW: levels[0]}
    return (*levels, *(_MARK_COLOURS.get(mark) or ends.get(mark) for mark in Mark))


@cache
def level_styles(colour_map: ColourMap = ColourMap.CIVIDIS, *, dark: bool = True) -> tuple[Style, ...]:
    """The style of text on each level and mark of a tile, by its value; `dark` says whether the theme is."""
    colours = level_colours(colour_map, dark=dark)
    return tuple(
        Style(dim=True) if colour is None else on_colour(colour, bold=value >= LEVELS)
        for value, colour in enumerate(colours)
    )


@cache
def tint_styles(background: Rgb) -> tuple[Style, ...]:
    """The style of text by its tint, from plain to a bright yellow over `background`: most text should stay calm."""
    colours = level_colours()
    styles = [Style()]
    for step in range(1, TINTS):
        share = step / (TINTS - 1)
        bright = colours[round(share * (LEVELS - 1))]
        assert bright is not None
        styles.append(on_colour(_between(background, bright, 0.35 + 0.55 * share)))
    return tuple(styles)


def _between(low: Rgb, high: Rgb, share: float) -> Rgb:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(low, high, strict=True))
    return red, green, blue


def _mixed(stops: Sequence[Rgb], share: float) -> Rgb:
    place = share * (len(stops) - 1)
    index = min(int(place), len(stops) - 2)
    low, high = stops[index], stops[index + 1]
    return _between(low, high, place - index)


def on_colour(background: Rgb, bold: bool = False) -> Style:
    """Text that can be read on `background` (relative luminance above or below that of a middle grey)."""
    red, green, blue = background
    bright = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 125
    text = Color.from_rgb(13, 17, 23) if bright else Color.from_rgb(236, 239, 244)
    return Style(color=text, bgcolor=Color.from_rgb(red, green, blue), bold=bold)
