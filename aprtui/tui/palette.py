"""Colours: the theme of the app, and the colour map of the stage grid."""

from __future__ import annotations

from functools import cache

from rich.color import Color
from rich.style import Style
from textual.theme import Theme

from aprtui.tui.levels import LEVELS, Mark

THEME = Theme(
    name="aprtui-dark",
    primary="#e1cc55",
    accent="#e1cc55",
    secondary="#8a8678",
    warning="#e1cc55",
    error="#ff6b81",
    success="#e1cc55",
    foreground="#d8dce3",
    background="#0e1116",
    surface="#12161d",
    panel="#1a1f29",
    dark=True,
    variables={"border": "#e1cc55", "border-blurred": "#343c49", "footer-key-foreground": "#e1cc55"},
)

# Ten evenly spaced colours of cividis (Nuñez, Anderton and Renslow 2018, PLOS ONE 13(7) e0199239), which reads the same
# with and without colour-vision deficiency.
_CIVIDIS = (
    (0, 34, 78), (18, 53, 112), (59, 73, 108), (87, 93, 109), (112, 113, 115),
    (138, 134, 120), (165, 156, 116), (195, 179, 105), (225, 204, 85), (254, 232, 56),
)  # fmt: skip

_MARK_COLOURS = {Mark.NAN: (255, 45, 111), Mark.INF: (255, 138, 0)}


@cache
def level_styles() -> tuple[Style, ...]:
    """The style of each level and mark of a tile, by its value; marks without a colour of their own get none."""
    levels = [_on(_mixed(level / (LEVELS - 1))) for level in range(LEVELS)]
    marks = [_on(_MARK_COLOURS[mark], bold=True) if mark in _MARK_COLOURS else Style(dim=True) for mark in Mark]
    return (*levels, *marks)


def _mixed(share: float) -> tuple[int, int, int]:
    place = share * (len(_CIVIDIS) - 1)
    index = min(int(place), len(_CIVIDIS) - 2)
    low, high = _CIVIDIS[index], _CIVIDIS[index + 1]
    red, green, blue = (round(a + (b - a) * (place - index)) for a, b in zip(low, high, strict=True))
    return red, green, blue


def _on(background: tuple[int, int, int], bold: bool = False) -> Style:
    """Text that can be read on `background` (relative luminance above or below that of a middle grey)."""
    red, green, blue = background
    bright = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 125
    text = Color.from_rgb(13, 17, 23) if bright else Color.from_rgb(236, 239, 244)
    return Style(color=text, bgcolor=Color.from_rgb(red, green, blue), bold=bold)
