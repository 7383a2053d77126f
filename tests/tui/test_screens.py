"""What holds for every screen of the app."""

from __future__ import annotations

import pytest

from aprtui.tui.app import SCREENS
from aprtui.tui.state import ScreenName, ScreenState
from aprtui.tui.tool_screen import ToolScreen
from tests.tui.driver import showing


@pytest.mark.parametrize("name", SCREENS)
async def test_first_keys_of_chords_are_bound_once(name: ScreenName) -> None:
    # Textual calls the handlers of all classes of a widget: one that calls its parent's makes it run twice.
    async with showing(ScreenState(name)) as pilot:
        screen = pilot.app.screen
        assert isinstance(screen, ToolScreen) and screen.NAME is name
        bound = [screen._bindings.key_to_bindings[chord.prefix] for chord in screen.chords]
        assert all(len(bindings) == 1 for bindings in bound)
