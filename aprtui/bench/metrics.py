"""The default metrics over two memory-mapped captures in page cache, against `numpy.sum` over one of them.

A process of its own measures both in turns, and maps the files again for every turn, as a comparison does, so that both
pay for mapping. Rates are bytes read a second: of both captures for the metrics, of one for the sum. Memory is what the
process has for itself, `RssAnon` + `RssShmem`, at most while it measures; mapped pages of files are not counted.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from aprtui.bench.cpu import Figure
from aprtui.bench.worker import private_bytes
from aprtui.compare.metrics.measure import measure
from aprtui.errors import EngineError
from aprtui.progress import Progress
from aprtui.trace.aprt import read_aprt, write_aprt

WIDTH = 4096
STAGE_BYTES = 256 << 20
TARGET_RATIO = 0.5
MEMORY_LIMIT = 200


@dataclass(frozen=True, slots=True)
class MetricsOptions:
    """What to measure: bytes of each capture, rounds, threads, and where the captures are written."""

    size: int = 1 << 30
    rounds: int = 7
    threads: int = 2
    directory: Path | None = None


@dataclass(frozen=True, slots=True)
class _Round:
    sum_seconds: float
    measure_seconds: float
    private: int


def run_metrics(options: MetricsOptions, progress: Progress) -> Iterator[Figure]:
    """Write two captures that differ by noise of 1e-3 in every value, and measure.

    Raises `EngineError` where they cannot be written, and where the measuring process ends early.
    """
    with tempfile.TemporaryDirectory(prefix="aprtui-bench-", dir=options.directory) as folder:
        pairs = _write_captures(Path(folder), options.size, progress)
        size = sum(a.stat().st_size for a, _ in pairs)
        rounds = list(_measured(pairs, options, progress))
    sums = [size / taken.sum_seconds / 1e9 for taken in rounds]
    rates = [2 * size / taken.measure_seconds / 1e9 for taken in rounds]
    # Round by round, which a drift of the machine's speed leaves alone.
    ratio = statistics.median(2 * taken.sum_seconds / taken.measure_seconds for taken in rounds)
    yield Figure.of("numpy.sum of one capture", sums, "GB/s")
    threads = f"{options.threads} threads"
    yield Figure.of(f"default metrics of two, {threads}", rates, "GB/s", ratio, "numpy.sum", f"≥ {TARGET_RATIO}")
    private = max(taken.private for taken in rounds) / 1e6
    name = f"private memory, 2 × {size / 1e9:.1f} GB"
    yield Figure.of(name, [private], "MB at most", private / MEMORY_LIMIT, "200 MB", "≤ 1.0")


def _write_captures(folder: Path, size: int, progress: Progress) -> list[tuple[Path, Path]]:
    """Stage files `[tokens, WIDTH]` of both sides, which stay in page cache."""
    random = np.random.default_rng(1)
    count = max(1, size // STAGE_BYTES)
    tokens = max(1, min(size, STAGE_BYTES) // 4 // WIDTH)
    pairs = []
    for index in range(count):
        progress("writing captures", index, count)
        a = random.standard_normal((tokens, WIDTH), np.float32)
        b = random.standard_normal(a.shape, np.float32)
        b *= np.float32(1e-3)
        b += a
        paths = folder / f"a-{index}.bin", folder / f"b-{index}.bin"
        for path, values in zip(paths, (a, b), strict=True):
            write_aprt(path, index, values)
        pairs.append(paths)
    return pairs


def _measured(pairs: list[tuple[Path, Path]], options: MetricsOptions, progress: Progress) -> Iterator[_Round]:
    context = multiprocessing.get_context("spawn")
    pipe, child = context.Pipe()
    process = context.Process(target=_serve, args=(child, pairs, options.rounds, options.threads), daemon=True)
    process.start()
    child.close()
    try:
        for turn in range(options.rounds):
            progress("metrics", turn, options.rounds)
            yield pipe.recv()
    except EOFError as error:
        raise EngineError("the process that measures ended early: its error stands above") from error
    finally:
        process.terminate()
        process.join()


def _serve(pipe: Connection, pairs: list[tuple[Path, Path]], rounds: int, threads: int) -> None:
    from aprtui.compare.metrics import passes

    passes.most_threads = lambda: threads
    first = _measure_once(pairs)  # compiles the kernels, and brings the files into page cache
    for _ in range(rounds):
        begin = time.perf_counter()
        for path, _other in pairs:
            np.sum(read_aprt(path).values)
        middle = time.perf_counter()
        private = _measure_once(pairs)
        pipe.send(_Round(middle - begin, time.perf_counter() - middle, max(first, private)))


def _measure_once(pairs: list[tuple[Path, Path]]) -> int:
    """Measure all pairs; returns the most private memory seen meanwhile, in bytes."""
    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while True:
            most = max(most, private_bytes())
            if done.wait(0.02):
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for a, b in pairs:
            left, right = (read_aprt(path).values.reshape(-1, WIDTH) for path in (a, b))
            assert measure(left, right).metrics.compared == left.size
    finally:
        done.set()
        watcher.join()
    return most
