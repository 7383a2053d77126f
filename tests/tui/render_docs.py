"""Renders the pictures of the screens in docs/screens, from the app itself on the embedded model.

Run from the checkout: `python -m tests.tui.render_docs [NAME …]`. Every screen is drawn at three sizes, dark and light,
on captures that are made for it: a good one, one with a fault, and one of another rounding. The names that begin with
`real-` are drawn on the Qwen2.5-Coder 0.5B in the folder that APRTUI_REAL_MODELS names, and left out without one.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aprtui.config import Config
from aprtui.engine.process.engine_process import EngineProcess, EngineState
from aprtui.engine.process.loading import load_engine
from aprtui.engine.process.messages import EngineSettings
from aprtui.resources import contracts, embedded_model
from aprtui.tui.app import AprtuiApp
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
REAL_FAULT = "layer=12,stage=ffn_gate,kind=scale,magnitude=2"
REAL_MODEL = "qwen2.5-coder-0.5b-q4_k_m.gguf"
PLAN = """
models: {demo: demo.gguf}
prompts: ["def fib(n):", "import os", "class Stack:", "def read_lines(path):", "for name in", "return sorted("]
engines:
  exact: {backend: cpu}
  q8: {backend: cpu, mode: q8}
  scaled: {backend: cpu, inject: ["layer=2,stage=ffn_gate,kind=scale,magnitude=0.5"]}
pairs: [{a: exact, b: q8}, {a: exact, b: scaled}, {replay: scaled}]
"""
QUESTION = "Write a Python function that\nreturns the n-th Fibonacci number."

Act = Callable[[Driver, EngineProcess], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows: a state of a screen, and what is done there before it is drawn."""

    state: ScreenState
    act: Act
    model: str = "demo.gguf"


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


async def chat(pilot: Driver, source: EngineProcess) -> None:
    """A conversation of two turns, paused within the second answer, the lens on, the cursor in the middle."""
    await until(pilot, lambda: source.state is EngineState.READY and source.written > 0, 300)
    await pilot.press("L", "e", *"Make it iterative.", "enter")
    await until(pilot, lambda: source.state is EngineState.RUNNING, 60)
    first = source.written
    await until(pilot, lambda: source.written > first + TOKENS, 300)
    await pilot.press("space")
    await until(pilot, lambda: source.state is EngineState.PAUSED, 60)
    await pilot.press(*["down"] * 12, *["right"] * 12)


async def browse(pilot: Driver, source: EngineProcess) -> None:
    """Three captures, two of them marked."""
    await until(pilot, lambda: "half" in screen_text(pilot) or "good" in screen_text(pilot))
    await pilot.press("tab")


async def tensor(pilot: Driver, source: EngineProcess) -> None:
    """The faulty stage."""
    await until(pilot, lambda: "ffn_gate" in screen_text(pilot))


async def diff(pilot: Driver, source: EngineProcess) -> None:
    """The verdict, and the cursor on the first divergence."""
    await until(pilot, lambda: "FAIL" in screen_text(pilot), 300)
    await pilot.press("g", "d")


async def contracts_scene(pilot: Driver, source: EngineProcess) -> None:
    """Falsifiers judged on the captures."""
    await until(pilot, lambda: "PASS" in screen_text(pilot), 60)


async def sweep(pilot: Driver, source: EngineProcess) -> None:
    """A matrix of verdicts, the cursor on one that fails."""
    await until(pilot, lambda: "FAIL" in screen_text(pilot), 60)
    await pilot.press("right", "down")


SCENES: dict[str, Scene] = {
    "live": Scene(screen_state(ScreenName.LIVE, prompt=PROMPT, chat="off"), live),
    "browse": Scene(screen_state(ScreenName.BROWSE, a="good", b="bad"), browse),
    "tensor": Scene(screen_state(ScreenName.TENSOR, capture="bad", layer=2, stage="ffn_gate"), tensor),
    "diff": Scene(screen_state(ScreenName.DIFF, a="good", b="bad", model="demo.gguf", judge="replay"), diff),
    "contracts": Scene(
        screen_state(ScreenName.CONTRACTS, path=contracts(), reference="good", capture="good-again"), contracts_scene
    ),
    "sweep": Scene(screen_state(ScreenName.SWEEP, path="night-sweep"), sweep),
    "real-live": Scene(screen_state(ScreenName.LIVE, prompt=QUESTION, chat="on", model=REAL_MODEL), chat, REAL_MODEL),
    "real-diff": Scene(
        screen_state(ScreenName.DIFF, a="real-good", b="real-bad", model=REAL_MODEL, judge="replay"), diff, REAL_MODEL
    ),
    "real-tensor": Scene(
        screen_state(ScreenName.TENSOR, capture="real-bad", layer=12, stage="ffn_gate"), tensor, REAL_MODEL
    ),
}  # fmt: skip


@contextmanager
def captures(real: Path | None) -> Iterator[None]:
    """A working directory with captures and their models; users' own state and settings stay out of it."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="aprtui-screens-") as folder:
        os.environ["APRTUI_STATE_DIR"] = f"{folder}/state"
        working = Path(folder) / "captures"
        working.mkdir()
        os.chdir(working)
        Path("demo.gguf").symlink_to(embedded_model())
        made = [
            ("demo.gguf", "good", []), ("demo.gguf", "good-again", []), ("demo.gguf", "q8", ["--mode", "q8"]),
            ("demo.gguf", "bad", ["--inject", FAULT]),
        ]  # fmt: skip
        if real:
            Path(REAL_MODEL).symlink_to(real)
            made += [(REAL_MODEL, "real-good", []), (REAL_MODEL, "real-bad", ["--inject", REAL_FAULT])]

        def run(*words: str, codes: tuple[int, ...] = (0,)) -> None:
            environment = {**os.environ, "PYTHONPATH": str(before)}
            command = [sys.executable, "-m", "aprtui", *words]
            done = subprocess.run(command, check=False, capture_output=True, env=environment)
            assert done.returncode in codes, done.stderr.decode()

        for model, name, more in made:
            run("trace", model, "-p", PROMPT, "--logits", "all", "--save-tensor-dir", name, *more)
        Path("night.yaml").write_text(PLAN)
        run("sweep", "night.yaml", codes=(1,))
        try:
            yield
        finally:
            os.chdir(before)


async def render(name: str, size: tuple[int, int], theme: str) -> None:
    """Draw one screen."""
    scene = SCENES[name]
    source = EngineProcess(partial(load_engine, path=Path(scene.model)), EngineSettings(threads=1))
    app = AprtuiApp(Session(source), scene.state, Config(Path("config.toml"), theme=f"aprtui-{theme}"))
    try:
        async with app.run_test(size=size) as pilot:
            await scene.act(pilot, source)
            await pilot.pause(1.0)
            svg = app.export_screenshot(title="aprtui", simplify=True)
    finally:
        source.close()
    DOCS.mkdir(exist_ok=True)
    target = DOCS / f"{name}-{size[0]}x{size[1]}-{theme}.svg"
    target.write_text(picture(svg))
    print(target, f"{len(svg) / 1e3:.0f} kB", flush=True)


def main() -> None:
    """Draw the screens that are named, or all."""
    folder = os.environ.get("APRTUI_REAL_MODELS")
    real = Path(folder, REAL_MODEL).absolute() if folder else None
    names = sys.argv[1:] or [name for name, scene in SCENES.items() if real or scene.model != REAL_MODEL]
    with captures(real):
        for name in names:
            for size in SIZES:
                for theme in THEMES:
                    asyncio.run(render(name, size, theme))


if __name__ == "__main__":
    main()
