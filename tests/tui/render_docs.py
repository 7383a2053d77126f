"""Renders the pictures of the live screen in docs/, from the app itself on the embedded model.

Run from the checkout: `python -m tests.tui.render_docs`
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from aprtui.engine.process import EngineProcess, EngineState
from aprtui.engine.process_messages import EngineSettings
from aprtui.engine.process_opening import open_model
from aprtui.resources import embedded_model
from aprtui.tui.app import AprtuiApp
from aprtui.tui.live import LiveScreen
from aprtui.tui.session import Session
from aprtui.tui.tool_screen import picture

DOCS = Path(__file__).parents[2] / "docs"
SIZES = ((80, 24), (120, 36))
PROMPT = "def read_lines(path):\n"
TOKENS = 48


async def render(size: tuple[int, int], target: Path) -> None:
    """Generate TOKENS tokens, pause, move the cursor and save the screen."""
    source = EngineProcess(partial(open_model, path=embedded_model()), EngineSettings(threads=1))
    app = AprtuiApp(Session(source, PROMPT))
    try:
        async with app.run_test(size=size) as pilot:
            while not isinstance(app.screen, LiveScreen) or source.written < TOKENS:
                await pilot.pause(0.01)
                assert source.state is not EngineState.CRASHED, app.failure
            await pilot.press("p", "down", "down", "right", "right")
            while source.state is EngineState.RUNNING:
                await pilot.pause(0.05)
            await pilot.pause(0.2)
            svg = app.export_screenshot(title="aprtui")
    finally:
        source.close()
    target.write_text(picture(svg))


def main() -> None:
    """Render all sizes."""
    for columns, rows in SIZES:
        asyncio.run(render((columns, rows), DOCS / f"live-{columns}x{rows}.svg"))


if __name__ == "__main__":
    main()
