"""The overview of all layers, how it stands beside the view with numbers, and how faults are outlined in both."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import numpy as np
import pytest
from rich.segment import Segment
from rich.style import Style
from textual.app import App, ComposeResult
from textual.containers import Container
from textual.pilot import Pilot
from textual.theme import Theme

from aprtui.engine.process.slots import STATS
from aprtui.trace.graph.config import Activation, GraphConfig, LatentAttention, Router
from aprtui.trace.graph.ops import Scope
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph, graph_for
from aprtui.tui.draw.colours import DARK, LIGHT, ColourMap, level_colours
from aprtui.tui.draw.figures import Statistic, figures_of
from aprtui.tui.draw.overview import CURSOR, FAULT
from aprtui.tui.widgets.line_widget import PLAIN
from aprtui.tui.widgets.overview_grid import GridView
from aprtui.tui.widgets.stage_grid import StageGrid

BLUE, YELLOW = level_colours(ColourMap.CIVIDIS)[0], level_colours(ColourMap.CIVIDIS)[63]


def graph(layers: int, qk_norm: bool = False):  # type: ignore[no-untyped-def]
    return graph_for(GraphConfig("qwen2", layers, 256, 4, 2, 64, 768, 2048, qkv_bias=True, qk_norm=qk_norm))


class GridApp(App[None]):
    CSS = """
    #panes { height: 1fr; }
    StageGrid { dock: bottom; width: 100%; height: auto; border: round white; padding: 0 1; }
    .-alone StageGrid { dock: initial; height: 1fr; }
    """

    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.set_class(plain, PLAIN)

    def on_mount(self) -> None:
        self.register_theme(DARK)
        self.theme = DARK.name

    def compose(self) -> ComposeResult:
        with Container(id="panes"):
            yield StageGrid()


@asynccontextmanager
async def showing(
    layers: int, size: tuple[int, int], stats: np.ndarray | None = None, *, plain: bool = False, qk_norm: bool = False
) -> AsyncIterator[tuple[Pilot[None], StageGrid]]:
    """A grid of that many layers, whose rms doubles from layer to layer; `size` is that of the panes."""
    async with GridApp(plain).run_test(size=size) as pilot:
        grid, drawn = pilot.app.query_one(StageGrid), graph(layers, qk_norm)
        grid.open_graph(drawn)
        grid.show(figures_of(Statistic.RMS, doubling(drawn) if stats is None else stats))
        grid.focus()
        await pilot.pause()
        yield pilot, grid


def doubling(drawn) -> np.ndarray:  # type: ignore[no-untyped-def]
    stats = np.zeros(len(drawn.nodes), STATS)
    stats["count"] = 8
    stats["rms"] = [2.0 ** (node.layer or 0) for node in drawn.nodes]
    return stats


def lines(grid: StageGrid) -> list[str]:
    return [grid.render_line(y).text for y in range(grid.size.height)]


def labels(grid: StageGrid) -> list[int]:
    """The layers that stand at the left."""
    return [int(line[:4]) for line in lines(grid) if line[:4].strip().isdigit()]


def halves(grid: StageGrid, node: Node) -> list[tuple[object, ...]]:
    """The colours of the upper and the lower half of each cell of a stage in the line of its layer."""
    start = grid._column_starts()[list(grid._columns).index(node.stage)]
    cells: list[tuple[object, ...]] = [
        tuple(None if colour is None else colour.triplet for colour in (style.color, style.bgcolor))
        for segment in grid.render_line(grid._line_of(node))
        for style in [segment.style or Style()]
        for _ in segment.text
    ]
    return cells[start : start + grid._cell_width(grid.size.width)]


@pytest.mark.parametrize(
    ("layers", "size", "plain"),
    [
        (4, (80, 17), False), (24, (80, 17), False), (28, (80, 17), False), (28, (120, 33), False),
        (80, (120, 33), False), (80, (200, 53), False), (24, (80, 17), True), (28, (120, 33), True),
        (80, (200, 53), True),
    ],
)  # fmt: skip
async def test_all_layers_are_seen_in_the_room_there_is(layers: int, size: tuple[int, int], plain: bool) -> None:
    async with showing(layers, size, plain=plain) as (_, grid):
        rows = grid._lines.rows
        assert labels(grid) == list(range(0, layers, rows))
        assert f"{layers} layers" in str(grid.border_subtitle) and "more with" not in str(grid.border_subtitle)
        assert grid.outer_size.height <= size[1] * 3 / 4


async def test_26_stages_a_layer_are_seen_on_80_columns_with_their_codes() -> None:
    """Those of gpt-oss, whose biases are stages of their own."""
    config = GraphConfig(
        "gpt-oss", 24, 256, 4, 2, 64, 128, 2048, qkv_bias=True, activation=Activation.SWIGLU_OAI, sinks=True,
        attn_out_bias=True, experts=8, experts_used=2, expert_ffn=128, biased_experts=True,
    )  # fmt: skip
    async with GridApp(False).run_test(size=(80, 17)) as pilot:
        grid, wide = pilot.app.query_one(StageGrid), graph_for(config)
        grid.open_graph(wide)
        grid.show(figures_of(Statistic.RMS, doubling(wide)))
        grid.focus()
        await pilot.pause()
        assert labels(grid) == list(range(0, 24, 4)) and "more with" not in str(grid.border_subtitle)
        codes = {code for line in lines(grid)[:2] for code in line.split()}
        assert codes == {wide[name].code for name in grid._columns} and len(codes) == 26
        starts = grid._column_starts()
        assert [b - a for a, b in pairwise(starts)] == [2] * 25
        assert lines(grid)[0][starts[0] :].startswith("ano ") and lines(grid)[1][starts[1] :].startswith("qkv ")


async def test_numbers_are_shown_where_all_layers_have_room_with_them_and_v_turns_to_either_view() -> None:
    async with showing(24, (120, 53)) as (pilot, grid):
        assert labels(grid) == list(range(24))
        await pilot.resize_terminal(120, 33)
        await pilot.pause()
        assert labels(grid) == list(range(0, 24, 2))
        grid.show_view(GridView.NUMBERS)
        await pilot.pause()
        assert labels(grid)[:3] == [0, 1, 2] and "of 24 layers, more with" in str(grid.border_subtitle)
        await pilot.resize_terminal(120, 53)
        grid.show_view(GridView.OVERVIEW)
        await pilot.pause()
        assert labels(grid) == list(range(0, 24, 2))


async def test_codes_stand_above_the_overview_and_never_touch() -> None:
    async with showing(24, (80, 17)) as (_, grid):
        assert lines(grid)[0].split() == [
            "ano", "qkv", "bia", "qro", "kro", "sco", "sof", "att", "aou", "ars",
            "│fno", "gat", "fup", "sil", "swi", "fou", "frs",
        ]  # fmt: skip
    async with showing(24, (80, 17), qk_norm=True) as (_, grid):
        assert lines(grid)[0].startswith("    ano   bia   kno   kro   ")
        assert lines(grid)[1].startswith("       qkv   qno   qro   sco   ")


async def test_where_lines_between_groups_have_no_room_the_overview_goes_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = GraphConfig(
        "qwen3moe", 48, 256, 4, 2, 64, 768, 2048, qk_norm=True, experts=8, experts_used=2, expert_ffn=96
    )
    monkeypatch.setitem(globals(), "graph", lambda *_: graph_for(config))
    async with showing(48, (80, 24)) as (pilot, grid):
        assert grid.view is GridView.OVERVIEW and len(labels(grid)) == 12 and grid.size.width == 76
        codes = [line.split() for line in lines(grid)[:2]]
        assert [len(row) for row in codes] == [12, 12] and codes[1][-1] == "frs"
        assert all(len(strip) == 76 for strip in lines(grid))
        place = next(place for place in grid.jump_places() if place.target == Node(4, "post_ffn_residual"))
        assert (place.at, place.line) == (73, 4)
        await pilot.click(grid, offset=(place.at + 2, place.line + 1))
        assert grid.node == Node(4, "post_ffn_residual")
    async with showing(48, (81, 24)) as (_, grid):
        assert "│" in lines(grid)[1]


async def test_a_line_has_two_layers_as_halves_or_four_as_quarters() -> None:
    async with showing(2, (80, 17)) as (_, grid):
        grid.show_view(GridView.OVERVIEW)
        grid.put_cursor(Node(1, "ffn_out"))
        cells = halves(grid, Node(0, "attn_norm"))
        assert cells[:3] == [cells[0]] * 3 and cells[0][0] != cells[0][1]
    async with showing(60, (120, 33)) as (_, grid):
        grid.put_cursor(Node(9, "ffn_out"))
        assert grid._lines.rows == 4
        cells = halves(grid, Node(0, "attn_norm"))
        assert len(set(cells[:4])) == 2 and cells[0][0] == BLUE
        assert halves(grid, Node(59, "attn_norm"))[3][1] == YELLOW


async def test_layers_of_a_model_with_an_odd_number_end_in_an_empty_half() -> None:
    async with showing(5, (80, 17)) as (_, grid):
        grid.show_view(GridView.OVERVIEW)
        assert labels(grid) == [0, 2, 4]
        upper, lower = halves(grid, Node(4, "ffn_gate"))[0]
        assert upper == YELLOW and lower == grid.background


async def test_the_cursor_goes_layer_by_layer_and_is_seen_in_the_half_of_its_layer() -> None:
    async with showing(24, (120, 33)) as (pilot, grid):
        await pilot.press("j", "l")
        assert grid.node == Node(1, "qkv_matmul")
        ends = halves(grid, Node(1, "qkv_matmul"))
        assert ends[0][1] == ends[4][1] == CURSOR[True] and ends[0][0] != CURSOR[True]
        assert ends[1][1] != CURSOR[True]
        assert labels(grid)[0] == 1
        await pilot.press("pagedown", "pagedown", "pagedown")
        assert grid.node == Node(23, "qkv_matmul") and labels(grid)[-1] == 23


async def test_a_click_on_a_line_means_its_first_layer_and_a_second_one_the_other() -> None:
    async with showing(24, (120, 33)) as (pilot, grid):
        place = next(place for place in grid.jump_places() if place.target == Node(6, "ffn_up"))
        spot = (place.at + 2, place.line + 1)
        for layer in (6, 7, 6):
            await pilot.click(grid, offset=spot)
            assert grid.node == Node(layer, "ffn_up")


@pytest.mark.parametrize("theme", [DARK, LIGHT], ids=lambda theme: theme.name)
async def test_the_overview_has_the_colours_of_its_theme(theme: Theme) -> None:
    drawn = graph(24)
    figures = figures_of(Statistic.CHANGE, doubling(drawn), before=doubling(drawn))
    async with showing(24, (120, 33)) as (pilot, grid):
        grid.show(figures)
        before = halves(grid, Node(4, "ffn_gate"))[0][0]
        pilot.app.register_theme(LIGHT)
        pilot.app.theme = theme.name
        await pilot.pause()
        colour = halves(grid, Node(4, "ffn_gate"))[0][0]
        # No change is as the background.
        assert max(abs(a - b) for a, b in zip(colour, grid.background, strict=True)) < 8  # type: ignore[call-overload]
        assert (colour == before) == (theme is DARK)


async def test_jump_labels_reach_every_layer_of_the_overview() -> None:
    async with showing(24, (80, 17)) as (_, grid):
        grid.show_view(GridView.OVERVIEW)
        lines_with_labels = {place.line for place in grid.jump_places()}
        assert len(lines_with_labels) == len(labels(grid))
    async with showing(24, (120, 33)) as (_, grid):
        assert {place.target for place in grid.jump_places()} == {
            Node(layer, name) for layer in range(24) for name in grid._columns
        }


async def test_layers_that_have_no_room_scroll_with_the_cursor() -> None:
    async with showing(80, (80, 17)) as (pilot, grid):
        assert "layers 0–" in str(grid.border_subtitle) and "of 80 layers, more with ↑ ↓" in str(grid.border_subtitle)
        await pilot.press(*["pagedown"] * 8)
        assert grid.node == Node(79, "attn_norm") and labels(grid)[-1] == 79
        assert "–79 of 80 layers" in str(grid.border_subtitle)
        await pilot.press(*["pageup"] * 8)
        assert labels(grid)[0] == 0


@pytest.mark.parametrize(("name", "sign"), [("nan", "X"), ("inf", "I")])
@pytest.mark.parametrize("plain", [False, True])
async def test_values_that_are_not_finite_have_a_sign(name: str, sign: str, plain: bool) -> None:
    drawn = graph(24)
    stats = doubling(drawn)
    stats[name][drawn.order[Node(13, "ffn_up")]] = 1
    async with showing(24, (120, 33), stats, plain=plain) as (_, grid):
        line = next(line for line in lines(grid) if line.startswith(" 12 "))
        start = next(place for place in grid.jump_places() if place.target == Node(12, "ffn_up")).at
        assert sign in line[start : start + 5] and line.count(sign) == 1


async def test_a_fault_is_outlined_in_both_views_and_named_in_the_border() -> None:
    async with showing(24, (120, 33)) as (pilot, grid):
        grid.mark_faults([Node(5, "ffn_gate")])
        cells = halves(grid, Node(5, "ffn_gate"))
        assert cells[0][1] == cells[4][1] == FAULT and FAULT not in (cells[0][0], cells[1][1])
        assert "fault at layer 5 ffn_gate" in str(grid.border_subtitle)
        grid.show_view(GridView.NUMBERS)
        await pilot.pause()
        place = next(place for place in grid.jump_places() if place.target == Node(5, "ffn_gate"))
        text = grid.render_line(place.line).text
        assert text[place.at - 1] == "[" and text[place.at + place.width - 1] == "]"
        assert text.count("[") == text.count("]") == 1
        grid.mark_faults([])
        assert "[" not in grid.render_line(place.line).text


async def test_a_fault_at_a_stage_that_the_model_has_once_stands_in_brackets() -> None:
    async with showing(4, (120, 33)) as (_, grid):
        grid.mark_faults([Node(0, "embedding"), Node(None, "lm_head")])
        text = "\n".join(lines(grid))
        assert "[embedding 1.00]" in text and "[lm_head 1.00]" in text and "[final_norm" not in text


async def test_without_colours_a_glyph_stands_for_each_layer_and_a_fault_has_one_of_its_own() -> None:
    async with showing(24, (120, 33), plain=True) as (_, grid):
        grid.mark_faults([Node(5, "ffn_gate")])
        line = next(line for line in lines(grid) if line.startswith("  4 "))
        start = next(place for place in grid.jump_places() if place.target == Node(4, "ffn_gate")).at
        assert line[start + 1] == "!" and "▀" not in "".join(lines(grid))


async def test_a_line_that_did_not_change_is_not_drawn_again() -> None:
    async with showing(24, (120, 33)) as (pilot, grid):
        before = [grid.draw_row(row) for row in range(0, 24, 2)]
        await pilot.press("j")
        after = [grid.draw_row(row) for row in range(0, 24, 2)]
        assert after[1:] == before[1:] and all(a is b for a, b in zip(after[1:], before[1:], strict=True))
        assert isinstance(next(iter(after[0])), Segment) and after[0] is not before[0]


async def test_a_key_is_named_for_the_lens_only_where_that_makes_room() -> None:
    for wide, words in ((False, "no room for the logit lens: v"), (True, "no room for the logit lens  ")):
        async with showing(24, (80, 17), qk_norm=wide) as (pilot, grid):
            grid.show_view(GridView.NUMBERS)
            grid.show_lens([])
            await pilot.pause()
            assert str(grid.border_subtitle).startswith(words)


@pytest.mark.parametrize("view", list(GridView))
async def test_layers_of_another_kind_are_marked_beside_their_number(view: GridView) -> None:
    config = GraphConfig("gemma2", 4, 256, 4, 2, 64, 768, 2048, windows=(64, 0, 64, 0))
    async with GridApp(False).run_test(size=(120, 40)) as pilot:
        grid, mixed = pilot.app.query_one(StageGrid), graph_for(config)
        grid.open_graph(mixed)
        grid.show(figures_of(Statistic.RMS, doubling(mixed)))
        grid.show_view(view)
        await pilot.pause()
        found = [line[:4] for line in lines(grid) if line[:3].strip().isdecimal()]
        rows = grid._lines.rows
        assert found == ["  0~", "  1 ", "  2~", "  3 "][::rows]
        grid.open_graph(graph(4))
        await pilot.pause()
        assert not any("~" in line[:4] for line in lines(grid)), "layers of one kind have no marks"


@pytest.mark.parametrize("width", range(8, 16))
async def test_a_grid_without_stages_is_drawn_at_any_width(width: int) -> None:
    async with GridApp(False).run_test(size=(width, 24)) as pilot:
        await pilot.pause()
        assert not "".join(lines(pilot.app.query_one(StageGrid))).strip()


def latent_graph(layers: int) -> StageGraph:
    """Of DeepSeek-V3: 45 stages, more than 80 columns have room for."""
    latent = LatentAttention(rank=96, query_rank=64, nope=64, rope=32, value=32, absorbed=True)
    return graph_for(
        GraphConfig(
            "deepseek2", layers, 256, 4, 1, latent.key_dim, 512, 300, rope_dim=32, latent=latent, experts=16,
            experts_used=4, expert_ffn=256, router=Router.SIGMOID, router_bias=True, scaled_experts=True,
            shared_expert_ffn=512, shared_expert_gate=False, dense=(True, *(False,) * (layers - 1)),
        )
    )  # fmt: skip


@asynccontextmanager
async def scrolled(view: GridView | None) -> AsyncIterator[tuple[Pilot[None], StageGrid]]:
    drawn = latent_graph(27)
    async with GridApp(False).run_test(size=(80, 24)) as pilot:
        grid = pilot.app.query_one(StageGrid)
        grid.open_graph(drawn)
        grid.show(figures_of(Statistic.RMS, doubling(drawn)))
        grid.focus()
        grid.show_view(view)
        await pilot.pause()
        yield pilot, grid


@pytest.mark.parametrize(("view", "seen"), [(None, 34), (GridView.NUMBERS, 16)])
async def test_stages_that_have_no_room_scroll_with_the_cursor_between_marks(view: GridView | None, seen: int) -> None:
    async with scrolled(view) as (_, grid):
        names = [stage.name for stage in latent_graph(27).stages if stage.scope is Scope.LAYER]
        assert len(names) == 45 and len(grid._columns) in (seen, seen - 1)
        seen = len(grid._columns)
        for step, way in ((1, names), (-1, names[::-1])):
            for name in way:
                assert grid.node == Node(0, name) and name in grid._columns
                first = names.index(grid._columns[0])
                behind, head = len(names) - first - seen, lines(grid)[0]
                assert list(grid._columns) == names[first : first + seen]
                assert head[:4].strip() == (f"‹{first}" if first else "")
                assert head[72:].strip() == (f"›{behind}" if behind else "")
                assert f"stages {first + 1}–{first + seen} of 45, more with ← →" in str(grid.border_subtitle)
                assert {len(line) for line in lines(grid)} == {76}
                grid.action_move(0, step)
        assert labels(grid)[0] == 0


async def test_a_cursor_that_is_put_on_a_hidden_stage_is_seen_and_its_fault_outlined() -> None:
    async with scrolled(GridView.NUMBERS) as (pilot, grid):
        grid.mark_faults([Node(3, "ffn_shexp")])
        assert "[" not in "".join(lines(grid))
        grid.put_cursor(Node(3, "ffn_shexp"))
        await pilot.pause()
        line = lines(grid)[grid._line_of(Node(3, "ffn_shexp"))]
        start = grid._column_starts()[list(grid._columns).index("ffn_shexp")]
        assert line[start - 1] == "[" and line[start : start + 3] == "8.0"
        place = next(place for place in grid.jump_places() if place.target == Node(5, grid._columns[0]))
        await pilot.click(grid, offset=(place.at + 2, place.line + 1))
        assert grid.node == Node(5, grid._columns[0])


async def test_a_grid_that_grows_shows_all_stages_again() -> None:
    async with scrolled(None) as (pilot, grid):
        grid.put_cursor(Node(0, "post_ffn_residual"))
        await pilot.resize_terminal(120, 24)
        await pilot.pause()
        assert len(grid._columns) == 45 and "stages" not in str(grid.border_subtitle)
        await pilot.resize_terminal(60, 24)
        await pilot.pause()
        assert grid._columns[-1] == "post_ffn_residual" and "‹" in lines(grid)[0]
