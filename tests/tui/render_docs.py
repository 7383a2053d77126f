"""Renders the pictures of the screens in docs/screens, from the app itself on the embedded model.

Run from the checkout: `python -m tests.tui.render_docs [SCREEN …]`. Every screen is drawn at three sizes, dark and
light, on captures that are made for it: a good one, one with a fault, and one of another rounding.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from aprtui.engine.process.engine_process import EngineProcess, EngineState
from aprtui.engine.process.loading import load_engine
from aprtui.engine.process.messages import EngineSettings
from aprtui.resources import contracts, embedded_model
from aprtui.tui.app import AprtuiApp
from aprtui.tui.frame.config import Config
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenName, ScreenState, screen_state
from aprtui.tui.frame.tool_screen import picture
from tests.tui.driver import Driver, screen_text, until

DOCS = Path(__file__).parents[2] / "docs" / "screens"
SIZES = ((80, 24), (120, 40), (200, 60))
THEMES = ("dark", "light")
PROMPT = "def read_lines(path):\n"
TOKENS = 48
FAULT = "layer=2,stage=ffn_gate,kind=scale,magnitude=0.5"

Scene = Callable[[Driver, EngineProcess], Awaitable[None]]


async def live(pilot: Driver, source: EngineProcess) -> None:
    """A run of 48 tokens, paused, the lens on for two more, the cursor on a stage."""
    while source.written < TOKENS:
        await pilot.pause(0.01)
        assert source.state is not EngineState.CRASHED
    await pilot.press("p")
    while source.state is EngineState.RUNNING:
        await pilot.pause(0.05)
    for key in ("L", "n", "n", "down", "down", "right", "right"):
        await pilot.press(key)
        await pilot.pause(0.3)


async def browse(pilot: Driver, source: EngineProcess) -> None:
    """Three captures, two of them marked."""
    await until(pilot, lambda: "half" in screen_text(pilot) or "good" in screen_text(pilot))
    await pilot.press("tab")


async def tensor(pilot: Driver, source: EngineProcess) -> None:
    """The faulty stage."""
    await until(pilot, lambda: "ffn_gate" in screen_text(pilot))


async def diff(pilot: Driver, source: EngineProcess) -> None:
    """The verdict, and the cursor on the first divergence."""
    await until(pilot, lambda: "FAIL" in screen_text(pilot), 120)
    await pilot.press("g", "d")


async def contracts_scene(pilot: Driver, source: EngineProcess) -> None:
    """Falsifiers judged on the captures."""
    await until(pilot, lambda: "PASS" in screen_text(pilot), 60)


SCENES: dict[ScreenName, tuple[ScreenState, Scene]] = {
    ScreenName.LIVE: (screen_state(ScreenName.LIVE, prompt=PROMPT, chat="off"), live),
    ScreenName.BROWSE: (screen_state(ScreenName.BROWSE, a="good", b="bad"), browse),
    ScreenName.TENSOR: (screen_state(ScreenName.TENSOR, capture="bad", layer=2, stage="ffn_gate"), tensor),
    ScreenName.DIFF: (
        screen_state(ScreenName.DIFF, a="good", b="bad", model="demo.gguf", replay=1), diff
    ),
    ScreenName.CONTRACTS: (
        screen_state(ScreenName.CONTRACTS, path=contracts(), reference="good", capture="good-again"), contracts_scene
    ),
}  # fmt: skip


@contextmanager
def captures() -> Iterator[None]:
    """A working directory with captures and the embedded model; users' own state and settings stay out of it."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="aprtui-screens-") as folder:
        os.environ["APRTUI_STATE_DIR"] = f"{folder}/state"
        working = Path(folder) / "captures"
        working.mkdir()
        os.chdir(working)
        Path("demo.gguf").symlink_to(embedded_model())
        for name, more in (
            ("good", []), ("good-again", []), ("q8", ["--mode", "q8"]), ("bad", ["--inject", FAULT]),
        ):  # fmt: skip
            subprocess.run(
                [sys.executable, "-m", "aprtui", "trace", "demo.gguf", "-p", PROMPT, "--logits", "all",
                 "--save-tensor-dir", name, *more],
                check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(before)},
            )  # fmt: skip
        try:
            yield
        finally:
            os.chdir(before)


async def render(name: ScreenName, size: tuple[int, int], theme: str) -> None:
    """Draw one screen."""
    state, scene = SCENES[name]
    source = EngineProcess(partial(load_engine, path=embedded_model()), EngineSettings(threads=1))
    app = AprtuiApp(Session(source), state, Config(Path("config.toml"), theme=f"aprtui-{theme}"))
    try:
        async with app.run_test(size=size) as pilot:
            await scene(pilot, source)
            await pilot.pause(1.0)
            svg = app.export_screenshot(title="aprtui", simplify=True)
    finally:
        source.close()
    DOCS.mkdir(exist_ok=True)
    target = DOCS / f"{name}-{size[0]}x{size[1]}-{theme}.svg"
    target.write_text(picture(svg))
    print(target, f"{len(svg) / 1e3:.0f} kB")


def main() -> None:
    """Draw the screens that are named, or all."""
    names = [ScreenName(name) for name in sys.argv[1:]] or list(SCENES)
    with captures():
        for name in names:
            for size in SIZES:
                for theme in THEMES:
                    asyncio.run(render(name, size, theme))


if __name__ == "__main__":
    main()
