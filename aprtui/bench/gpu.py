"""`aprtui bench gpu`: the CUDA engine against the memory's speed and against llama.cpp, kernel by kernel, in one run.

Everything works offline. What speed is held against is measured in the same run: a copy on the device, and llama.cpp's
own `llama-bench` where one is given.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import aprtui
from aprtui.bench.cpu import Discard, Figure
from aprtui.bench.worker import PROMPT_SEED, resident_bytes
from aprtui.contracts.evidence.project import revision_of
from aprtui.engine.backends.cuda import CUDA
from aprtui.engine.cuda.detect import detect
from aprtui.engine.cuda.device import Device
from aprtui.engine.cuda.driver import Driver, Launch
from aprtui.engine.cuda.engine import CudaEngine
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import NO_TAPS, KvType, Mode, Taps
from aprtui.engine.sampling import GREEDY, Sampler, Sampling
from aprtui.errors import EngineError
from aprtui.model.model import Model, load_model
from aprtui.progress import Progress

_COPY = 1 << 29
_REPLAYS = 20


class DiscardSums(Discard):
    """Takes statistics as the live view does, many at a time."""

    def put_sums(self, places: NDArray[np.int64], sums: NDArray[np.void]) -> None:
        """Take the sums of the nodes at `places`."""


@dataclass(frozen=True, slots=True)
class GpuOptions:
    """What to measure: tokens of the prompt and decoded after it, rounds, tokens of the soak, llama.cpp's program."""

    model: Path
    rounds: int
    prompt: int
    decoded: int
    soak: int
    llama_bench: Path | None = None


@dataclass(frozen=True, slots=True)
class MeasurementSetup:
    date: str
    device: str
    driver: str
    version: str
    revision: str
    code_path: str
    model: str
    peer: str


def run_gpu(options: GpuOptions, announce: Callable[[MeasurementSetup], None], progress: Progress) -> Iterator[Figure]:
    """Measure, part by part; `announce` is first given the set-up. Raises `EngineError` where there is no device."""
    model = load_model(options.model)
    peer = _Peer(options)
    tokens = np.random.default_rng(PROMPT_SEED).integers(0, model.config.graph.vocabulary, options.prompt).tolist()
    llama = peer.measure(progress)
    with closing(_opened(model, Mode.Q8, options, progress)) as engine:
        announce(_setup(engine, options, peer))
        bandwidth = engine.on_device(lambda device: _copy_speed(device, options))
        yield bandwidth
        kernels, moved = engine.on_device(lambda device: _kernels(device, options, bandwidth.value * 1e9))
        yield from kernels
        measured = _Measured(engine, tokens, options, progress)
        decode = measured.decode("decode, q8, K/V f16", NO_TAPS)
        floor = bandwidth.value * 1e9 / moved
        yield _judged(decode, decode.value / floor, f"{moved / 1e9:.3f} GB a token at the copy's speed", "≥ 0.60")
        nodes = frozenset(model.graph.nodes)
        tapped = measured.decode("decode, q8, K/V f16, statistics of all stages", Taps(DiscardSums(), stats=nodes))
        yield _judged(tapped, decode.value / tapped.value, "time without taps", "≤ 1.02")
        drawn = measured.decode("decode, q8, K/V f16, drawn at temperature 0.8", NO_TAPS, Sampling(0.8))
        yield _judged(drawn, decode.value / drawn.value, "time of greedy choices", "≤ 1.02")
        prefill = measured.prefill("q8, K/V f16")
        yield prefill
        yield from measured.soak()
    llama = peer.better(llama, peer.measure(progress))
    for ours, target in ((decode, "≥ 2"), (prefill, "≥ 0.5")):
        theirs = llama.get(ours.what.partition(",")[0])
        if theirs is not None:
            yield theirs
            yield _judged(ours, ours.value / theirs.value, theirs.what, target)
    with closing(_opened(model, Mode.EXACT, options, progress)) as engine:
        measured = _Measured(engine, tokens, options, progress)
        yield measured.decode("decode, exact, K/V f32", NO_TAPS)
        yield measured.prefill("exact, K/V f32")


def _opened(model: Model, mode: Mode, options: GpuOptions, progress: Progress) -> CudaEngine:
    context = options.prompt + options.decoded + 1
    kv = KvType.F32 if mode is Mode.EXACT else KvType.F16  # exact is the reference; float16 is llama.cpp's default
    return open_engine(  # type: ignore[return-value]
        model, backend=CUDA.name, mode=mode, kv=kv, context=context, progress=progress
    )


def _setup(engine: CudaEngine, options: GpuOptions, peer: _Peer) -> MeasurementSetup:
    driver = detect().driver
    assert driver is not None
    revision = revision_of(Path(aprtui.__file__).parents[1], ())
    text = revision if isinstance(revision, str) else revision.commit + ("-dirty" if revision.dirty else "")
    return MeasurementSetup(
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        device=engine.device,
        driver=f"CUDA {driver[0]}.{driver[1]}",
        version=aprtui.__version__,
        revision=text,
        code_path=engine.code_path,
        model=f"{options.model.name}, {options.model.stat().st_size / 1e6:.0f} MB",
        peer=peer.name,
    )


def _judged(figure: Figure, ratio: float, against: str, target: str) -> Figure:
    return replace(figure, ratio=ratio, against=against, target=target)


def _copy_speed(device: Device, options: GpuOptions) -> Figure:
    """Bytes read and written a second by a copy on the device: what a kernel can hope for."""
    driver = device.driver
    size = min(_COPY, 8 * options.model.stat().st_size, driver.free_memory() // 4)
    a, b = driver.allocate(size), driver.allocate(size)
    seconds = _seconds(device, lambda driver: driver.copy_within(b, a, size), options.rounds)
    driver.free(a)
    driver.free(b)
    return Figure.of("copy on the device", [2 * size / taken / 1e9 for taken in seconds], "GB/s")


def _seconds(device: Device, work: Callable[[Driver], None], rounds: int) -> list[float]:
    return [device.seconds(work, _REPLAYS) for _ in range(rounds)]


def _kernels(device: Device, options: GpuOptions, bandwidth: float) -> tuple[list[Figure], int]:
    """Time of each kernel of a token behind the prompt, with its share of `bandwidth`; and the bytes a token reads.

    Launches of all layers follow one another, so that each finds its weights in memory and not in the cache.
    """
    groups: dict[tuple[str, int], list[Launch]] = {}
    for launch in device.token_launches():
        groups.setdefault((launch.name, launch.moved), []).append(launch)
    figures, total = [], 0
    for (name, moved), launches in groups.items():
        read = moved + (options.prompt + 1) * launches[0].moved_a_position
        total += read * len(launches)
        device.begin_choosing(0, options.prompt)  # the position at which the kernels work
        taken = [s / len(launches) for s in _seconds(device, partial(_queue, launches), options.rounds)]
        figure = Figure.of(f"{name} × {len(launches)}", [seconds * 1e6 for seconds in taken], "µs")
        if read:
            floor = f"{read / 1e6:.2f} MB at the copy's speed"
            figure = _judged(figure, read / statistics.median(taken) / bandwidth, floor, "1: the limit")
        figures.append(figure)
    return figures, total


def _queue(launches: Sequence[Launch], driver: Driver) -> None:
    for launch in launches:
        driver.launch(launch)


class _Measured:
    def __init__(self, engine: CudaEngine, tokens: list[int], options: GpuOptions, progress: Progress) -> None:
        self._engine, self._tokens, self._options, self._progress = engine, tokens, options, progress

    def decode(self, what: str, taps: Taps, sampling: Sampling = GREEDY) -> Figure:
        """Tokens a second, chosen on the device, behind the prompt."""
        return self._rate(what, self._options.decoded, lambda: self._decode(self._options.decoded, taps, sampling))

    def prefill(self, mode: str) -> Figure:
        return self._rate(f"prefill, {mode}", len(self._tokens), self._prefill)

    def soak(self) -> Iterator[Figure]:
        if not self._options.soak:
            return
        before = self._free(), resident_bytes()
        done = 0
        while done < self._options.soak:
            self._prefill()
            done += self._decode(min(self._options.decoded, self._options.soak - done), NO_TAPS)
            self._progress("soak", done, self._options.soak)
        after = self._free(), resident_bytes()
        for where, lost in (("device", before[0] - after[0]), ("host", after[1] - before[1])):
            target = "≤ 1" if where == "device" else "≤ 16"
            yield Figure.of(f"memory of the {where} after {done} tokens", [lost / 1e6], "MB more", target=target)

    def _free(self) -> int:
        return self._engine.on_device(lambda device: device.driver.free_memory())

    def _rate(self, what: str, tokens: int, work: Callable[[], object]) -> Figure:
        rates = []
        for turn in range(self._options.rounds + 1):
            self._progress(what, turn, self._options.rounds + 1)
            self._prefill()
            started = time.perf_counter()
            work()
            if turn:
                rates.append(tokens / (time.perf_counter() - started))
        return Figure.of(what, rates, "tokens/s")

    def _prefill(self) -> None:
        self._engine.reset()
        self._engine.forward(self._tokens)

    def _decode(self, tokens: int, taps: Taps, sampling: Sampling = GREEDY) -> int:
        return sum(1 for _ in islice(self._engine.choose(self._tokens[-1], Sampler(sampling), taps), tokens))


class _Peer:
    """llama.cpp's own benchmark on the same file, with and without flash attention; the better of them counts."""

    def __init__(self, options: GpuOptions) -> None:
        self._options = options
        self.name = "" if options.llama_bench is None else "llama.cpp"

    def measure(self, progress: Progress) -> dict[str, Figure]:
        """Its figures by what was measured; none where it takes no part."""
        options, found = self._options, dict[str, Figure]()
        if options.llama_bench is None:
            return found
        for flash in "01":
            progress("llama.cpp", int(flash), 2)
            for figure in self._run(flash):
                found = self.better(found, {figure.what.partition(",")[0]: figure})
        return found

    def better(self, one: dict[str, Figure], other: dict[str, Figure]) -> dict[str, Figure]:
        both = {name: [found[name] for found in (one, other) if name in found] for name in {**one, **other}}
        return {name: max(figures, key=lambda figure: figure.value) for name, figures in both.items()}

    def _run(self, flash: str) -> Iterator[Figure]:
        options = self._options
        command = [
            str(options.llama_bench), "-m", str(options.model), "-p", str(options.prompt), "-n", str(options.decoded),
            "-r", str(options.rounds), "-fa", flash, "-ngl", "99", "-o", "json",
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results = [(r["n_prompt"], f"{r['build_commit']} (build {r['build_number']})", r["samples_ts"])
                       for r in json.loads(done.stdout)]  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, subprocess.CalledProcessError) as error:
            said = str(getattr(error, "stderr", "") or error).strip().splitlines() or ["it says nothing"]
            raise EngineError(f"{options.llama_bench}: {said[-1]}: build it for this GPU") from error
        for prompt, build, rates in results:
            self.name = f"llama.cpp {build}"
            work = "prefill" if prompt else "decode"
            yield Figure.of(f"{work}, {self.name}, -fa {flash}", rates, "tokens/s")
