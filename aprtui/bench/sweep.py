"""What a sweep costs beside its engines: scheduling, reading, verdicts on disk; and a forecast for one of any size.

Constants are measured as processor time, which other work on the machine changes least. The forecast is a simulation of
one scheduler, which serves one task at a time, and workers, which do.
"""

from __future__ import annotations

import heapq
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.report.records import comparison_records
from aprtui.compare.verdict import parse_tolerance
from aprtui.progress import Progress
from aprtui.sweep.cluster import ClusterRequest, connected
from aprtui.sweep.folder import SweepFolder
from aprtui.trace.aprt import write_aprt
from aprtui.trace.capture import Capture
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.stage_graph import graph_for
from aprtui.trace.manifest import relative_path
from aprtui.trace.writer import planned_bytes, planned_files

SEVENTY_B = GraphConfig("llama", 80, 8192, 64, 8, 128, 28672, 128256, qkv_bias=False)
"""The shape of Llama 3 70B."""

_MEASURED = GraphConfig("llama", 2, 2048, 16, 4, 128, 8192, 1024, qkv_bias=False)
_TOKENS = 128
_WINDOW = 60
"""Tasks that are with the scheduler at once: a sweep hands out its prompts in a window, too."""


@dataclass(frozen=True, slots=True)
class SweepFigure:
    """One measured constant."""

    name: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class SweepLoad:
    """A sweep as the scheduler sees it: tasks of one length, each of which costs the scheduler some of its time."""

    tasks: int
    task_seconds: float
    scheduler_seconds: float


def measure_sweep(tasks: int, progress: Progress) -> Iterator[SweepFigure]:
    """Measure the constants; `tasks` empty ones are scheduled."""
    yield SweepFigure("scheduling", _scheduling(tasks, progress) * 1e3, "ms of the sweep's own process a task")
    with tempfile.TemporaryDirectory(prefix="aprtui-bench-") as folder:
        paths = [_written(Path(folder) / side) for side in "ab"]
        size = sum(file.stat().st_size for path in paths for file in path.rglob("*.bin"))
        _compare(*paths)  # compiles kernels, and reads the files once
        progress("comparing", 0, 1)
        started = time.process_time()
        records = _compare(*paths)
        seconds = time.process_time() - started
        yield SweepFigure("comparing", size / seconds / 1e9, "GB of captures a second and core")
        sweep = SweepFolder(Path(folder) / "sweep")
        with sweep.locked():
            sweep.write_verdict("k", {}, records)
        stages = sum(record["record"] == "comparison" for record in records)
        yield SweepFigure("verdict", sweep.verdict("k").stat().st_size / stages, "bytes on disk a stage")


def _scheduling(tasks: int, progress: Progress) -> float:
    """Processor time of the process of a sweep, in which scheduler and client run, for one task in seconds.

    On a busy machine it is too large: what the process does now and then, whether there are tasks or not, counts too.
    """
    with tempfile.TemporaryDirectory(prefix="aprtui-bench-") as folder:
        sweep = SweepFolder(Path(folder))
        with sweep.locked(), connected(ClusterRequest(workers=2, threads=1), sweep) as cluster:
            submit = cluster.client.submit
            submit(_nothing, key="first", pure=False).result()
            progress("scheduling", 0, 1)
            started = time.process_time()
            for first in range(0, tasks, _WINDOW):
                held = []
                for number in range(first, min(first + _WINDOW, tasks), 3):
                    a, b = (submit(_nothing, key=f"{side}-{number}", pure=False) for side in "ab")
                    held += [a, b, submit(_nothing, a, b, key=f"v-{number}", pure=False, priority=-number)]
                for future in held:
                    future.result()
            return (time.process_time() - started) / tasks


def _nothing(*captures: object) -> None:
    """A task that takes no time."""


def _written(path: Path) -> Path:
    """A capture of random values, without a manifest; both sides have the same."""
    graph = graph_for(_MEASURED)
    random = np.random.default_rng(7)
    for info in planned_files(graph, graph.nodes, _TOKENS, _TOKENS).values():
        values = random.standard_normal(info.shape).astype(np.float32)
        write_aprt(path / relative_path(info.node), info.layer, values)
    return path


def _compare(a: Path, b: Path) -> list[dict[str, object]]:
    options = DiffOptions(tolerances=(parse_tolerance("rel_l2=1e-5"),), tokens=tuple(range(_TOKENS)))
    comparison = compare_captures(Capture.open(a), Capture.open(b), options)
    return list(comparison_records(a, b, None, comparison))


def capture_bytes(config: GraphConfig, tokens: int) -> int:
    """Bytes of a capture of all stages."""
    graph = graph_for(config)
    return planned_bytes(planned_files(graph, graph.nodes, tokens, tokens).values())


def simulated_seconds(load: SweepLoad, workers: int) -> float:
    """How long a sweep takes where one scheduler serves `workers` in turn: each task waits for the scheduler first,
    then for itself."""
    free_workers = [0.0] * workers
    heapq.heapify(free_workers)
    scheduler_free, end = 0.0, 0.0
    for _ in range(load.tasks):
        begin = max(heapq.heappop(free_workers), scheduler_free)
        scheduler_free = begin + load.scheduler_seconds
        done = scheduler_free + load.task_seconds
        heapq.heappush(free_workers, done)
        end = max(end, done)
    return end
