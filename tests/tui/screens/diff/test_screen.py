"""The diff screen, driven by its keys on recorded comparisons."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from aprtui.compare.metrics.logits import Flip
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.verdict import Verdict
from aprtui.config import Config
from aprtui.trace.graph.stage import Node
from aprtui.tui import app as app_module
from aprtui.tui.app import AprtuiApp
from aprtui.tui.frame.keymap import key_name
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenName, ScreenState, parse_state, screen_state
from aprtui.tui.frame.tool_screen import ReadoutLine
from aprtui.tui.screens.diff.cells import SIGN_TEXTS, STEP_TEXTS, Sign
from aprtui.tui.screens.diff.grid import DiffGrid
from aprtui.tui.screens.diff.panes import DiffPanes
from aprtui.tui.screens.diff.screen import DiffScreen
from aprtui.tui.screens.diff.verdict import VerdictLines
from aprtui.tui.screens.live.screen import LiveScreen
from aprtui.tui.widgets.heatmap import Heatmap
from aprtui.tui.widgets.table import Table
from tests.compare.recorded import EDITS, FAULT, records_of, two_captures
from tests.compare.synthetic import HYBRID, write_capture
from tests.tui.driver import Driver, drag, notifications, screen_text, until
from tests.tui.screens.diff.recorded import RecordedDiff, playing, screen_playing
from tests.tui.screens.live.recorded import RecordedSource
from tests.tui.widgets.golden import check_golden


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return two_captures(tmp_path_factory.mktemp("sides"))


@asynccontextmanager
async def opened(
    state: ScreenState,
    source: RecordedDiff,
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int] = (120, 40),
    plain: bool = False,
) -> AsyncIterator[Driver]:
    """The app on a diff screen that plays `source`, once the comparison is there."""

    monkeypatch.setattr(app_module, "SCREENS", {ScreenName.LIVE: LiveScreen, ScreenName.DIFF: screen_playing(source)})
    app = AprtuiApp(Session(RecordedSource()), state, Config(Path("none"), ascii=plain))
    async with app.run_test(size=size, notifications=True) as pilot:
        await pilot.pause()
        if state.text("a") and not source.held:
            await until(pilot, lambda: settled(pilot))
            await pilot.pause()
        yield pilot


def screen(pilot: Driver) -> DiffScreen:
    assert isinstance(pilot.app.screen, DiffScreen)
    return pilot.app.screen


def settled(pilot: Driver) -> bool:
    return bool(screen(pilot).query_one(VerdictLines).text.sentence) and not screen(pilot).comparing


def node(pilot: Driver) -> Node | None:
    return screen(pilot).query_one(DiffGrid).node


def verdict(pilot: Driver) -> str:
    shown = screen(pilot).query_one(VerdictLines).text
    return "\n".join((shown.word, shown.sentence, *shown.steps, *shown.details))


def between(a: Path, b: Path, /, **fields: object) -> ScreenState:
    return screen_state(ScreenName.DIFF, a=a, b=b, **fields)


async def test_without_captures_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    source = RecordedDiff(lambda request: [])
    async with opened(ScreenState(ScreenName.DIFF), source, monkeypatch) as pilot:
        assert "aprtui open A B" in screen_text(pilot) and "space" in screen_text(pilot)
        await pilot.press("R", "x", "r", "b", "B", "M", "c", "enter", "j", "g", "d", "right_square_bracket", "t")
        await pilot.press("y")
        assert "Nothing here to give headless yet." in notifications(pilot)
        assert not source.requests


async def test_a_comparison_is_shown_with_its_verdict_and_the_grid_walks_by_stages_and_layers(
    sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(between(*sides, layer=0, stage="embedding"), playing(*sides), monkeypatch) as pilot:
        assert verdict(pilot).startswith("UNKNOWN\n5 of 54 stages differ")
        assert "54 of 54 stages compared" in verdict(pilot)
        assert node(pilot) == Node(0, "embedding")
        await pilot.press("k")
        assert node(pilot) == Node(2, "attn_norm")
        await pilot.press("up", "j", "k", "right", "l", "h")
        assert node(pilot) == Node(1, "qkv_matmul")
        assert "layer 1 qkv_matmul" in screen(pilot).query_one(ReadoutLine).text
        await pilot.press("pagedown", "pageup", "left", "left", "left")
        assert node(pilot) == Node(0, "attn_norm")
        await pilot.press("end")
        assert node(pilot) == Node(2, "attn_norm")
        await pilot.press("j", "l", "l", "l")
        assert node(pilot) == Node(None, "lm_head")
        await pilot.press("home")
        assert node(pilot) == Node(0, "attn_norm")


async def test_the_verdict_of_a_pair_is_left_where_browse_finds_it(
    sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(between(*sides), playing(*sides), monkeypatch) as pilot:
        a, b = sides
        left = screen(pilot).session.judgements[a.absolute(), b.absolute()]
        assert left.verdict is Verdict.UNKNOWN and left.words.startswith("5 of 54 stages differ")
        assert left.command == ("aprtui", "diff", str(a), str(b))


async def test_a_bound_is_moved_dropped_and_walked_through(
    sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(between(*sides), playing(*sides), monkeypatch) as pilot:
        await pilot.press("b")
        assert verdict(pilot).startswith("PASS") and "by your bound rel_l2=0.5" in verdict(pilot)
        await pilot.press(*["B"] * 5)
        assert verdict(pilot).startswith("FAIL\nlayer 1 ffn_gate: rel_l2 0.5, above its bound 0.0283")
        await pilot.press("home", "g", "d")
        assert node(pilot) == FAULT
        await pilot.press("right_square_bracket", "d")
        assert node(pilot) == Node(1, "ffn_silu")
        await pilot.press("right_square_bracket", "d", "right_square_bracket", "d", "right_square_bracket", "d")
        assert node(pilot) == Node(2, "attn_norm")
        assert notifications(pilot)[-1] == "No divergent stage after this one."
        await pilot.press("left_square_bracket", "d", "left_square_bracket", "d", "left_square_bracket", "d")
        assert node(pilot) == FAULT
        await pilot.press("y")
        assert pilot.app.clipboard.endswith("--tolerance rel_l2=0.0283"), pilot.app.clipboard
        await pilot.press("backspace")
        assert verdict(pilot).startswith("UNKNOWN")


async def test_the_verdict_of_a_moved_bound_is_the_commands_once_it_has_run(
    sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = playing(*sides)
    async with opened(between(*sides), source, monkeypatch) as pilot:
        await pilot.press("b", "B", "B")
        before = verdict(pilot)
        await pilot.press("r")
        await until(pilot, lambda: settled(pilot))
        assert source.requests[-1].tolerance == "rel_l2=0.159"
        assert verdict(pilot).split("\n")[:1] == before.split("\n")[:1]
        assert "injected, likely" in verdict(pilot) and "all that it is computed from is within" in verdict(pilot)
        await pilot.press("backspace")
        await until(pilot, lambda: settled(pilot))
        assert source.requests[-1].tolerance == "" and verdict(pilot).startswith("UNKNOWN")


@pytest.mark.parametrize("theme", ["aprtui-dark", "aprtui-light"])
@pytest.mark.parametrize(("name", "fields"), [("bound", {"bound": 0.05}), ("no-bound", {})])
async def test_the_grid_is_drawn_as_it_was(
    sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, name: str, fields: dict[str, object], theme: str
) -> None:
    state = between(*sides, metric="rel_l2", **fields)
    async with opened(state, playing(*sides), monkeypatch, (80, 24)) as pilot:
        pilot.app.theme = theme
        await pilot.pause()
        # Values have the colours of their maps in every theme.
        check_golden(f"diff-grid-{name}", screen(pilot).query_one(DiffGrid))


@pytest.mark.parametrize(("theme", "ground"), [("aprtui-dark", "#ffffff"), ("aprtui-light", "#000000")])
async def test_the_cursor_stands_out_in_every_theme(
    sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, theme: str, ground: str
) -> None:
    async with opened(between(*sides, layer=1, stage="ffn_gate"), playing(*sides), monkeypatch) as pilot:
        pilot.app.theme = theme
        await pilot.pause()
        grid = screen(pilot).query_one(DiffGrid)
        styles = [segment.style for y in range(grid.size.height) for segment in grid.render_line(y)]
        (cursor,) = {style for style in styles if style is not None and style.reverse}
        assert cursor.color is not None and cursor.color.name == ground


@pytest.mark.parametrize("width", [60, 80, 120, 200])
async def test_the_legend_is_whole(sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    async with opened(between(*sides, metric="rel_l2", bound=0.05), playing(*sides), monkeypatch, (width, 40)) as pilot:
        grid = screen(pilot).query_one(DiffGrid)
        text = "\n".join(grid.render_line(y).text for y in range(grid.size.height))
        for words in (*STEP_TEXTS, SIGN_TEXTS[Sign.ADDS], SIGN_TEXTS[Sign.BEYOND]):
            assert f" {words}  " in text


async def test_metrics_are_cycled_and_a_bound_is_on_the_one_that_is_shown(
    sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(between(*sides), playing(*sides), monkeypatch) as pilot:
        await pilot.press("M")
        assert screen(pilot).state().text("metric") == Metric.REL_LINF
        await pilot.press("M", "B")
        assert "by your bound max_abs=" in verdict(pilot)
        await pilot.press("M")
        assert verdict(pilot).startswith("UNKNOWN"), "a bound on another metric is dropped"


async def test_layers_that_are_alike_fold_and_unfold(sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(between(*sides, metric="rel_l2", bound=0.2), playing(*sides), monkeypatch) as pilot:
        await pilot.press("end", "F")
        assert "layer 0: 1 layer alike" in screen_text(pilot) and "layer 2: 1 layer alike" in screen_text(pilot)
        assert node(pilot) is not None and node(pilot) != Node(2, "attn_norm")
        await pilot.press("F")
        assert "alike" not in screen_text(pilot)


async def test_marks_are_set_and_found_again(sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(between(*sides, layer=0, stage="attn_norm"), playing(*sides), monkeypatch) as pilot:
        await pilot.press("l", "m", "a", "j", "j", "apostrophe", "a")
        assert node(pilot) == Node(0, "qkv_matmul")
        await pilot.press("apostrophe", "b")
        assert "There is no mark b" in notifications(pilot)[-1]


async def test_sides_are_swapped(sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    source = playing(*sides)
    async with opened(between(*sides), source, monkeypatch) as pilot:
        await pilot.press("x")
        await until(pilot, lambda: settled(pilot))
        assert (source.requests[-1].a, source.requests[-1].b) == (sides[1], sides[0])
        await pilot.press("y")
        assert pilot.app.clipboard == f"aprtui diff {sides[1]} {sides[0]}"


async def test_a_state_is_restored(sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = between(*sides, layer=1, stage="ffn_silu", at="0,2,3", metric="rel_l2", bound=0.05)
    async with opened(wanted, playing(*sides), monkeypatch) as pilot:
        assert node(pilot) == Node(1, "ffn_silu") and verdict(pilot).startswith("FAIL")
        assert parse_state(str(screen(pilot).state())) == wanted


@pytest.mark.parametrize("stage", [{"layer": 1, "stage": "lm_head"}, {"layer": 9, "stage": "ffn_up"}, {"stage": "no"}])
async def test_a_state_of_a_stage_that_is_not_there_is_told(
    sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, stage: dict[str, object]
) -> None:
    async with opened(between(*sides, **stage), playing(*sides), monkeypatch) as pilot:
        assert "is not in this comparison" in notifications(pilot)[-1] and node(pilot) == FAULT


async def test_the_cursor_among_the_values_is_restored(
    sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = between(*sides, layer=1, stage="attn_softmax")
    async with opened(begin, playing(*sides), monkeypatch) as pilot:
        panes = screen(pilot).query_one(DiffPanes)
        await until(pilot, lambda: panes.view is not None)
        panes.focus()
        await pilot.press("greater_than_sign", "j", "j", "l")
        await until(pilot, lambda: panes.place is not None and panes.place[0] == 1)
        left = screen(pilot).state()
        assert left.text("at").startswith("1,")
    async with opened(parse_state(str(left)), playing(*sides), monkeypatch) as pilot:
        panes = screen(pilot).query_one(DiffPanes)
        await until(pilot, lambda: panes.view is not None)
        assert screen(pilot).state() == left
        words = panes.words
        assert words.startswith("head 1, query {1}, key {2}: ".format(*left.text("at").split(",")))
        await pilot.press("j")
        assert screen(pilot).state().text("at") != left.text("at"), "another stage, another value"


async def test_what_the_command_warns_of_is_shown(sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    source = playing(*sides)
    source.remarks = ["a: [b]no manifest[/b]: inferred", "", *(f"warning {number}" for number in range(9))]
    async with opened(between(*sides), source, monkeypatch) as pilot:
        await until(pilot, lambda: "a: [b]no manifest[/b]: inferred" in screen_text(pilot))
        assert notifications(pilot)[-1].endswith("and 4 lines more: y copies the command that writes them all")
        source.remarks, source.problem = ["b: cannot be read"], "b: cannot be read"
        before = len(notifications(pilot))
        await pilot.press("r")
        await until(pilot, lambda: settled(pilot))
        assert len(notifications(pilot)) == before and "b: cannot be read" in screen_text(pilot), (
            "a problem is told once"
        )


@pytest.mark.parametrize(
    "fields",
    [
        {"metric": "best"},
        {"metric": "rel_l2", "bound": "x"},
        {"bound": "1"},
        {"stage": "ffn_up", "at": "1,2"},
        {"at": "0,1,2"},
    ],
)
async def test_a_state_that_makes_no_sense_is_told(
    sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, fields: dict[str, str]
) -> None:
    source = playing(*sides)
    async with opened(ScreenState(ScreenName.DIFF), source, monkeypatch) as pilot:
        pilot.app.open_state(between(*sides, **fields))  # type: ignore[attr-defined]
        await pilot.pause()
        assert "expected" in notifications(pilot)[-1] and not source.requests


async def test_a_comparison_that_fails_is_told_in_one_line_and_can_be_made_again(
    sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = playing(*sides)
    source.problem = "the comparison was ended by signal 11 (SIGSEGV): r runs it again"
    async with opened(between(*sides), source, monkeypatch) as pilot:
        assert "SIGSEGV" in screen_text(pilot) and verdict(pilot).startswith("–")
        await pilot.press("j", "b", "M", "g", "d", "enter", "F")
        source.problem = ""
        await pilot.press("r")
        await until(pilot, lambda: settled(pilot))
        assert verdict(pilot).startswith("UNKNOWN") and "SIGSEGV" not in screen_text(pilot)


async def test_a_comparison_is_cancelled(sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    source = playing(*sides)
    source.held = True
    async with opened(between(*sides), source, monkeypatch) as pilot:
        await until(pilot, lambda: "comparing layer 0 attn_norm, 1/54" in verdict(pilot))
        await pilot.press("c")
        assert source.cancelled and "cancelled: r compares again" in screen_text(pilot)


async def test_different_tokens_are_unknown_with_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = two_captures(tmp_path, tokens=(5, 3, 8, 1, 7))
    async with opened(between(a, b), playing(a, b), monkeypatch) as pilot:
        assert verdict(pilot).startswith("UNKNOWN\ntoken ids differ from position 2 on")


async def test_two_stage_files_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = two_captures(tmp_path)
    files = a / "layer-1" / "ffn_gate.bin", b / "layer-1" / "ffn_gate.bin"
    records = [
        record
        for record in records_of(a, b)
        if record["record"] != "comparison" or (record["stage"] == "ffn_gate" and record["layer"] == 1)
    ]
    async with opened(between(*files), RecordedDiff(lambda request: records), monkeypatch) as pilot:
        assert node(pilot) == FAULT


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60), (40, 12)])
async def test_no_size_and_no_resize_breaks_it(
    sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    async with opened(between(*sides), playing(*sides), monkeypatch, size) as pilot:
        for width, height in ((80, 24), (30, 10), (250, 70), size):
            await pilot.resize_terminal(width, height)
        await pilot.press("j", "l")
        assert "Stages" in screen_text(pilot)


def diverging(a: Path, b: Path) -> RecordedDiff:
    """A comparison in which the fault is beyond its bound."""
    return RecordedDiff(lambda request: records_of(a, b, "rel_l2=0.05"))


async def test_panes_show_both_sides_in_lock_step_and_enter_jumps_from_the_list(
    sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(between(*sides), diverging(*sides), monkeypatch) as pilot:
        panes, elements = screen(pilot).query_one(DiffPanes), screen(pilot).query_one("#elements", Table)
        await pilot.press("g", "d")
        await until(pilot, lambda: str(FAULT) in str(panes.border_title))
        cursors = {heatmap._cursor for heatmap in panes.query(Heatmap)}
        assert len(cursors) == 1 and None not in cursors
        panes.focus()
        await until(pilot, lambda: " B − A " in screen(pilot).query_one(ReadoutLine).text)
        before = panes.view
        assert before is not None
        await pilot.press("h")
        assert panes.view is not None and panes.view.column < before.column
        assert len({heatmap._cursor for heatmap in panes.query(Heatmap)}) == 1
        await pilot.press("plus", "minus")
        assert panes.view.tiling == before.tiling, "every value has a cell of its own already"
        elements.focus()
        await pilot.press("j", "enter")
        place = elements.key
        assert isinstance(place, tuple)
        await until(pilot, lambda: panes.place == place)
        assert panes.has_focus
        await pilot.press("escape")
        assert screen(pilot).query_one(DiffGrid).has_focus


async def test_a_resize_leaves_the_cursor_on_its_value_and_zoom_ends_at_single_values(
    sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(between(*sides, layer=1, stage="ffn_gate"), playing(*sides), monkeypatch, (120, 40)) as pilot:
        panes = screen(pilot).query_one(DiffPanes)
        await until(pilot, lambda: panes.view is not None)
        panes.focus()
        await pilot.press("h", "h", "j", "minus", "plus", "plus", "plus")
        place, view = panes.place, panes.view
        assert place is not None and view is not None and view.is_closest and not view.numbers
        await pilot.resize_terminal(200, 60)
        await until(pilot, lambda: panes.view is not None and panes.view.lines != view.lines)
        assert panes.place == place and panes.words.startswith("token")


async def test_the_mouse_frames_the_values_of_all_sides(
    sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(between(*sides, stage="lm_head"), playing(*sides), monkeypatch, (80, 40)) as pilot:
        panes = screen(pilot).query_one(DiffPanes)
        await until(pilot, lambda: panes.view is not None)
        before = panes.view
        assert before is not None
        await drag(pilot, panes.query_one("#b", Heatmap), (1, 1), (4, 2))
        await until(pilot, lambda: panes.view != before)
        assert len({heatmap._cursor for heatmap in panes.query(Heatmap)}) == 1 and panes.has_focus


async def test_supported_hypotheses_come_first(sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(between(*sides), diverging(*sides), monkeypatch) as pilot:
        table = screen(pilot).query_one("#hypotheses", Table)
        rows = table.rows
        table.focus()
        await pilot.pause()
        words = screen(pilot).query_one(ReadoutLine).text
        assert words.startswith("a constant factor: supported · found is 1.5 ×") and "usual cause: a scale" in words
        states = [row.cells[0] for row in rows]
        assert rows and states == sorted(states, key=["yes", "no", "?"].index)


async def test_tokens_that_flip_are_gone_through(sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(between(*sides), playing(*sides), monkeypatch) as pilot:
        comparison = screen(pilot)._comparison
        assert comparison is not None
        *others, head = comparison.stages
        assert head.logits is not None
        flips = [Flip(2, 5, 7, 0.25), Flip(4, 1, 3, 1.5)]
        all_logits = replace(head, logits=replace(head.logits, rows=5, flips=tuple(flips)))
        screen(pilot)._comparison = replace(comparison, stages=(*others, all_logits))
        for keys, flip in (("]t", flips[0]), ("]t", flips[1]), ("[t", flips[0])):
            await pilot.press(*map(key_name, keys))
            assert f"after token {flip.row} A says id {flip.token_a}" in screen(pilot).query_one(ReadoutLine).text
            assert node(pilot) == Node(None, "lm_head")
        await pilot.press(key_name("["), "t")
        assert "No token before" in str(notifications(pilot))
        screen(pilot)._comparison = comparison
        await pilot.press(key_name("]"), "t")
        assert "--logits all" in str(notifications(pilot))


async def test_a_small_screen_shows_one_view_at_a_time(
    sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(between(*sides), playing(*sides), monkeypatch, size=(80, 24)) as pilot:
        shown = {"DiffGrid": True, "#panes": False, "#lists": False}
        assert {name: screen(pilot).query_one(name).display for name in shown} == shown
        assert all(f" {layer} " in screen_text(pilot) for layer in range(3)), "no layer is hidden by the legend"
        for view in ("#panes", "#hypotheses", "#dock", "DiffGrid"):
            await pilot.press("v")
            assert screen(pilot).query_one(view).has_focus and screen(pilot).query_one(view).region.height > 3


async def test_a_side_that_vanishes_is_told_in_its_pane(
    sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(between(*sides), playing(*sides), monkeypatch) as pilot:
        hidden = sides[1].with_name("hidden")
        sides[1].rename(hidden)
        try:
            await pilot.press("k")
            await until(pilot, lambda: "cannot be read: No such file" in screen_text(pilot))
        finally:
            hidden.rename(sides[1])


async def test_a_stage_that_a_layer_lacks_is_a_cell_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a hybrid, layer 0 has a recurrence, and nothing of attention."""
    monkeypatch.chdir(tmp_path)
    a = write_capture(tmp_path / "good", config=HYBRID)
    b = write_capture(tmp_path / "bad", config=HYBRID, edits=EDITS)
    state = screen_state(ScreenName.DIFF, a=a, b=b, metric="rel_l2", bound=0.01)
    async with opened(state, playing(a, b), monkeypatch) as pilot:
        grid = pilot.app.screen.query_one(DiffGrid)
        grid.put_cursor(Node(0, "linear_attn_out"))
        while grid.node != Node(0, "k_norm"):
            await pilot.press("right")
        assert screen(pilot).query_one(ReadoutLine).text.startswith("layer 0 has no k_norm")
        await pilot.press("enter")
        assert "Layer 0 has no k_norm." in notifications(pilot)
        await pilot.press("right_square_bracket", "d")
        assert grid.node == FAULT
        await pilot.press("m", "a", "g", "d", "apostrophe", "a")
        assert isinstance(pilot.app.screen, DiffScreen)
