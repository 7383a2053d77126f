"""What the app tells: short remarks in the line of words, long ones in a toast above it, wrapped and never cut."""

from __future__ import annotations

import pytest
from textual.widgets._toast import Toast

from aprtui.tui.app import AprtuiApp
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenName, ScreenState
from aprtui.tui.frame.tool_screen import ReadoutLine
from tests.tui.driver import Driver, notifications, screen_text, showing, until
from tests.tui.screens.live.recorded import RecordedSource

LONG = "long/" * 40 + "end"


def readout(pilot: Driver) -> str:
    return screen_text(pilot).splitlines()[-2].strip()


async def test_a_short_remark_stands_in_the_line_of_words_until_the_next_key() -> None:
    async with showing(ScreenState(ScreenName.TENSOR), (80, 24)) as pilot:
        before = readout(pilot)
        await pilot.press("y")
        await pilot.pause()
        assert readout(pilot) == "Nothing here to give headless yet."
        await pilot.press("T")
        await pilot.pause()
        assert readout(pilot) == before


async def test_a_remark_goes_with_the_user_to_another_screen() -> None:
    async with showing(ScreenState(ScreenName.LIVE), (80, 24)) as pilot:
        pilot.app.notify("here", title="Captured")
        await pilot.press()
        assert isinstance(pilot.app, AprtuiApp)
        pilot.app.action_go(ScreenName.TENSOR)
        await until(pilot, lambda: readout(pilot) == "Captured: here")


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_a_long_one_is_a_toast_above_the_lines_of_words_and_keys(size: tuple[int, int]) -> None:
    app = AprtuiApp(Session(RecordedSource()), ScreenState(ScreenName.TENSOR))
    async with app.run_test(size=size, notifications=True) as pilot:
        await until(pilot, lambda: "No tensor is open." in screen_text(pilot))
        app.notify(LONG, severity="error")
        await until(pilot, lambda: bool(app.screen.query(Toast)) and app.screen.query_one(Toast).region.height > 1)
        await pilot.pause(0.1)
        toast = app.screen.query_one(Toast)
        assert toast.region.bottom <= app.screen.query_one(ReadoutLine).region.y
        assert toast.region.height <= 4
        rows = screen_text(pilot).splitlines()[toast.region.y : toast.region.bottom]
        words = "".join(row[toast.region.x : toast.region.right].strip(" ▌█") for row in rows)
        assert LONG in words, "wrapped, not cut"
        assert notifications(pilot) == [LONG]


async def test_brackets_in_a_message_are_letters() -> None:
    async with showing(ScreenState(ScreenName.TENSOR), (80, 24)) as pilot:
        pilot.app.notify("[bold]x[/]")
        await pilot.pause()
        assert readout(pilot) == "[bold]x[/]"
