"""Help as a person reads it: keys of the pane first, in columns; prose and names of commands behind tab."""

from __future__ import annotations

import pytest
from rich.style import Style

from aprtui.tui.app import SCREENS
from aprtui.tui.frame.commands import commands_at_hand
from aprtui.tui.frame.state import ScreenName, ScreenState
from aprtui.tui.screens.help.columns import GAP, LEAST_WIDTH, KeyList, in_columns
from tests.tui.driver import screen_text, showing

LISTS = [
    KeyList("One", [("a", "first"), ("b", "a description that is longer than a column is wide, much longer")]),
    KeyList("Two", [(str(number), f"command {number}") for number in range(12)]),
    KeyList("Three", []),
]


@pytest.mark.parametrize("width", [20, LEAST_WIDTH, 76, 116, 200])
def test_columns_hold_every_key_once_and_are_as_wide_as_asked(width: int) -> None:
    lines = in_columns(LISTS, width, Style(), Style(), Style())
    texts = ["".join(segment.text for segment in line) for line in lines]
    assert {len(text) for text in texts} <= {width - each for each in range(6)} and len(set(map(len, texts))) == 1
    for number in range(12):
        assert sum(f" command {number} " in f"{text} " for text in texts) == 1
    assert "Three" not in "".join(texts)
    count = max(1, (width + GAP) // (LEAST_WIDTH + GAP))
    assert len(texts) <= (12 + 2 + 5 + 2) // count + 5


async def test_keys_of_the_pane_come_before_those_of_the_screen_and_of_all() -> None:
    async with showing(ScreenState(ScreenName.LIVE), (80, 24)) as pilot:
        await pilot.press("question_mark")
        await pilot.pause()
        text = screen_text(pilot)
        assert "Live: keys" in text
        assert text.index("This pane") < text.index("Move") < text.index("This screen") < text.index("p space")
        await pilot.press("tab")
        await pilot.pause()
        assert "The text is what the model says" in screen_text(pilot)
        await pilot.press("tab")
        await pilot.pause()
        assert "live.pause" in screen_text(pilot)
        await pilot.press("tab")
        await pilot.pause()
        assert "This pane" in screen_text(pilot)


@pytest.mark.parametrize("name", SCREENS)
async def test_all_keys_are_seen_at_once_on_a_usual_screen(name: ScreenName) -> None:
    async with showing(ScreenState(name), (120, 40)) as pilot:
        await pilot.press("question_mark")
        await pilot.pause()
        text = screen_text(pilot)
        assert "Live, Browse, Tensor" in text and "Save the screen" in text and "This screen" in text


@pytest.mark.parametrize("name", [name for name, screen in SCREENS.items() if screen.SIGNS])
async def test_signs_and_colours_are_explained_and_no_key_is_cut(name: ScreenName) -> None:
    async with showing(ScreenState(name), (120, 40)) as pilot:
        await pilot.press("question_mark")
        await pilot.pause()
        text = screen_text(pilot)
        assert "Signs" in text and all(f" {sign} " in text for sign, _ in SCREENS[name].SIGNS)
        keys = {key for command in commands_at_hand(pilot.app.screen_stack[-2]) for key in command.words(False).split()}
        grouped_keys = {key for key in keys if len(key) > 4}
        assert {"shift+tab", "ctrl+c"} <= grouped_keys
        assert {key for key in grouped_keys if key not in text} == set()


async def test_help_scrolls_to_its_end_on_a_small_screen() -> None:
    async with showing(ScreenState(ScreenName.LIVE), (80, 24)) as pilot:
        await pilot.press("question_mark")
        await pilot.pause()
        before = screen_text(pilot)
        await pilot.press("pagedown", "pagedown")
        await pilot.pause()
        assert "Live, Browse, Tensor" in screen_text(pilot) and screen_text(pilot) != before
        await pilot.press("escape")
        assert type(pilot.app.screen).__name__ == "LiveScreen"
