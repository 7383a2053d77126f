"""The palette: commands by screen, the ways to screens, what is everywhere; keys at the right."""

from __future__ import annotations

from textual.events import Click

from aprtui.tui.frame.state import ScreenName, ScreenState
from tests.tui.driver import Driver, screen_text, showing, until


def names(pilot: Driver) -> list[str]:
    return [line.strip() for line in screen_text(pilot).splitlines()]


async def test_commands_of_the_screen_come_first_with_their_keys_at_the_right() -> None:
    async with showing(ScreenState(ScreenName.DIFF), (100, 60)) as pilot:
        await pilot.press("colon")
        await until(pilot, lambda: "aprtui: Quit" in screen_text(pilot))
        text = screen_text(pilot)
        assert text.index("Diff: Replay") < text.index("Go to: Live screen") < text.index("aprtui: Quit")
        lines = [line for line in text.splitlines() if "Diff: Replay" in line or "Diff: First divergence" in line]
        assert [line.split()[-1] for line in lines] == ["R", "gd"]
        assert len({len(line.rstrip()) for line in lines}) == 1, "keys end at one column"
        assert "Mark this stage" not in text, "it needs a letter"


async def test_what_is_typed_finds_a_command_and_enter_does_it() -> None:
    async with showing(ScreenState(ScreenName.LIVE), (80, 24)) as pilot:
        await pilot.press("colon", *"go cont")
        await until(pilot, lambda: "Go to: Contracts screen" in screen_text(pilot))
        await pilot.press("enter")
        await until(pilot, lambda: getattr(pilot.app.screen, "NAME", None) is ScreenName.CONTRACTS)


async def test_keys_do_nothing_while_the_list_has_no_room() -> None:
    async with showing(ScreenState(ScreenName.LIVE), (80, 24)) as pilot:
        await pilot.press("colon")
        await until(pilot, lambda: "Live: " in screen_text(pilot))
        for size in [(1, 1), (1, 34), (2, 6), (3, 5), (3, 34), (5, 7)]:
            await pilot.resize_terminal(*size)
            await pilot.press("pageup", "pagedown", "down", "up")
        await pilot.press("escape")
        assert getattr(pilot.app.screen, "NAME", None) is ScreenName.LIVE


async def test_a_click_beside_a_screen_that_has_become_smaller_does_nothing() -> None:
    async with showing(ScreenState(ScreenName.LIVE), (80, 24)) as pilot:
        await pilot.press("colon")
        await until(pilot, lambda: "Live: " in screen_text(pilot))
        palette = pilot.app.screen
        await pilot.resize_terminal(80, 10)
        palette.post_message(Click(palette, 4, 13, 0, 0, 1, False, False, False, screen_x=4, screen_y=13))
        await pilot.pause()
        assert pilot.app.screen is palette
