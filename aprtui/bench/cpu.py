"""`aprtui bench cpu`: the CPU engine against llama.cpp, the cost of taps, the cost of a capture, memory.

Everything that is compared is measured in turns in one run, each engine in its own process; figures are medians.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aprtui.bench.contestants import CapturingContestant, LlamaCppContestant, OurContestant, PageCacheContestant
from aprtui.bench.worker import Contestant, Job, Worker
from aprtui.engine.protocol import Mode
from aprtui.model.model import load_model
from aprtui.progress import Progress
from aprtui.trace.writer import planned_files

PROMPT = 512
DECODED = 64


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a benchmark: what was measured, and the ratio that it is judged by (None where it has none)."""

    what: str
    value: float
    unit: str
    spread: tuple[float, float]
    ratio: float | None = None
    against: str = ""
    target: str = ""


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure: the file, threads and rounds, and whether llama.cpp takes part."""

    model: Path
    threads: int
    rounds: int
    peer: bool
    directory: Path | None = None


def run_cpu(options: Options, progress: Progress) -> Iterator[Figure]:
    yield from _against_peer(options, progress)
    yield from _taps(options, progress)
    yield from _capture(options, progress)


def _rounds(
    builders: Mapping[str, tuple[Callable[[], Contestant], Job]],
    options: Options,
    vocabulary: int,
    progress: Progress,
    what: str,
) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, measured in turns after one warm-up each."""
    seconds: dict[str, list[float]] = {name: [] for name in builders}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(build, vocabulary)) for name, (build, _) in builders.items()}
        for turn in range(options.rounds + 1):
            progress(what, turn, options.rounds + 1)
            for name, (_, job) in builders.items():
                taken = workers[name].measure(job)
                if turn:
                    seconds[name].append(taken)
    return seconds


def _rate(name: str, tokens: int, seconds: Sequence[float], **judged: object) -> Figure:
    rates = sorted(tokens / taken for taken in seconds)
    return Figure(name, statistics.median(rates), "tokens/s", (rates[0], rates[-1]), **judged)  # type: ignore[arg-type]


def _paired(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Median of the ratios round by round, which a drift of the machine's speed leaves alone."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def _against_peer(options: Options, progress: Progress) -> Iterator[Figure]:
    vocabulary = load_model(options.model).config.graph.vocabulary
    context = PROMPT + DECODED
    size = options.model.stat().st_size
    for mode in (Mode.Q8, Mode.EXACT):
        ours = partial(OurContestant, options.model, mode, options.threads, context)
        for work, tokens, target in (("decode", DECODED, 1.0), ("prefill", PROMPT, 0.5)):
            job = Job(work, tokens)
            builders: dict[str, tuple[Callable[[], Contestant], Job]] = {"ours": (ours, job)}
            if options.peer and mode is Mode.Q8:
                builders["llama.cpp"] = (partial(LlamaCppContestant, options.model, options.threads, context), job)
            seconds = _rounds(builders, options, vocabulary, progress, f"{work} {mode}")
            if "llama.cpp" in seconds:
                yield _rate(f"{work}, llama.cpp", tokens, seconds["llama.cpp"])
                ratio = _paired(seconds["llama.cpp"], seconds["ours"])
                yield _rate(
                    f"{work}, {mode}", tokens, seconds["ours"], ratio=ratio, against="llama.cpp", target=f"≥ {target}"
                )
            else:
                yield _rate(f"{work}, {mode}", tokens, seconds["ours"])
    yield from _memory(options, context, size, vocabulary)


def _memory(options: Options, context: int, size: int, vocabulary: int) -> Iterator[Figure]:
    config = load_model(options.model).config.graph
    cache = 2 * 4 * config.layers * config.kv_width * context
    ours = partial(OurContestant, options.model, Mode.Q8, options.threads, context)
    with Worker(ours, vocabulary) as worker:
        worker.measure(Job("prefill", PROMPT))
        worker.measure(Job("decode", DECODED))
        peak = worker.memory().peak
    allowed = 1.2 * size + cache + 250e6
    yield Figure(
        "memory, q8", peak / 1e6, "MB resident at most", (peak / 1e6, peak / 1e6),
        peak / allowed, "1.2 × file + K/V + 250 MB", "≤ 1.0",
    )  # fmt: skip


def _taps(options: Options, progress: Progress) -> Iterator[Figure]:
    vocabulary = load_model(options.model).config.graph.vocabulary
    job = Job("decode", DECODED)
    plain = partial(OurContestant, options.model, Mode.Q8, options.threads, PROMPT)
    tapped = partial(plain, stats=True)
    seconds = _rounds({"plain": (plain, job), "tapped": (tapped, job)}, options, vocabulary, progress, "taps")
    yield _rate(
        "decode, q8, statistics of all stages", DECODED, seconds["tapped"],
        ratio=_paired(seconds["tapped"], seconds["plain"]), against="time without taps", target="≤ 1.10",
    )  # fmt: skip


def _capture(options: Options, progress: Progress) -> Iterator[Figure]:
    model = load_model(options.model)
    vocabulary = model.config.graph.vocabulary
    job = Job("prefill", PROMPT)
    files = planned_files(model.graph, model.graph.nodes, PROMPT, 1)
    sizes = tuple(int(_size(info.shape)) for info in files.values())
    with tempfile.TemporaryDirectory(prefix="aprtui-bench-", dir=options.directory) as folder:
        arguments = (options.model, Mode.Q8, options.threads, PROMPT + 1)
        builders: dict[str, tuple[Callable[[], Contestant], Job]] = {
            "plain": (partial(OurContestant, *arguments), job),
            "capture": (partial(CapturingContestant, *arguments, Path(folder) / "capture"), job),
            "write": (partial(PageCacheContestant, sizes, Path(folder) / "write"), job),
        }
        seconds = _rounds(builders, options, vocabulary, progress, "capture")
    median = {name: statistics.median(taken) for name, taken in seconds.items()}
    yield Figure("write of the same bytes", median["write"], "s", _range(seconds["write"]))
    yield Figure("prefill of 512 tokens, q8", median["plain"], "s", _range(seconds["plain"]))
    limit = [plain + 2 * write for plain, write in zip(seconds["plain"], seconds["write"], strict=True)]
    yield Figure(
        f"full capture of it, {sum(sizes) / 1e6:.0f} MB", median["capture"], "s", _range(seconds["capture"]),
        _paired(seconds["capture"], limit), "prefill + 2 × write", "≤ 1.0",
    )  # fmt: skip


def _size(shape: Sequence[int]) -> int:
    count = 1
    for axis in shape:
        count *= axis
    return 12 + 4 * count


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)
