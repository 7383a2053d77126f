"""The line of keys: whole items by priority, those of the focused pane first, help always last."""

from __future__ import annotations

import pytest
from textual.widgets import Input

from aprtui.tui.frame.key_line import KeyLine
from aprtui.tui.frame.state import ScreenName, ScreenState
from aprtui.tui.screens.browse.screen import BrowseScreen
from tests.thinning import crossed
from tests.tui.driver import Driver, screen_text, showing


def line(pilot: Driver) -> str:
    return screen_text(pilot).splitlines()[-1]


def items(pilot: Driver) -> list[str]:
    return [item.strip() for item in line(pilot).split("  ") if item.strip()]


@pytest.mark.parametrize(("width", "name"), crossed([60, 80, 95, 120, 200], ScreenName))
async def test_items_are_whole_fill_the_line_and_help_is_last(name: ScreenName, width: int) -> None:
    async with showing(ScreenState(name), (width, 30)) as pilot:
        await pilot.pause()
        commands = pilot.app.screen.query_one(KeyLine)._commands
        whole = {command.description for command in commands}
        assert line(pilot).rstrip().endswith("? Help") and len(line(pilot)) == width
        for item in items(pilot):
            assert any(item.endswith(f" {description}") for description in whole), item
        shown = {description for item in items(pilot) for description in whole if item.endswith(f" {description}")}
        room = width - 2 - len(line(pilot).rstrip().removesuffix("? Help").rstrip()) - len("  ? Help")
        left_out = [command for command in commands if command.description not in shown]
        assert all(len(command.words(False).split()[0]) + 3 + len(command.description) > room for command in left_out)


async def test_keys_of_the_focused_pane_come_first() -> None:
    async with showing(ScreenState(ScreenName.BROWSE), (80, 24)) as pilot:
        screen = pilot.app.screen
        assert isinstance(screen, BrowseScreen)
        screen.query_one("#artifacts").focus()
        await pilot.pause()
        assert items(pilot)[0] == "⏎ Open"
        await pilot.press("slash")
        await pilot.pause()
        assert isinstance(screen.focused, Input)
        assert items(pilot)[:2] == ["⏎ Keep", "esc No filter"] and items(pilot)[-1] == "f1 Help"
        assert not any("Diff marked" in item for item in items(pilot)), "a letter that is typed is no command"


async def test_a_click_on_a_key_does_what_the_key_does() -> None:
    async with showing(ScreenState(ScreenName.LIVE), (80, 24)) as pilot:
        at = line(pilot).index("? Help")
        await pilot.click(offset=(at + 3, 23))
        await pilot.pause()
        assert type(pilot.app.screen).__name__ == "HelpScreen"
