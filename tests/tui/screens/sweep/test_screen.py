"""The sweep screen as a person drives it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from aprtui.cli.open import _state_of
from aprtui.errors import UnreadableError
from aprtui.sweep.results import ResultRow, read_rows
from aprtui.tui import app as app_module
from aprtui.tui.app import SCREENS
from aprtui.tui.frame.state import ScreenName, ScreenState, screen_state
from aprtui.tui.screens.sweep.screen import SweepScreen
from aprtui.tui.widgets.cell_table import CellTable
from tests.tui.driver import Driver, screen_text, showing, tool_screen, until, until_shown
from tests.tui.screens.diff.recorded import playing, screen_playing
from tests.tui.screens.sweep.example import HEADLINE, write_lines, write_results


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_results(tmp_path / "night-sweep")


def cell(pilot: Driver) -> dict[str, str]:
    return dict(tool_screen(pilot).state().fields)


async def test_the_matrix_has_a_line_a_prompt_and_enter_opens_the_diff_of_a_cell(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = results / "captures/a", results / "captures/b"
    monkeypatch.setattr(app_module, "SCREENS", {**SCREENS, ScreenName.DIFF: screen_playing(playing(a, b))})
    async with showing(screen_state(ScreenName.SWEEP, path=results), size=(80, 24)) as pilot:
        await until_shown(pilot, "3 FAIL, 1 UNKNOWN, 20 PASS")
        text = screen_text(pilot)
        assert "✗ 1 ffn_gate" in text and "exact × mine" in text and "def function_7(n):" in text
        await pilot.press("j", "l")
        await until_shown(pilot, HEADLINE)
        assert (cell(pilot)["prompt"], cell(pilot)["pair"]) == ("1", "exact × mine")
        await pilot.press("enter")
        await until(pilot, lambda: tool_screen(pilot).NAME is ScreenName.DIFF)
        assert tool_screen(pilot).state().path("a") == a
        await pilot.press("escape")
        assert (cell(pilot)["prompt"], cell(pilot)["pair"]) == ("1", "exact × mine")


async def test_a_cell_whose_captures_were_not_kept_says_how_to_make_them_again(results: Path) -> None:
    async with showing(screen_state(ScreenName.SWEEP, path=results)) as pilot:
        await until_shown(pilot, "20 PASS")
        await pilot.press("enter")
        await until_shown(pilot, "not kept")
        assert tool_screen(pilot).NAME is ScreenName.SWEEP
        await pilot.press("y")
        await until_shown(pilot, "made-again-fast")


async def test_the_next_cell_that_does_not_pass_is_found_in_reading_order(results: Path) -> None:
    async with showing(screen_state(ScreenName.SWEEP, path=results)) as pilot:
        await until_shown(pilot, "20 PASS")
        seen = []
        for _ in range(4):
            await pilot.press("right_square_bracket", "d")
            seen.append((cell(pilot)["prompt"], cell(pilot)["pair"]))
        assert seen == [
            ("1", "exact × mine"), ("4", "exact × mine"), ("5", "other replayed"), ("7", "exact × mine"),
        ]  # fmt: skip
        await pilot.press("left_square_bracket", "d")
        assert cell(pilot)["prompt"] == "5"
        await until_shown(pilot, "no such kernel")


async def test_v_shows_the_stages_and_a_state_comes_back_to_them(results: Path) -> None:
    async with showing(screen_state(ScreenName.SWEEP, path=results)) as pilot:
        await until_shown(pilot, "20 PASS")
        await pilot.press("v")
        await until_shown(pilot, "layer 1 ffn_gate")
        state = tool_screen(pilot).state()
    async with showing(state) as pilot:
        await until_shown(pilot, "2.8e+06")


async def test_columns_that_have_no_room_are_scrolled_to(results: Path) -> None:
    wide = [row for row in read_rows(results, "results", ResultRow) if row.pair == "exact × fast"]
    write_lines(results / "results.jsonl", [replace(row, pair=f"engine-{n:02}") for row in wide for n in range(20)])
    async with showing(screen_state(ScreenName.SWEEP, path=results), size=(80, 24)) as pilot:
        await until_shown(pilot, "160 PASS")
        assert "engine-19" not in screen_text(pilot) and "▸" in screen_text(pilot)
        await pilot.press(*["l"] * 19)
        await until_shown(pilot, "engine-19")
        assert cell(pilot)["pair"] == "engine-19"


async def test_without_results_the_screen_says_what_makes_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with showing(ScreenState(ScreenName.SWEEP)) as pilot:
        await until_shown(pilot, "aprtui sweep PLAN.yaml")
        await pilot.press("enter", "v", "r", "right_square_bracket", "d", "y")
        assert isinstance(tool_screen(pilot), SweepScreen)


async def test_the_newest_results_of_the_working_directory_are_shown_where_none_are_named(results: Path) -> None:
    async with showing(ScreenState(ScreenName.SWEEP)) as pilot:
        await until_shown(pilot, "20 PASS")
        assert cell(pilot)["path"] == results.name


async def test_damaged_results_are_told_in_a_line(results: Path) -> None:
    (results / "results.jsonl").write_text("{")
    with pytest.raises(UnreadableError, match=r"results.jsonl:1: no row of results"):
        list(read_rows(results, "results", ResultRow))
    async with showing(screen_state(ScreenName.SWEEP, path=results)) as pilot:
        await until(pilot, lambda: "no row of results" in pilot.app.screen.query_one(CellTable).empty)


def test_open_shows_a_folder_of_results(results: Path) -> None:
    assert _state_of((str(results),)).screen is ScreenName.SWEEP
