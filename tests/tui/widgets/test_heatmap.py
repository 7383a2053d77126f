"""Golden strips: glyph and colour of every cell, as text."""

from __future__ import annotations

import numpy as np
from textual.app import App, ComposeResult
from textual.color import Color

from aprtui.tui.draw.colours import EXACT_ZERO, ColourMap, Mark, level_colours
from aprtui.tui.widgets.heatmap import UPPER, Heatmap
from aprtui.tui.widgets.line_widget import PLAIN


class HeatmapApp(App[None]):
    def __init__(self, plain: bool = False) -> None:
        super().__init__()
        self.set_class(plain, PLAIN)

    def compose(self) -> ComposeResult:
        yield Heatmap()


def cells(heatmap: Heatmap, y: int) -> list[tuple[str, tuple[int, ...] | None, tuple[int, ...] | None]]:
    """Glyph, colour and background of each cell of a line."""
    found: list[tuple[str, tuple[int, ...] | None, tuple[int, ...] | None]] = []
    for segment in heatmap.render_line(y):
        assert segment.style is not None
        foreground, background = (
            None if colour is None else tuple(colour.get_truecolor())
            for colour in (segment.style.color, segment.style.bgcolor)
        )
        found += [(character, foreground, background) for character in segment.text]
    return found


def rgb(level: int) -> tuple[int, ...]:
    return tuple(level_colours(ColourMap.CIVIDIS)[level] or ())


async def test_two_rows_share_a_line_and_each_has_its_colour() -> None:
    async with HeatmapApp().run_test(size=(6, 2)) as pilot:
        heatmap = pilot.app.query_one(Heatmap)
        assert heatmap.room == (4, 6)
        heatmap.show(np.array([[0, 10, 10], [63, 20, 20], [5, 6, 7]], np.uint8), ColourMap.CIVIDIS)
        assert cells(heatmap, 0)[:3] == [(UPPER, rgb(0), rgb(63)), (UPPER, rgb(10), rgb(20)), (UPPER, rgb(10), rgb(20))]
        lower = cells(heatmap, 1)
        assert [cell[:2] for cell in lower[:3]] == [(UPPER, rgb(level)) for level in (5, 6, 7)]
        assert len(heatmap.render_line(0)._segments) == 3, "equal neighbours are one run, the rest is blank"


async def test_marks_are_letters_and_win_over_the_other_half() -> None:
    async with HeatmapApp().run_test(size=(4, 1)) as pilot:
        heatmap = pilot.app.query_one(Heatmap)
        heatmap.show(np.array([[Mark.NAN, 3, Mark.INF], [5, Mark.NAN, Mark.NAN]], np.uint8), ColourMap.CIVIDIS)
        assert "".join(cell[0] for cell in cells(heatmap, 0)) == "XXX "


async def test_without_colour_every_row_has_a_line_of_glyphs() -> None:
    async with HeatmapApp(plain=True).run_test(size=(5, 3)) as pilot:
        heatmap = pilot.app.query_one(Heatmap)
        assert heatmap.room == (3, 5)
        heatmap.show(
            np.array([[0, 32, 63, Mark.NAN], [Mark.MISSING, Mark.ZERO, Mark.INF, 20]], np.uint8), ColourMap.UNBOUNDED
        )
        assert "".join(cell[0] for cell in cells(heatmap, 0)) == " =@X "
        assert "".join(cell[0] for cell in cells(heatmap, 1)) == "·0I: "


async def test_the_cursor_stands_out_and_only_its_lines_are_drawn_again() -> None:
    async with HeatmapApp().run_test(size=(4, 2)) as pilot:
        heatmap = pilot.app.query_one(Heatmap)
        heatmap.show(np.full((4, 4), 30, np.uint8), ColourMap.CIVIDIS, (2, 1))
        before = heatmap.render_line(0)
        black, white = Color.parse("#000000").rgb, Color.parse("#ffffff").rgb
        assert cells(heatmap, 1)[1] == (UPPER, black, white)
        heatmap.move_cursor((3, 1))
        assert cells(heatmap, 1)[1] == ("▄", black, white)
        assert heatmap.render_line(0) is before


async def test_what_is_small_is_dark_on_a_light_theme_too() -> None:
    """Exact zeros and values below the scale are not as the background, which would be the lightest of all."""
    async with HeatmapApp().run_test(size=(4, 1)) as pilot:
        pilot.app.theme = "textual-light"
        heatmap = pilot.app.query_one(Heatmap)
        heatmap.show(np.array([[Mark.ZERO, Mark.BELOW, Mark.MISSING]], np.uint8), ColourMap.CIVIDIS)
        zero, below, missing = (cell[1] for cell in cells(heatmap, 0)[:3])
        assert zero == EXACT_ZERO and below == rgb(0) and missing == heatmap.background
