"""What the overview of a comparison shows of each stage: one colour, that of the verdict.

It is for the error that the stage adds itself where that is known, else for the difference that is observed there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache

from aprtui.tui.draw.colours import LEVELS, ColourMap, Mark, glyph, level_colours
from aprtui.tui.draw.overview import OverviewPalette
from aprtui.tui.screens.diff.cells import SIGN_TEXTS, STEPS, DiffCell, Greys, Sign, step_level

BOUND_STEP = STEPS // 2
"""The first step of error that is beyond its bound."""

_ADDED = 0
_OBSERVED = LEVELS + len(Mark)
_UNJUDGED = _OBSERVED + LEVELS
_FURTHER = _UNJUDGED + LEVELS
_INHERITED = {Sign.NAN: _FURTHER, Sign.INF: _FURTHER + 1}
_ABSENT = {Sign.DAMAGED: _FURTHER + 2, Sign.ONLY_A: _FURTHER + 3, Sign.ONLY_B: _FURTHER + 4, Sign.SKIPPED: _FURTHER + 5}
NOTHING_KNOWN = _FURTHER + 6
_DIGITS = "0123456789"

_STEP_LEVELS = [step_level(step) for step in range(STEPS)]
WITHIN, BEYOND = _STEP_LEVELS[:BOUND_STEP], _STEP_LEVELS[BOUND_STEP:]


def overview_level(cell: DiffCell) -> int:
    """The level of a stage in the overview; red is for what a stage adds beyond its bound, by whichever metric."""
    if cell.sign in _INHERITED:
        begins = Mark.NAN if cell.sign is Sign.NAN else Mark.INF
        return _INHERITED[cell.sign] if cell.upper is None else int(begins)
    if cell.lower is None:
        return _ABSENT.get(cell.sign, NOTHING_KNOWN)
    level, colour_map = _shown(cell, cell.lower)
    if cell.sign is Sign.ADDS:
        return _ADDED + (LEVELS - 1 if colour_map is ColourMap.UNBOUNDED else level)
    if cell.sign is Sign.UNJUDGED or colour_map is ColourMap.UNBOUNDED:
        return _UNJUDGED + level
    return _OBSERVED + level


def _shown(cell: DiffCell, lower: int) -> tuple[int, ColourMap]:
    """Level and colours of the half that the overview shows."""
    return (lower, cell.lower_map) if cell.upper is None else (cell.upper, cell.upper_map)


def _is_grey(cell: DiffCell) -> bool:
    return cell.lower is not None and _shown(cell, cell.lower)[1] is ColourMap.UNBOUNDED


@cache
def overview_palette(*, dark: bool) -> OverviewPalette:
    """The looks of these levels, by whether the theme is dark."""
    added, observed, unjudged = (
        level_colours(each, dark=dark) for each in (ColourMap.ADDED, ColourMap.OBSERVED, ColourMap.UNBOUNDED)
    )
    worst = observed[LEVELS - 1]
    ramp = [glyph(level) for level in range(LEVELS + len(Mark))]
    beyond = [*ramp[: BEYOND[0]], *["!"] * (LEVELS - BEYOND[0])]
    digits = [_DIGITS[level * len(_DIGITS) // LEVELS] for level in range(LEVELS)]
    signs = {_ADDED + level: Sign.ADDS.value for level in BEYOND}
    signs |= {Mark.NAN.value: Sign.NAN.value, Mark.INF.value: Sign.INF.value}
    signs |= {level: sign.value for sign, level in (_INHERITED | _ABSENT).items()}
    return OverviewPalette(
        (*added, *observed[:LEVELS], *unjudged[:LEVELS], worst, worst, *[None] * (len(_ABSENT) + 1)),
        signs,
        (*ramp, *beyond, *digits, *[" "] * (len(_INHERITED) + len(_ABSENT) + 1)),
    )


@dataclass(frozen=True, slots=True)
class Swatch:
    """Levels of the overview, and what they mean."""

    levels: tuple[int, ...]
    text: str


def overview_legend(cells: Collection[DiffCell], greys: Greys) -> Iterator[Swatch]:
    """What the colours mean that occur among `cells`."""
    found = {overview_level(cell) for cell in cells}

    def occurs(first: int, levels: Collection[int]) -> bool:
        return any(first + level in found for level in levels)

    within = occurs(_OBSERVED, WITHIN)
    if within:
        yield Swatch(tuple(_OBSERVED + level for level in WITHIN), "within its bound")
    if occurs(_ADDED, BEYOND):
        yield Swatch(tuple(_ADDED + level for level in BEYOND), SIGN_TEXTS[Sign.ADDS])
    if occurs(_OBSERVED, BEYOND):
        yield Swatch(
            tuple(_OBSERVED + level for level in BEYOND), f"beyond {'it' if within else 'its bound'}, may be inherited"
        )
    unjudged = [cell for cell in cells if _UNJUDGED <= overview_level(cell) < _FURTHER]
    if unjudged:
        text = greys.words if all(_is_grey(cell) for cell in unjudged) else SIGN_TEXTS[Sign.UNJUDGED]
        yield Swatch(tuple(_UNJUDGED + level for level in (0, LEVELS // 2, LEVELS - 1)), text)
    for sign, inherited in _INHERITED.items():
        begins = Mark.NAN if sign is Sign.NAN else Mark.INF
        if begins in found or inherited in found:
            yield Swatch((int(begins) if begins in found else inherited,), SIGN_TEXTS[sign])
    for sign, level in _ABSENT.items():
        if level in found:
            yield Swatch((level,), SIGN_TEXTS[sign])
