"""Lines of a screen as text, held against files in tests/data/screens: glyphs, and the colour of each run by its index.

`▀▀[e13/e50]` are two half blocks, the upper one of colour 13 of the map `error`, the lower one of 50; `1.5[c7]` is text
on colour 7 of `cividis`; `-` is a colour of no map. Reversed text, as under the cursor, stands in `‹ ›`.

`APRTUI_WRITE_GOLDEN=1` writes the files anew; look at what has changed before you commit them.
"""

from __future__ import annotations

import os
from pathlib import Path

from rich.color import Color
from rich.segment import Segment
from textual.widget import Widget

from aprtui.tui.draw.colours import ColourMap, level_colours

FOLDER = Path(__file__).parents[2] / "data" / "screens"

_NUMBERS: dict[tuple[int, ...], str] = {}
for _map in ColourMap:
    for _level, _rgb in enumerate(level_colours(_map)):
        if _rgb is not None:
            # The ends of a map are the colours of what is clipped, too: the first level stands for both.
            _NUMBERS.setdefault(_rgb, f"{_map[0]}{_level}")


def check_golden(name: str, widget: Widget) -> None:
    """Hold the lines of `widget` against the file `name`."""
    lines = [widget.render_line(y) for y in range(widget.size.height)]
    text = "".join("".join(map(_run, line)).rstrip() + "\n" for line in lines)
    file = FOLDER / f"{name}.txt"
    if os.environ.get("APRTUI_WRITE_GOLDEN"):
        FOLDER.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


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
