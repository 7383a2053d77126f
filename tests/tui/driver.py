"""What tests of screens share: an app on a recorded source, what stands on its screen, and waiting."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from textual.events import Key, Paste
from textual.pilot import Pilot
from textual.widget import Widget

from aprtui.config import Config
from aprtui.errors import ExitCode
from aprtui.tui.app import AprtuiApp
from aprtui.tui.frame.keymap import key_name
from aprtui.tui.frame.keys_in_turn import KeysInTurnApp
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenState
from aprtui.tui.frame.tool_screen import ToolScreen
from tests.tui.screens.live.recorded import RecordedSource

Driver = Pilot[ExitCode]


@asynccontextmanager
async def showing(
    state: ScreenState,
    size: tuple[int, int] = (120, 40),
    *,
    paths: tuple[Path, ...] = (),
    ascii_only: bool = False,
    theme: str | None = None,
    source: RecordedSource | None = None,
) -> AsyncIterator[Driver]:
    """The app on the screen of `state`, with `source` in place of one without a chat template."""
    config = Config(Path("config.toml"), theme, ascii=ascii_only)
    async with AprtuiApp(Session(source or RecordedSource(), paths=paths), state, config).run_test(size=size) as pilot:
        yield pilot


def tool_screen(pilot: Driver) -> ToolScreen:
    """The screen on top, which must be one of the app's own."""
    assert isinstance(pilot.app.screen, ToolScreen)
    return pilot.app.screen


def screen_text(pilot: Driver) -> str:
    """What stands on the screen, row by row."""
    strips = pilot.app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in strips)


async def until(pilot: Driver, holds: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for something that threads bring about."""
    for _ in range(int(seconds / 0.02)):
        await pilot.pause(0.02)
        if holds():
            return
    raise AssertionError("not within the time; on the screen:\n" + screen_text(pilot))


async def until_shown(pilot: Driver, *words: str) -> None:
    """Wait until all of `words` stand on the screen."""
    await until(pilot, lambda: all(word in screen_text(pilot) for word in words))


def notifications(pilot: Driver) -> list[str]:
    """What the app tells: its toasts, and the notice in the line of words."""
    assert isinstance(pilot.app, AprtuiApp)
    notice = pilot.app.notice
    return [*(note.message for note in pilot.app._notifications), *([] if notice is None else [notice.text])]


async def drag(pilot: Driver, widget: Widget, first: tuple[int, int], last: tuple[int, int]) -> None:
    """Press the mouse at a place (column and line) of a widget, and let go at another."""
    await pilot.mouse_down(widget, offset=first)
    await pilot.hover(widget, offset=last)
    await pilot.mouse_up(widget, offset=last)
    await pilot.pause()


async def burst(pilot: Driver, *inputs: str | Paste) -> None:
    """Send keys, by their names or characters, and pasted texts without a pause between them; wait for the last."""
    app = pilot.app
    for each in inputs:
        if isinstance(each, Paste):
            app.post_message(each)
        else:
            app.post_message(key_event(each))
    assert isinstance(app, KeysInTurnApp)
    await app.keys_taken()


def key_event(key: str) -> Key:
    """The press of a key, by its name or its character."""
    return Key(key_name(key), key if len(key) == 1 else {"space": " ", "slash": "/"}.get(key))
