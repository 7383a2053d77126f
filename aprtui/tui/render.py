"""Pictures of recorded sessions: the live screen plays one up to a token, without a terminal, and is drawn as SVG."""

from __future__ import annotations

import asyncio
from pathlib import Path

from textual.pilot import Pilot

from aprtui.config import Config, config_path
from aprtui.engine.process.engine_process import EngineState
from aprtui.engine.sessions.player import SessionPlayer
from aprtui.errors import ExitCode, UnreadableError
from aprtui.tui.app import AprtuiApp
from aprtui.tui.draw.colours import DARK, LIGHT
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenState
from aprtui.tui.frame.tool_screen import picture

_FRAME = 0.06
"""Seconds in which the screen polls and draws at least once."""

_MOST_FRAMES = 100
"""Waited for a screen that does not come to rest, or for what it reads in threads."""


def drawn_recording(state: ScreenState, path: Path, tokens: int, size: tuple[int, int], *, light: bool = False) -> str:
    """The live screen of `state`, which names the recording `path`, as SVG: `size` is in columns and rows.

    It is as it was when the first `tokens` tokens had been generated. Raises `UnreadableError`.
    """
    player, drawn = SessionPlayer(path, pause_at=tokens), list[str]()
    app = AprtuiApp(
        Session(player, remembers=False), state, Config(config_path(), theme=(LIGHT if light else DARK).name)
    )

    async def draw(pilot: Pilot[object]) -> None:
        if any(task.cancelling() for task in asyncio.all_tasks()):
            return  # interrupted while it began: nothing would answer a key any more, and this would wait for ever
        await pilot.press("f")  # as fast as it can be read
        while not player.written or player.state is EngineState.RUNNING:
            if app.failure:
                break
            await pilot.pause(_FRAME)
        before = ""
        for _ in range(_MOST_FRAMES):
            await pilot.pause(_FRAME)
            now = app.export_screenshot(title="aprtui")
            if now == before and not any(worker.is_running for worker in app.workers):
                break
            before = now
        drawn.append(before)
        app.exit(ExitCode.PASS)

    try:
        app.run(headless=True, size=size, auto_pilot=draw)
    finally:
        player.close()
    if app.crash is not None:
        raise app.crash
    if app.failure:
        raise UnreadableError(app.failure)
    return picture(drawn[0])
