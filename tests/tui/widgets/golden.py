"""What is drawn, as text, held against files in tests/data/screens.

A widget is its lines, with the colour of each run by its index: `▀▀[a13/a50]` are two half blocks, the upper one of
colour 13 of the map of added error, the lower one of 50; `1.5[c7]` is text on colour 7 of `cividis`; `-` is a colour of
no map. Reversed text, as under the cursor, stands in `‹ ›`.

A whole screen is its lines of text, and below them the styles of each line from left to right: `12 #e0e0e0/a13 bold`
are twelve cells of bold text in that grey on colour 13 of the map of added error.

The last digit of a decimal number may be off by one: processors add in orders of their own, and a value may lie between
two numbers of three digits.

`APRTUI_WRITE_GOLDEN=1 pytest FILE` writes the files of its tests again; look at what has changed before you commit
them.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from itertools import groupby, product
from pathlib import Path

from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

from aprtui.tui.draw.colours import ColourMap, level_colours

FOLDER = Path(__file__).parents[2] / "data" / "screens"

_DECIMAL = re.compile(r"\d+\.\d+")

_NUMBERS: dict[tuple[int, ...], str] = {}
for _map, _dark in product(ColourMap, (True, False)):
    for _level, _rgb in enumerate(level_colours(_map, dark=_dark)):
        if _rgb is not None:
            # The ends of a map are the colours of what is clipped, too: the first level stands for both.
            _NUMBERS.setdefault(_rgb, f"{_map[0]}{_level}")


def check_golden(name: str, widget: Widget) -> None:
    """Hold the lines of `widget` against the file `name`."""
    lines = [widget.render_line(y) for y in range(widget.size.height)]
    check_lines(name, ["".join(map(_run, line)).rstrip() for line in lines])


def check_lines(name: str, lines: Sequence[str]) -> None:
    """Hold `lines` against the file `name`; where they differ, fail with the lines that do."""
    file = FOLDER / f"{name}.txt"
    if os.environ.get("APRTUI_WRITE_GOLDEN"):
        FOLDER.mkdir(exist_ok=True)
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    expected = file.read_text(encoding="utf-8").splitlines()
    if len(lines) == len(expected):
        pairs = zip(expected, lines, strict=True)
        lines = [before if _same_but_last_digits(before, now) else now for before, now in pairs]
    difference = [*difflib.unified_diff(expected, list(lines), file.name, "drawn now", n=0, lineterm="")]
    assert not difference, "\n".join(difference)


def _same_but_last_digits(before: str, now: str) -> bool:
    """Whether two lines differ in no more than one in the last digit of decimal numbers."""
    if len(before) != len(now) or _DECIMAL.sub("", before) != _DECIMAL.sub("", now):
        return False
    numbers = zip(_DECIMAL.findall(before), _DECIMAL.findall(now), strict=True)
    return all(
        a.index(".") == b.index(".") and abs(int(a.replace(".", "")) - int(b.replace(".", ""))) <= 1
        for a, b in numbers
    )  # fmt: skip


def screen_lines(strips: Iterable[Strip]) -> list[str]:
    """The lines of a screen: text, then styles, each line of them with the number of the line that it is about."""
    rows = [[segment for segment in strip if segment.text] for strip in strips]
    texts = ["".join(segment.text for segment in row).rstrip() for row in rows]
    return [*texts, "", *(f"{number:>2}: {_styles(row)}".rstrip() for number, row in enumerate(rows, 1))]


def _styles(row: Iterable[Segment]) -> str:
    """Every run of one style: how many cells it is wide, and the style."""
    runs = groupby(row, _style_text)
    return " | ".join(f"{sum(segment.cell_length for segment in run)} {style}" for style, run in runs)


def _style_text(segment: Segment) -> str:
    """Colours and attributes; of spaces only what is seen of them."""
    style = segment.style or Style.null()
    background = _colour_text(style.bgcolor)
    if not segment.text.strip(" ") and not (style.reverse or style.underline or style.strike):
        return f"-/{background}"
    names = ("bold", "dim", "italic", "underline", "strike", "reverse")
    return " ".join([f"{_colour_text(style.color)}/{background}", *(name for name in names if getattr(style, name))])


def _colour_text(colour: Color | None) -> str:
    if colour is None or colour.is_default:
        return "-"
    number = _number(colour)
    return colour.get_truecolor().hex if number == "-" else number


def _run(segment: Segment) -> str:
    style, text = segment.style, segment.text
    if style is None or not text:
        return text
    if style.reverse:
        return f"‹{text}›"
    above, below = _number(style.color), _number(style.bgcolor)
    if "▀" in text:
        return f"{text}[{above}/{below}]"
    return text if below == "-" else f"{text}[{below}]"


def _number(colour: Color | None) -> str:
    return "-" if colour is None else _NUMBERS.get(tuple(colour.get_truecolor()), "-")
