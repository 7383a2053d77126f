"""`aprtui bench tui`: the costs of the screens, measured from outside on the program in a pseudo-terminal.

Keys: the diff and the tensor screen on captures of 8 GB, and a capture of 2,000 files in the browse screen. An answer
is timed twice: its first frame, with cursor and words, and its last, when the values that a thread has read are there.

Live: an 80-layer model of random weights generates at full speed while its stage grid is drawn, with numbers and as
the overview of all layers; against `aprtui run` with as many engine threads, both timed by the wall clock, in turns and
at the same positions, because attention takes longer the further a text has come: 0.5 ms of 8.5 in 100 tokens here.
Every token's statistics differ, so every frame changes most cells.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from aprtui.bench.cpu import Figure
from aprtui.bench.random_data import SEVEN_BILLION, SHAPES, TWO_THOUSAND_FILES, write_noise_capture, write_random_model
from aprtui.bench.terminal import PseudoTerminal
from aprtui.engine.backends.registry import host_backends, is_host
from aprtui.errors import EngineError
from aprtui.model.model import load_model
from aprtui.progress import Progress
from aprtui.resources import embedded_model

SIZES = ((120, 40), (200, 60))
VIEWS = ("numbers", "overview")
FRAMES_A_SECOND = 20
PROCESSOR_SHARE = 0.25
TOKENS_KEPT = 0.90
PRIVATE_BYTES = 250e6

KEY_SECONDS = 0.050
FIRST_PAINT_SECONDS = 1.0
KEYS = "jjlljjllkkhhkkhh" * 4
LARGE_TOKENS = 512
ERROR = 1e-3

WARM_UP = 1.5
WINDOW = 4.0
PROMPT = "def fib(n):"

PROGRAM = (sys.executable, "-m", "aprtui")


@dataclass(frozen=True, slots=True)
class TuiOptions:
    """How many rounds, where models and captures are written, and which engine runs beside the screen."""

    directory: Path
    rounds: int = 3
    backend: str = host_backends()[0].name


@dataclass(frozen=True, slots=True)
class _LiveRound:
    positions: range
    """Of the tokens that it made."""
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
    places = list(product(VIEWS, SIZES))
    rounds: dict[tuple[str, tuple[int, int]], list[_LiveRound]] = {place: [] for place in places}
    headless: dict[tuple[str, tuple[int, int]], list[float]] = {place: [] for place in places}
    for turn in range(options.rounds):
        for done, (view, size) in enumerate(places):
            progress("live screen", turn * len(places) + done, options.rounds * len(places))
            measured = _live(model, view, size, options.backend)
            rounds[view, size].append(measured)
            headless[view, size].append(_headless(model, threads, options.backend, measured.positions))
    engine = f"{threads} engine threads" if is_host(options.backend) else options.backend
    yield Figure.of(f"aprtui run, {engine}", [rate for rates in headless.values() for rate in rates], "tokens/s")
    for place in places:
        view, size = place
        yield from _live_figures(f"live {size[0]}×{size[1]}, {view}", rounds[place], headless[place])


def _live_figures(name: str, measured: Sequence[_LiveRound], headless: Sequence[float]) -> Iterator[Figure]:
    frames = [one.frames_a_second for one in measured]
    yield Figure.of(
        f"{name}, 80 layers redrawn", frames, "frames/s",
        statistics.median(frames) / FRAMES_A_SECOND, f"{FRAMES_A_SECOND} a second", "≥ 1.0",
    )  # fmt: skip
    share = [100 * one.processor_share for one in measured]
    yield Figure.of(
        f"{name}, processor time of the screen", share, "% of a core",
        statistics.median(share) / (100 * PROCESSOR_SHARE), "25 % of a core", "≤ 1.0",
    )  # fmt: skip
    tokens = [one.tokens_a_second for one in measured]
    kept = [beside / alone for beside, alone in zip(tokens, headless, strict=True)]
    yield Figure.of(
        f"{name}, decode beside the screen", tokens, "tokens/s",
        statistics.median(kept), "aprtui run", f"≥ {TOKENS_KEPT}",
    )  # fmt: skip
    yield Figure.of(f"{name}, sent to the terminal", [one.bytes_a_frame / 1e3 for one in measured], "kB a frame")
    private = [one.private / 1e6 for one in measured]
    yield Figure.of(f"{name}, private memory", private, "MB", max(private) * 1e6 / PRIVATE_BYTES, "250 MB", "≤ 1.0")


def _headless(model: Path, threads: int, backend: str, positions: range) -> float:
    """Tokens a second of `aprtui run` at `positions` by the wall clock, as it prints them."""
    first = len(load_model(model).tokenizer.encode(PROMPT))
    tokens = positions.stop - first
    engine = ["--backend", backend, "--threads", str(threads)]
    command = [*PROGRAM, "run", str(model), "-p", PROMPT, "-n", str(tokens), *engine, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        times = [time.perf_counter() for line in process.stdout if "id" in json.loads(line)]
    if process.returncode or len(times) < tokens:
        raise EngineError(f"aprtui run ended with {process.returncode} after {len(times)} tokens: try it by hand")
    return (len(positions) - 1) / (times[-1] - times[positions.start - first])


def _live(model: Path, view: str, size: tuple[int, int], backend: str) -> _LiveRound:
    """One generation at full speed in the app, looked at for `WINDOW` seconds."""
    state = f"aprtui:live?model={model}&backend={backend}&view={view}"
    with PseudoTerminal([*PROGRAM, "open", state], *size) as terminal:
        terminal.wait_for("ready")
        terminal.press(f"e{PROMPT}\r")
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
        range(begin.position, end.position + 1),
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
        """The output so far; waits for the next frame that shows the position, and takes the time then."""
        terminal.forget()
        position = int(terminal.wait_for(r"context (\d+)/")[1])
        return cls(time.perf_counter(), len(terminal.frames), terminal.processor_seconds(), position, terminal.received)


def run_keys(options: TuiOptions, progress: Progress) -> Iterator[Figure]:
    """Time from a key to its frame on captures of 8 GB, warm and cold; the first paint of a capture of 2,000 files.

    Raises `EngineError`.
    """
    good, bad = (options.directory / name for name in ("good", "bad"))
    for path, error in ((good, 0.0), (bad, ERROR)):
        if not path.exists():
            write_noise_capture(path, SEVEN_BILLION, LARGE_TOKENS, progress, error)
    middle = "layer=14&stage=ffn_gate"
    places = {
        "diff": (f"aprtui:diff?a={good}&b={bad}&{middle}", "UNKNOWN"),
        "tensor": (f"aprtui:tensor?capture={bad}&{middle}", "ffn_gate"),
    }
    for size in SIZES:
        for name, (state, shown) in places.items():
            progress("keys", SIZES.index(size) * len(places) + list(places).index(name), len(SIZES) * len(places))
            yield from _keys(name, state, shown, size, (good, bad))
    folder = options.directory / "many"
    for name in ("a", "b"):
        if not (folder / name).exists():
            write_noise_capture(folder / name, TWO_THOUSAND_FILES, 16, progress)
    for size in SIZES:
        yield _first_paint(folder, size)


def _keys(name: str, state: str, shown: str, size: tuple[int, int], files: Sequence[Path]) -> Iterator[Figure]:
    with PseudoTerminal([*PROGRAM, "open", state], *size) as terminal:
        terminal.wait_for(shown, 300)
        time.sleep(1.0)
        warm = [terminal.time_key(key) for key in KEYS]
        _drop_from_cache(files)
        cold = [terminal.time_key(key) for key in KEYS]
        private = terminal.private_bytes()
    title = f"{name} {size[0]}×{size[1]}"
    for kind, times, target in (("warm", warm, "≤ 1.0"), ("cold", cold, "")):
        for which, what in enumerate(("key to frame", "key to all values")):
            ordered = sorted(1e3 * answer[which] for answer in times)
            high = ordered[int(0.95 * len(ordered))]
            judged = (high / (1e3 * KEY_SECONDS), "50 ms", target) if target and not which else (None, "", "")
            yield Figure(f"{title}, {what}, p95, {kind}", high, "ms", (ordered[0], ordered[-1]), *judged)
    yield Figure.of(f"{title}, private memory", [private / 1e6], "MB", private / PRIVATE_BYTES, "250 MB", "≤ 1.0")


def _drop_from_cache(folders: Sequence[Path]) -> None:
    """Have the system forget the pages of all files, which then come from the disk."""
    os.sync()
    for folder in folders:
        for path in folder.rglob("*.bin"):
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def _first_paint(folder: Path, size: tuple[int, int]) -> Figure:
    """From the key that goes to a capture of 2,000 files until it is shown."""
    with PseudoTerminal([*PROGRAM, "open", str(folder)], *size) as terminal:
        terminal.wait_for("2 captures")
        time.sleep(1.0)
        times = [terminal.time_key(key, quiet=FIRST_PAINT_SECONDS)[1] for key in "jkjkj"]
    return Figure.of(
        f"browse {size[0]}×{size[1]}, 2,009 files painted", times, "s",
        statistics.median(times) / FIRST_PAINT_SECONDS, "1 s", "≤ 1.0",
    )  # fmt: skip
