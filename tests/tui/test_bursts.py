"""Keys that come faster than the app draws: each acts on what the keys before it have left."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual import events

from aprtui.tui import app as app_module
from aprtui.tui.app import SCREENS
from aprtui.tui.frame.overlay import ChordScreen
from aprtui.tui.frame.state import ScreenName, ScreenState, screen_state
from aprtui.tui.screens.browse.screen import BrowseScreen
from aprtui.tui.screens.diff.grid import DiffGrid
from aprtui.tui.screens.diff.screen import DiffScreen
from aprtui.tui.screens.live.screen import LiveScreen
from aprtui.tui.screens.tensor.screen import TensorScreen
from aprtui.tui.widgets.stage_grid import StageGrid
from aprtui.tui.widgets.table import Table
from tests.compare.recorded import FAULT, two_captures
from tests.tui.driver import Driver, burst, showing, until, until_shown
from tests.tui.screens.diff.recorded import playing, screen_playing

JUDGED = screen_state(ScreenName.DIFF, a="good", b="bad", metric="rel_l2", bound=0.01)


@pytest.fixture(autouse=True)
def captures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APRTUI_STATE_DIR", str(tmp_path / "state"))
    a, b = two_captures(tmp_path)
    monkeypatch.setattr(app_module, "SCREENS", {**SCREENS, ScreenName.DIFF: screen_playing(playing(a, b))})
    return tmp_path


async def compared(pilot: Driver) -> DiffGrid:
    grid = pilot.app.screen.query_one(DiffGrid)
    await until(pilot, lambda: grid.node == FAULT)
    return grid


async def test_the_second_key_of_a_chord_is_never_lost() -> None:
    async with showing(JUDGED) as pilot:
        grid = await compared(pilot)
        await burst(pilot, "home", "k", "g", "d", "m", "a", "home", "k", "apostrophe", "a")
        assert grid.node == FAULT
        assert isinstance(pilot.app.screen, DiffScreen)
        await burst(pilot, "home", "g")
        assert isinstance(pilot.app.screen, ChordScreen)


async def test_a_label_is_typed_as_fast_as_it_comes() -> None:
    async with showing(JUDGED) as pilot:
        grid = await compared(pilot)
        first = grid.jump_places()[0].target
        await burst(pilot, "J", "a", "a", "l")
        assert isinstance(pilot.app.screen, DiffScreen) and not isinstance(pilot.app.screen, ChordScreen)
        assert grid.node not in (FAULT, first), "l moved the cursor once the label had been typed"


async def test_screens_follow_each_other_and_each_takes_the_keys_behind_its_number() -> None:
    async with showing(JUDGED) as pilot:
        grid = await compared(pilot)
        await burst(pilot, "1", "2", "3", "4", "g", "d", "l")
        assert isinstance(pilot.app.screen, DiffScreen)
        assert grid.node is not None and grid.node != FAULT
        await burst(pilot, "2", "escape", "1", "e", *"4q5", "escape", "j")
        assert isinstance(pilot.app.screen, LiveScreen)
        assert pilot.app.screen.prompt.endswith("4q5")
        assert isinstance(pilot.app.screen.focused, StageGrid)


async def test_captures_are_marked_and_compared_in_one_go() -> None:
    async with showing(ScreenState(ScreenName.BROWSE)) as pilot:
        await until_shown(pilot, "good", "bad")
        screen = pilot.app.screen
        assert isinstance(screen, BrowseScreen)
        await burst(pilot, "end", "space", "home", "space", "d", "y")
        assert isinstance(pilot.app.screen, DiffScreen)
        assert [path.name for path in pilot.app.screen.captures()] == ["good", "bad"]
        assert pilot.app.clipboard.startswith("aprtui diff ")


async def test_a_filter_and_a_path_through_panes_need_no_pause() -> None:
    async with showing(ScreenState(ScreenName.BROWSE)) as pilot:
        await until_shown(pilot, "good", "bad")
        table = pilot.app.screen.query_one("#artifacts", Table)
        await burst(pilot, "slash", *"goo", "enter")
        assert [row.cells[0] for row in table.rows] and len(table.rows) == 1
        assert pilot.app.screen.focused is table


async def test_a_place_is_typed_right_behind_its_key() -> None:
    async with showing(screen_state(ScreenName.TENSOR, capture="good", layer=1, stage="ffn_gate")) as pilot:
        screen = pilot.app.screen
        assert isinstance(screen, TensorScreen)
        await until(pilot, lambda: screen._cursor_value is not None)
        await burst(pilot, "g", *"2,3", "enter", "right")
        value = screen._cursor_value
        assert value is not None and (value.row, value.column) == (2, 4)


async def test_text_is_pasted_where_the_key_before_it_led() -> None:
    async with showing(ScreenState(ScreenName.LIVE)) as pilot:
        await until(pilot, lambda: pilot.app.screen.query_one(StageGrid).graph is not None)
        await burst(pilot, "e", events.Paste("1+1"), "space", "2")
        screen = pilot.app.screen
        assert isinstance(screen, LiveScreen) and screen.prompt == "1+1 2"


async def test_keys_behind_the_one_that_leaves_do_nothing() -> None:
    async with showing(ScreenState(ScreenName.LIVE)) as pilot:
        await burst(pilot, "q", "2", "g", "d")
        assert pilot.app.return_code == 0
