"""`z`: the focused pane as large as the screen, and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.widget import Widget

from aprtui.trace.graph.stage import Node
from aprtui.tui import app as app_module
from aprtui.tui.app import SCREENS
from aprtui.tui.frame.key_line import KeyLine
from aprtui.tui.frame.state import ScreenName, ScreenState, screen_state
from aprtui.tui.frame.tool_screen import ReadoutLine, TabBar, pane_of
from tests.compare.recorded import FAULT, two_captures
from tests.compare.synthetic import changed
from tests.thinning import crossed
from tests.tui.driver import Driver, notifications, showing, tool_screen, until
from tests.tui.screens.diff.recorded import playing, screen_playing
from tests.tui.screens.sweep.example import write_results


@pytest.fixture
def captures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APRTUI_STATE_DIR", str(tmp_path / "state"))
    a, b = two_captures(tmp_path, {FAULT: changed((1, 1), 9.0), Node(2, "ffn_up"): changed((0, 2), 9.0)})
    write_results(tmp_path / "night-sweep")
    monkeypatch.setattr(app_module, "SCREENS", {**SCREENS, ScreenName.DIFF: screen_playing(playing(a, b))})
    return iter(())


STATES = {
    ScreenName.LIVE: ScreenState(ScreenName.LIVE),
    ScreenName.BROWSE: screen_state(ScreenName.BROWSE, a="good", b="bad"),
    ScreenName.TENSOR: screen_state(ScreenName.TENSOR, capture="bad", layer=1, stage="ffn_gate"),
    ScreenName.DIFF: screen_state(ScreenName.DIFF, a="good", b="bad"),
    ScreenName.CONTRACTS: ScreenState(ScreenName.CONTRACTS),
    ScreenName.SWEEP: screen_state(ScreenName.SWEEP, path="night-sweep"),
}


def focused_pane(pilot: Driver) -> Widget | None:
    return pane_of(tool_screen(pilot).focused)


def panes_in_view(pilot: Driver) -> list[Widget]:
    return [pane for pane in tool_screen(pilot).query(".pane") if pane.region.area and pane.display]


def places(pilot: Driver) -> list[tuple[Widget, object]]:
    return [(widget, widget.region) for widget in tool_screen(pilot).query(Widget)]


async def places_at_rest(pilot: Driver) -> list[tuple[Widget, object]]:
    """The places once they have stayed the same for half a second."""
    seen = [places(pilot)]
    while len(seen) < 10 or any(each != seen[-1] for each in seen[-10:]):
        await pilot.pause(0.05)
        seen.append(places(pilot))
    return seen[-1]


@pytest.mark.parametrize(("size", "name"), crossed([(80, 24), (120, 40), (200, 60)], SCREENS))
async def test_the_focused_pane_gets_the_screen_and_gives_it_back(
    captures: None, name: ScreenName, size: tuple[int, int]
) -> None:
    async with showing(STATES[name], size) as pilot:
        await until(pilot, lambda: focused_pane(pilot) is not None)
        before, pane = await places_at_rest(pilot), focused_pane(pilot)
        assert pane is not None
        await pilot.press("z")
        await pilot.pause()
        assert panes_in_view(pilot) == [pane]
        screen = tool_screen(pilot)
        assert pane.region.width == size[0] and pane.region.height >= size[1] - 10
        for line in (TabBar, ReadoutLine, KeyLine):
            assert screen.query_one(line).region.height == 1
        assert screen.query_one(TabBar).region.y == 0 and screen.query_one(KeyLine).region.y == size[1] - 1
        assert screen.focused is not None and pane_of(screen.focused) is pane
        await pilot.press("z")
        await pilot.pause()
        assert places(pilot) == before


async def test_escape_leaves_the_zoom_before_it_leaves_the_screen(captures: None) -> None:
    async with showing(ScreenState(ScreenName.LIVE)) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: focused_pane(pilot) is not None)
        await pilot.press("z", "escape")
        await pilot.pause()
        assert tool_screen(pilot).NAME is ScreenName.BROWSE and len(panes_in_view(pilot)) > 1
        await pilot.press("escape")
        await pilot.pause()
        assert tool_screen(pilot).NAME is ScreenName.LIVE


async def test_the_zoom_follows_a_command_that_goes_to_another_pane(captures: None) -> None:
    async with showing(STATES[ScreenName.BROWSE]) as pilot:
        await until(pilot, lambda: len(panes_in_view(pilot)) > 1)
        await pilot.press("z")
        await pilot.pause()
        grid = tool_screen(pilot).query_one("#grid")
        tool_screen(pilot).set_focus(grid)
        await until(pilot, lambda: panes_in_view(pilot) == [grid] and grid.has_focus)


async def test_in_a_prompt_z_is_a_letter_and_without_a_pane_it_says_so(captures: None) -> None:
    async with showing(ScreenState(ScreenName.LIVE)) as pilot:
        await pilot.press("e", "z")
        assert len(panes_in_view(pilot)) > 1
        tool_screen(pilot).set_focus(None)
        tool_screen(pilot).action_zoom_pane()
        await pilot.pause()
        assert notifications(pilot) == ["Go to a pane first: tab."]
