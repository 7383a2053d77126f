"""`aprtui bench cpu`: the CPU engine against llama.cpp, the cost of taps, the cost of a capture, memory.

Everything that is compared is measured in turns in one run, each engine in its own process; figures are medians.
"""

from __future__ import annotations

import math
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aprtui.bench.worker import Contestant, Job, Worker
from aprtui.engine.backends.cpu import CPU
from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import NO_TAPS, KvType, Logits, Mode, Taps
from aprtui.errors import EngineError
from aprtui.model.model import load_model
from aprtui.oracle.ggml import load_ggml
from aprtui.progress import Progress
from aprtui.trace.aprt import HEADER_BYTES
from aprtui.trace.graph.stage import Node
from aprtui.trace.stats import Accumulator
from aprtui.trace.writer import planned_files


class Discard:
    """A tap sink that takes everything and keeps nothing."""

    def put(self, node: Node, position: int, values: NDArray[np.float32] | None, stats: Accumulator | None) -> None:
        """Take one stage tensor."""


class OurContestant:
    """This project's CPU engine; with `stats` the statistics of every stage are tapped."""

    def __init__(self, model: Path, mode: Mode, threads: int, context: int, *, stats: bool = False) -> None:
        self._model = load_model(model)
        self._engine = open_engine(
            self._model, backend=CPU.name, mode=mode, kv=KvType.F32, threads=threads, context=context
        )
        nodes = frozenset(self._model.graph.nodes)
        self._taps = Taps(Discard(), stats=nodes) if stats else NO_TAPS

    def prefill(self, tokens: Sequence[int]) -> None:
        self._engine.reset()
        self._engine.forward(tokens, self._taps)

    def decode(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self._engine.forward([token], self._taps)


class CapturingContestant(OurContestant):
    """The same engine, whose `prefill` also writes every stage of every layer to `directory`."""

    def __init__(self, model: Path, mode: Mode, threads: int, context: int, directory: Path) -> None:
        super().__init__(model, mode, threads, context)
        self._directory = directory
        self._model.sha256()

    def prefill(self, tokens: Sequence[int]) -> None:
        request = CaptureRequest(tokens, None, frozenset(self._model.graph.nodes), Logits.LAST)
        write_capture(self._engine, self._model, request, self._directory, overwrite=True)


class PageCacheContestant:
    """The limit of a capture: `prefill` writes files of the given sizes, and does nothing else."""

    def __init__(self, sizes: Sequence[int], directory: Path) -> None:
        self._sizes, self._directory = sizes, directory
        self._data = np.random.default_rng(0).bytes(max(sizes))

    def prefill(self, tokens: Sequence[int]) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True)
        view = memoryview(self._data)
        for index, size in enumerate(self._sizes):
            with open(self._directory / str(index), "wb", buffering=0) as file:
                written = 0
                while written < size:
                    written += file.write(view[written:size])

    def decode(self, tokens: Sequence[int]) -> None:
        raise EngineError("the page cache decodes nothing")


class LlamaCppContestant:
    """llama.cpp on the CPU through llama-cpp-python, with its own defaults (repacking, flash attention)."""

    def __init__(self, model: Path, threads: int, context: int) -> None:
        self._llama = llama_cpp = load_ggml().llama
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        loaded = llama_cpp.llama_model_load_from_file(str(model).encode(), parameters)
        if not loaded:
            raise EngineError(f"{model}: llama.cpp does not load it")
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = context, 2048, 512
        options.n_threads = options.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(loaded, options)
        if not self._context:
            raise EngineError(f"{model}: llama.cpp cannot make a context of {context}")
        self._position = 0

    def prefill(self, tokens: Sequence[int]) -> None:
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._context), True)
        self._position = 0
        self._evaluate(tokens)

    def decode(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self._evaluate([token])

    def _evaluate(self, tokens: Sequence[int]) -> None:
        batch = self._llama.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens):
            batch.token[index] = token
            batch.pos[index] = self._position + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = index == len(tokens) - 1
        status = self._llama.llama_decode(self._context, batch)
        self._llama.llama_batch_free(batch)
        if status:
            raise EngineError(f"llama.cpp: llama_decode answers {status}")
        self._position += len(tokens)


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

    @classmethod
    def of(
        cls, what: str, values: Sequence[float], unit: str, ratio: float | None = None, against: str = "",
        target: str = "",
    ) -> Figure:  # fmt: skip
        """The median of `values`, which lie in its spread."""
        return cls(what, statistics.median(values), unit, (min(values), max(values)), ratio, against, target)


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
    builders: Mapping[str, Callable[[], Contestant]], job: Job, options: Options, progress: Progress, what: str
) -> dict[str, list[float]]:
    """Seconds of each contestant for `job` in each round, measured in turns after one warm-up each."""
    vocabulary = load_model(options.model).config.graph.vocabulary
    seconds: dict[str, list[float]] = {name: [] for name in builders}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(build, vocabulary)) for name, build in builders.items()}
        for turn in range(options.rounds + 1):
            progress(what, turn, options.rounds + 1)
            for name, worker in workers.items():
                taken = worker.measure(job)
                if turn:
                    seconds[name].append(taken)
    return seconds


def _rate(
    name: str, tokens: int, seconds: Sequence[float], ratio: float | None = None, against: str = "", target: str = ""
) -> Figure:
    return Figure.of(name, [tokens / taken for taken in seconds], "tokens/s", ratio, against, target)


def _paired(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Median of the ratios round by round, which a drift of the machine's speed leaves alone."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def _against_peer(options: Options, progress: Progress) -> Iterator[Figure]:
    context = PROMPT + DECODED
    for mode in (Mode.Q8, Mode.EXACT):
        ours = partial(OurContestant, options.model, mode, options.threads, context)
        for work, tokens, target in (("decode", DECODED, 1.0), ("prefill", PROMPT, 0.5)):
            builders: dict[str, Callable[[], Contestant]] = {"ours": ours}
            if options.peer and mode is Mode.Q8:
                builders["llama.cpp"] = partial(LlamaCppContestant, options.model, options.threads, context)
            seconds = _rounds(builders, Job(work, tokens), options, progress, f"{work} {mode}")
            if "llama.cpp" in seconds:
                yield _rate(f"{work}, llama.cpp", tokens, seconds["llama.cpp"])
                ratio = _paired(seconds["llama.cpp"], seconds["ours"])
                yield _rate(f"{work}, {mode}", tokens, seconds["ours"], ratio, "llama.cpp", f"≥ {target}")
            else:
                yield _rate(f"{work}, {mode}", tokens, seconds["ours"])
    yield _memory(options, context)


def _memory(options: Options, context: int) -> Figure:
    model = load_model(options.model)
    config = model.config.graph
    cache = 4 * config.layers * config.kv_heads * (config.head_dim + config.value_dim) * context
    ours = partial(OurContestant, options.model, Mode.Q8, options.threads, context)
    with Worker(ours, config.vocabulary) as worker:
        worker.measure(Job("prefill", PROMPT))
        worker.measure(Job("decode", DECODED))
        peak = worker.peak_memory() / 1e6
    allowed = (1.2 * model.size + cache) / 1e6 + 250
    return Figure.of("memory, q8", [peak], "MB resident at most", peak / allowed, "1.2 × file + K/V + 250 MB", "≤ 1.0")


def _taps(options: Options, progress: Progress) -> Iterator[Figure]:
    plain = partial(OurContestant, options.model, Mode.Q8, options.threads, PROMPT)
    tapped = partial(plain, stats=True)
    seconds = _rounds({"plain": plain, "tapped": tapped}, Job("decode", DECODED), options, progress, "taps")
    name, ratio = "decode, q8, statistics of all stages", _paired(seconds["tapped"], seconds["plain"])
    yield _rate(name, DECODED, seconds["tapped"], ratio, "time without taps", "≤ 1.10")


def _capture(options: Options, progress: Progress) -> Iterator[Figure]:
    model = load_model(options.model)
    files = planned_files(model.graph, model.graph.nodes, PROMPT, 1)
    sizes = tuple(HEADER_BYTES + 4 * math.prod(info.shape) for info in files.values())
    with tempfile.TemporaryDirectory(prefix="aprtui-bench-", dir=options.directory) as folder:
        arguments = (options.model, Mode.Q8, options.threads, PROMPT + 1)
        builders: dict[str, Callable[[], Contestant]] = {
            "plain": partial(OurContestant, *arguments),
            "capture": partial(CapturingContestant, *arguments, Path(folder) / "capture"),
            "write": partial(PageCacheContestant, sizes, Path(folder) / "write"),
        }
        seconds = _rounds(builders, Job("prefill", PROMPT), options, progress, "capture")
    yield Figure.of("write of the same bytes", seconds["write"], "s")
    yield Figure.of("prefill of 512 tokens, q8", seconds["plain"], "s")
    limit = [plain + 2 * write for plain, write in zip(seconds["plain"], seconds["write"], strict=True)]
    yield Figure.of(
        f"full capture of it, {sum(sizes) / 1e6:.0f} MB", seconds["capture"], "s",
        _paired(seconds["capture"], limit), "prefill + 2 × write", "≤ 1.0",
    )  # fmt: skip
