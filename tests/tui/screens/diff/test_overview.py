"""The overview of all layers of a comparison: its colours are the verdicts, and it shows deep models at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.comparison import Comparison
from aprtui.compare.conclusion import judge_by_bound
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.verdict import Tolerance
from aprtui.errors import UsageError
from aprtui.trace.graph.stage import Node
from aprtui.tui import app as app_module
from aprtui.tui.app import SCREENS
from aprtui.tui.draw.colours import LEVELS, ColourMap, Mark, level_colours
from aprtui.tui.draw.overview import CURSOR
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenName, parse_state, screen_state
from aprtui.tui.screens.diff.cells import DiffCell, Sign, cells, greys, step_level
from aprtui.tui.screens.diff.grid import DiffGrid
from aprtui.tui.screens.diff.overview import overview_legend, overview_level, overview_palette
from aprtui.tui.screens.diff.screen import DiffScreen
from aprtui.tui.widgets.overview_grid import GridView
from tests.compare.recorded import FAULT, read_back, two_captures
from tests.compare.synthetic import CONFIG, Edit, changed, scaled, write_capture
from tests.tui.driver import Driver, screen_text, showing, tool_screen, until
from tests.tui.screens.diff.recorded import playing, screen_playing
from tests.tui.screens.live.recorded import RecordedSource

CULPRIT = Node(9, "ffn_gate")
INHERITS = Node(9, "ffn_silu")
Sides = tuple[Path, Path]


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Sides:
    return two_captures(tmp_path_factory.mktemp("shallow"))


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Mapping[int, Sides]:
    """Captures of 28 and of 80 layers with a fault at layer 9."""
    folder, edits = tmp_path_factory.mktemp("deep"), {CULPRIT: scaled(2), INHERITS: scaled(1.5)}
    return {layers: pair_of(folder / str(layers), layers, edits) for layers in (28, 80)}


def pair_of(folder: Path, layers: int, edits: Mapping[Node, Edit]) -> Sides:
    config = replace(CONFIG, layers=layers)
    return write_capture(folder / "a", config=config), write_capture(folder / "b", config=config, edits=edits)


@asynccontextmanager
async def opened(
    sides: Sides, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], *, plain: bool = False, **fields: object
) -> AsyncIterator[tuple[Driver, DiffGrid]]:
    """The diff of two captures, judged by a bound."""
    monkeypatch.setattr(app_module, "SCREENS", {**SCREENS, ScreenName.DIFF: screen_playing(playing(*sides))})
    state = screen_state(ScreenName.DIFF, a=sides[0], b=sides[1], metric="rel_l2", bound=0.1, **fields)
    async with showing(state, size, ascii_only=plain) as pilot:
        await until(pilot, lambda: "FAIL" in screen_text(pilot))
        await pilot.pause(0.1)
        yield pilot, pilot.app.screen.query_one(DiffGrid)


def labels(grid: DiffGrid) -> list[int]:
    """The layers that stand at the left."""
    texts = (grid.render_line(y).text[:4].strip() for y in range(grid.size.height))
    return [int(text) for text in texts if text.isdecimal()]


def halves(grid: DiffGrid, node: Node) -> list[tuple[object, object]]:
    """The colours of the upper and the lower half of each cell of a stage in the line of its layer."""
    start = grid._column_starts()[list(grid._columns).index(node.stage)]
    cells = [
        tuple(None if colour is None else colour.triplet for colour in (segment.style.color, segment.style.bgcolor))
        for segment in grid.render_line(grid._line_of(node))
        if segment.style
        for _ in segment.text
    ]
    return cells[start : start + grid._cell_width(grid.size.width)]  # type: ignore[return-value]


def levels_of(comparison: Comparison, metric: Metric = Metric.REL_L2) -> dict[Node, int]:
    return {node: overview_level(cell) for node, cell in cells(comparison, metric).items()}


def colour(level: int) -> object:
    return overview_palette(dark=True).colours[level]


def test_red_is_for_what_a_stage_adds_and_ochre_for_what_it_may_have_inherited(shallow: Sides) -> None:
    judged = judge_by_bound(read_back(*shallow), Tolerance(Metric.REL_L2, 0.01))
    found = levels_of(judged)
    added, observed = level_colours(ColourMap.ADDED), level_colours(ColourMap.OBSERVED)
    assert colour(found[FAULT]) == added[LEVELS - 1]
    assert colour(found[Node(1, "ffn_silu")]) == observed[LEVELS - 1]
    assert colour(found[Node(0, "ffn_gate")]) == added[0] == observed[0], "what passes is calm"
    signs = overview_palette(dark=True).signs
    assert signs[found[FAULT]] == Sign.ADDS.value and found[Node(1, "ffn_silu")] not in signs


def test_what_no_bound_judges_has_colours_of_its_own(shallow: Sides) -> None:
    comparison = read_back(*shallow)
    found = levels_of(comparison)
    greys_of_map = level_colours(ColourMap.UNBOUNDED)[:LEVELS]
    assert colour(found[FAULT]) in greys_of_map and colour(found[Node(2, "qkv_matmul")]) in greys_of_map
    assert found[FAULT] > found[Node(2, "qkv_matmul")], "a larger error is brighter"
    unjudged = DiffCell(None, LEVELS - 1, Sign.UNJUDGED)
    assert colour(overview_level(unjudged)) in greys_of_map, "UNKNOWN beside a bound is not ochre"


def test_the_culprit_stays_red_by_a_metric_that_no_bound_is_on(shallow: Sides) -> None:
    judged = judge_by_bound(read_back(*shallow), Tolerance(Metric.REL_L2, 0.01))
    found = levels_of(judged, Metric.MAX_ABS)
    assert colour(found[FAULT]) == level_colours(ColourMap.ADDED)[LEVELS - 1]
    assert colour(found[Node(1, "ffn_silu")]) in level_colours(ColourMap.UNBOUNDED)


def test_a_replay_shows_what_each_stage_adds() -> None:
    inherits = DiffCell(0, LEVELS - 1, Sign.NONE)
    assert colour(overview_level(inherits)) == level_colours(ColourMap.ADDED)[0]


def test_where_nan_begins_it_has_its_own_colour_and_after_that_it_is_inherited() -> None:
    begins = overview_level(DiffCell(Mark.NAN, Mark.NAN, Sign.NAN))
    inherited = overview_level(DiffCell(None, Mark.NAN, Sign.NAN))
    palette = overview_palette(dark=True)
    assert palette.signs[begins] == palette.signs[inherited] == "X"
    assert colour(begins) == level_colours(ColourMap.ADDED)[Mark.NAN]
    assert colour(inherited) == level_colours(ColourMap.OBSERVED)[LEVELS - 1]


def test_every_level_has_a_look_below_that_of_no_layer() -> None:
    levels = {overview_level(DiffCell(None, None, sign)) for sign in Sign if sign not in (Sign.NAN, Sign.INF)}
    for dark in (True, False):
        palette = overview_palette(dark=dark)
        assert len(palette.colours) == len(palette.glyphs) <= 255
        assert max(levels) < len(palette.colours) and max(palette.signs) < len(palette.colours)


def test_the_legend_says_what_occurs(shallow: Sides, tmp_path: Path) -> None:
    plain = read_back(*shallow)
    judged = judge_by_bound(plain, Tolerance(Metric.REL_L2, 0.01))

    def legend(comparison: Comparison) -> list[str]:
        found, scale = cells(comparison, Metric.REL_L2), greys(comparison, Metric.REL_L2)
        return [swatch.text for swatch in overview_legend(found.values(), scale)]

    assert legend(judged) == ["within its bound", "adds error itself", "beyond it, may be inherited"]
    assert legend(plain)[1].startswith("rel_l2 without a bound: ")
    nan = read_back(*two_captures(tmp_path, {FAULT: changed((2, 7), np.nan)}))
    assert "NaN on one side" in legend(nan)
    after = read_back(
        *two_captures(tmp_path / "after", {node: changed((2, 7), np.nan) for node in (FAULT, Node(1, "ffn_silu"))})
    )
    assert legend(after)[-2:] == ["NaN on one side", "may be inherited"]


@pytest.mark.parametrize(
    ("layers", "size", "plain"),
    [
        (28, (80, 24), False), (28, (120, 40), False), (80, (120, 40), False), (80, (200, 60), False),
        (28, (80, 24), True), (28, (120, 40), True), (80, (200, 60), True),
    ],
)  # fmt: skip
async def test_all_layers_are_seen_at_once(
    deep: Mapping[int, Sides], monkeypatch: pytest.MonkeyPatch, layers: int, size: tuple[int, int], plain: bool
) -> None:
    async with opened(deep[layers], monkeypatch, size, plain=plain) as (_, grid):
        if grid.view is GridView.OVERVIEW:
            rows = grid._lines.rows
            assert [layer - layer % rows for layer in labels(grid)] == list(range(0, layers, rows))
        else:
            assert labels(grid) == list(range(layers))
        assert str(grid.border_subtitle) == f"{layers} layers"


async def test_where_all_layers_have_a_line_the_two_signals_of_each_stage_are_shown(
    shallow: Sides, deep: Mapping[int, Sides], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(shallow, monkeypatch, (80, 24)) as (_, grid):
        assert grid.view is GridView.NUMBERS and grid.wanted_view is None
    async with opened(deep[28], monkeypatch, (120, 40)) as (pilot, grid):
        assert grid.view is GridView.OVERVIEW
        await pilot.resize_terminal(200, 60)
        await until(pilot, lambda: grid.view is GridView.NUMBERS)
        assert "upper half: what the stage adds" in screen_text(pilot)
        await pilot.resize_terminal(120, 40)
        await until(pilot, lambda: grid.view is GridView.OVERVIEW)


async def test_the_cursor_is_on_the_culprit_and_goes_layer_by_layer(
    deep: Mapping[int, Sides], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(deep[28], monkeypatch, (80, 24)) as (pilot, grid):
        assert grid.node == CULPRIT and labels(grid)[4] == 9
        red = level_colours(ColourMap.ADDED)[step_level(4)]
        assert halves(grid, CULPRIT)[0][1] == CURSOR[True]
        await pilot.press("j", "j")
        assert grid.node == Node(11, "ffn_gate") and labels(grid)[4] == 8
        assert halves(grid, CULPRIT)[0][1] == red and "◆" in grid.render_line(grid._line_of(CULPRIT)).text
        await pilot.press("g", "d")
        assert grid.node == CULPRIT
        await pilot.press("end", "j")
        assert grid.node == Node(None, "lm_head")
        await pilot.press("k")
        assert grid.node == Node(27, "ffn_gate") and labels(grid)[-1] == 27


async def test_the_line_below_a_header_ends_with_its_name(
    shallow: Sides, deep: Mapping[int, Sides], monkeypatch: pytest.MonkeyPatch
) -> None:
    def underlined(grid: DiffGrid) -> list[str]:
        segments = [segment for y in range(grid.size.height) for segment in grid.render_line(y)]
        return [segment.text for segment in segments if segment.text and segment.style and segment.style.underline]

    async with opened(shallow, monkeypatch, (200, 60)) as (_, grid):
        assert underlined(grid) == ["ffn", "gate"]
    async with opened(deep[28], monkeypatch, (120, 40)) as (pilot, grid):
        assert underlined(grid) == ["gat", "9"]
        await pilot.press("end", "j")
        assert "lm_head" in underlined(grid)


async def test_z_gives_the_overview_the_whole_screen(
    deep: Mapping[int, Sides], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(deep[28], monkeypatch, (120, 40), view="overview") as (pilot, grid):
        before = grid.size.height
        await pilot.press("z")
        await until(pilot, lambda: grid.size.height > before)
        assert grid.node == CULPRIT and len(labels(grid)) == 14 and grid.view is GridView.OVERVIEW


async def test_a_click_goes_to_the_first_layer_of_a_line_and_a_second_one_to_the_other(
    deep: Mapping[int, Sides], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(deep[28], monkeypatch, (80, 24)) as (pilot, grid):
        place = next(place for place in grid.jump_places() if place.target == Node(6, "ffn_up"))
        for layer in (6, 7, 6):
            await pilot.click(grid, offset=(place.at + 3, place.line + 1))
            assert grid.node == Node(layer, "ffn_up")
        once = next(place for place in grid.jump_places() if place.target == Node(None, "final_norm"))
        await pilot.click(grid, offset=(once.at + 3, once.line + 1))
        assert grid.node == Node(None, "final_norm") and pilot.app.screen is tool_screen(pilot)


async def test_v_goes_through_all_views_and_the_state_keeps_that_of_the_grid(
    deep: Mapping[int, Sides], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(deep[28], monkeypatch, (80, 24), view="overview") as (pilot, grid):
        await pilot.press("v")
        shown: GridView = grid.view
        assert shown is GridView.NUMBERS and tool_screen(pilot).state().text("view") == "numbers"
        assert "ano qkv bia" in screen_text(pilot), "narrow columns have codes"
        for view in ("#panes", "#hypotheses", "#dock"):
            await pilot.press("v")
            assert pilot.app.screen.query_one(view).has_focus
        await pilot.press("v")
        assert grid.has_focus and str(grid.view) == "overview"
        assert tool_screen(pilot).state().text("view") == "overview"


@pytest.mark.parametrize(("layers", "views"), [(28, ["#dock"]), (80, ["#hypotheses", "#dock"])])
async def test_v_shows_what_has_no_room_beside_the_overview(
    deep: Mapping[int, Sides], monkeypatch: pytest.MonkeyPatch, layers: int, views: list[str]
) -> None:
    async with opened(deep[layers], monkeypatch, (120, 40)) as (pilot, grid):
        await pilot.press("v")
        for view in views:
            await pilot.press("v")
            shown = pilot.app.screen.query_one(view)
            await until(pilot, lambda shown=shown: shown.has_focus and shown.region.height > 3)  # type: ignore[misc]
        await pilot.press("v")
        assert grid.has_focus and grid.view is GridView.OVERVIEW


async def test_folded_layers_have_a_line_each_and_the_overview_unfolds_them(
    deep: Mapping[int, Sides], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(deep[28], monkeypatch, (80, 24)) as (pilot, grid):
        await pilot.press("F")
        assert "layers 10–27: 18 layers alike" in screen_text(pilot)
        await pilot.press("v", "v", "v", "v")
        assert "alike" not in screen_text(pilot) and grid.view is GridView.OVERVIEW


async def test_without_colours_each_layer_has_a_glyph(
    deep: Mapping[int, Sides], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(deep[28], monkeypatch, (80, 24), plain=True) as (pilot, grid):
        text = grid.render_line(grid._line_of(CULPRIT)).text
        starts = dict(zip(grid._columns, grid._column_starts(), strict=True))
        assert text[starts[CULPRIT.stage] + 1] == "◆" and text[starts[INHERITS.stage] + 1] == "!"
        assert text.count("◆") == text.count("!") == 1
        assert "# adds error itself  ! beyond it, may be inherited" in screen_text(pilot)


def test_a_view_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="view is 'all': expected one of numbers, overview"):
        DiffScreen(Session(RecordedSource()), parse_state("aprtui:diff?a=x&b=y&view=all"))


async def test_layers_of_another_kind_are_marked_in_a_diff_and_named_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, windows=(0, 4, 4))
    a = write_capture(tmp_path / "a", config=config)
    b = write_capture(tmp_path / "b", config=config, edits={Node(1, "ffn_up"): scaled(2)})
    async with opened((a, b), monkeypatch, (120, 40)) as (pilot, grid):
        await until(pilot, lambda: any("1~" in grid.render_line(y).text[:4] for y in range(grid.size.height)))
        texts = [grid.render_line(y).text[:4] for y in range(grid.size.height)]
        assert [text for text in texts if text[:3].strip().isdecimal()] == ["  0 ", "  1~", "  2~"]
        assert "a window of 4 positions" in screen_text(pilot)
