"""`aprtui bench tui`: what the screens cost, measured from outside on the program in a pseudo-terminal.

Live: an 80-layer model of random weights generates at full speed while its stage grid is drawn; against `aprtui run`
with as many engine threads, both timed by the wall clock, in turns. Every token's statistics differ, so every frame
changes most cells.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from aprtui.bench.cpu import Figure
from aprtui.bench.random_model import SHAPES, write_random_model
from aprtui.bench.terminal import PseudoTerminal
from aprtui.errors import EngineError
from aprtui.resources import embedded_model

SIZES = ((120, 40), (200, 60))
FRAMES_A_SECOND = 20
PROCESSOR_SHARE = 0.25
TOKENS_KEPT = 0.90
PRIVATE_BYTES = 250e6

WARM_UP = 1.5
WINDOW = 4.0
TOKENS = 600
"""What `aprtui run` generates in a round: some five seconds."""

PROGRAM = (sys.executable, "-m", "aprtui")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class TuiOptions:
    """How many rounds, and where models and captures are written."""

    directory: Path
    rounds: int = 3


@dataclass(frozen=True, slots=True)
class _LiveRound:
    tokens_a_second: float
    frames_a_second: float
    processor_share: float
    bytes_a_frame: float
    private: int


def run_live(options: TuiOptions, progress: Progress) -> Iterator[Figure]:
    """Frames, processor time and tokens of the live screen, at each size. Raises `EngineError`."""
    model = options.directory / "random-deep-q4km.gguf"
    if not model.exists():
        write_random_model(model, SHAPES["deep"], tokenizer_of=embedded_model())
    threads = max(1, len(os.sched_getaffinity(0)) - 1)
    headless: list[float] = []
    rounds: dict[tuple[int, int], list[_LiveRound]] = {size: [] for size in SIZES}
    for turn in range(options.rounds):
        for size in SIZES:
            progress("live screen", turn * len(SIZES) + SIZES.index(size), options.rounds * len(SIZES))
            headless.append(_headless(model, threads))
            rounds[size].append(_live(model, size))
    yield _figure(f"aprtui run, {threads} engine threads", headless, "tokens/s")
    for size, measured in rounds.items():
        yield from _live_figures(size, measured, headless)


def _live_figures(size: tuple[int, int], measured: Sequence[_LiveRound], headless: Sequence[float]) -> Iterator[Figure]:
    name = f"live {size[0]}×{size[1]}"
    frames = [one.frames_a_second for one in measured]
    yield _figure(
        f"{name}, 80 layers redrawn", frames, "frames/s",
        statistics.median(frames) / FRAMES_A_SECOND, f"{FRAMES_A_SECOND} a second", "≥ 1.0",
    )  # fmt: skip
    share = [100 * one.processor_share for one in measured]
    yield _figure(
        f"{name}, processor time of the screen", share, "% of a core",
        statistics.median(share) / (100 * PROCESSOR_SHARE), "25 % of a core", "≤ 1.0",
    )  # fmt: skip
    tokens = [one.tokens_a_second for one in measured]
    # Of the medians: rounds of the two sizes share the runs that they are held against.
    yield _figure(
        f"{name}, decode beside the screen", tokens, "tokens/s",
        statistics.median(tokens) / statistics.median(headless), "aprtui run", f"≥ {TOKENS_KEPT}",
    )  # fmt: skip
    yield _figure(f"{name}, sent to the terminal", [one.bytes_a_frame / 1e3 for one in measured], "kB a frame")
    private = [one.private / 1e6 for one in measured]
    yield _figure(f"{name}, private memory", private, "MB", max(private) * 1e6 / PRIVATE_BYTES, "250 MB", "≤ 1.0")


def _figure(
    what: str, values: Sequence[float], unit: str, ratio: float | None = None, against: str = "", target: str = ""
) -> Figure:
    return Figure(what, statistics.median(values), unit, (min(values), max(values)), ratio, against, target)


def _headless(model: Path, threads: int) -> float:
    """Tokens a second of `aprtui run` by the wall clock, from the first token it prints to the last."""
    command = [*PROGRAM, "run", str(model), "-p", "def fib(n):", "-n", str(TOKENS), "--threads", str(threads), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        times = [time.perf_counter() for line in process.stdout if "id" in json.loads(line)]
    if process.returncode or len(times) < TOKENS // 2:
        raise EngineError(f"aprtui run ended with {process.returncode} after {len(times)} tokens: try it by hand")
    return (len(times) - 1) / (times[-1] - times[0])


def _live(model: Path, size: tuple[int, int]) -> _LiveRound:
    """One generation at full speed in the app, looked at for `WINDOW` seconds."""
    with PseudoTerminal([*PROGRAM, "open", str(model)], *size) as terminal:
        terminal.wait_for("ready")
        terminal.press("edef fib(n):\r")
        terminal.wait_for(r"context \d+/")
        terminal.press("f")
        time.sleep(WARM_UP)
        begin = _Moment.of(terminal)
        time.sleep(WINDOW)
        end = _Moment.of(terminal)
        private = terminal.private_bytes()
    seconds = end.time - begin.time
    frames = end.frames - begin.frames
    if end.position - begin.position < WINDOW or not frames:
        raise EngineError("the generation in the app ended early: try another model")
    return _LiveRound(
        (end.position - begin.position) / seconds,
        frames / seconds,
        (end.processor - begin.processor) / seconds,
        (end.received - begin.received) / frames,
        private,
    )


@dataclass(frozen=True, slots=True)
class _Moment:
    time: float
    frames: int
    processor: float
    position: int
    received: int

    @classmethod
    def of(cls, terminal: PseudoTerminal) -> _Moment:
        """What has been shown so far; waits for the next frame that tells the position, and takes the time then."""
        terminal.forget()
        position = int(terminal.wait_for(r"context (\d+)/")[1])
        return cls(time.perf_counter(), len(terminal.frames), terminal.processor_seconds(), position, terminal.received)
