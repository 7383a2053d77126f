"""Opening the engine of an engine process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aprtui.engine.faults.faults import Fault, FaultInjector, parse_fault
from aprtui.engine.faults.kinds import kinds_at
from aprtui.engine.opening import open_engine
from aprtui.engine.process.messages import EngineDescription, EngineSettings
from aprtui.engine.process.slots import StatsTable
from aprtui.engine.protocol import Engine
from aprtui.machine import default_threads
from aprtui.model.model import Model, load_model
from aprtui.model.tokenizer import Tokenizer
from aprtui.progress import Progress


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """The result of an opener: an engine, its model and tokenizer, and how to describe them."""

    engine: Engine
    model: Model
    tokenizer: Tokenizer
    info: EngineDescription
    settings: EngineSettings
    """The settings requested, with the threads and the context that were chosen."""
    faults: tuple[Fault, ...] = ()


Opener = Callable[[Progress, EngineSettings], LoadedEngine]
"""Opens an engine with these settings and reports progress; must pickle."""

LARGEST_DEFAULT_CONTEXT = 4096
"""Models that could take 128,000 positions get this many unless more are asked for: the K/V cache takes memory."""


def load_engine(progress: Progress, settings: EngineSettings, path: Path) -> LoadedEngine:
    """Open the model file `path`; the opener of the app, with `path` bound.

    Without `threads`, one core is left to the screen. Raises `UsageError` for a fault that the model cannot have.
    """
    model = load_model(path)
    faults = tuple(parse_fault(text, model) for text in settings.faults)
    threads = settings.threads or max(1, default_threads() - 1)
    context = settings.context or min(model.config.context, LARGEST_DEFAULT_CONTEXT)
    chosen = EngineSettings(settings.backend, settings.mode, settings.kv, threads, context, tuple(map(str, faults)))
    reasons: list[str] = []
    engine = engine_for(model, chosen, faults, progress, reasons.append)
    try:
        _first_passes(engine, model, progress)
    except BaseException:
        engine.close()
        raise
    return LoadedEngine(
        engine, model, model.tokenizer, description(engine, model, chosen.faults, "".join(reasons)), chosen, faults
    )


def description(engine: Engine, model: Model, faults: tuple[str, ...] = (), chosen: str = "") -> EngineDescription:
    """What `engine` runs, with `faults`, and where; `chosen` is what the choice `auto` came to, and why."""
    return EngineDescription(
        model.name, model.quantization, model.config.graph, engine.backend, engine.code_path,
        engine.mode, engine.kv, engine.context, model.sampling_temperature, faults, model.path,
        chosen, {node: kinds_at(model, node) for node in model.graph.nodes},
        model.chat_template is not None,
    )  # fmt: skip


def engine_for(
    model: Model, settings: EngineSettings, faults: tuple[Fault, ...], progress: Progress | None = None,
    announce: Callable[[str], None] | None = None,
) -> Engine:  # fmt: skip
    """An engine with these settings; `faults` are theirs, parsed; `announce` is told what `auto` chose."""
    injector = FaultInjector(model, settings.mode, faults) if faults else None
    return open_engine(
        model, backend=settings.backend, mode=settings.mode, kv=settings.kv, threads=settings.threads,
        context=settings.context, intervention=injector, progress=progress, announce=announce,
    )  # fmt: skip


def _first_passes(engine: Engine, model: Model, progress: Progress) -> None:
    """Prefill and decode once: what is compiled or read on first use delays the loading, not the first token.

    Weights lie in the mapped file: the first pass is what reads them.
    """
    table, tokens = StatsTable(engine.graph), min(2, engine.context)
    sizes = _megabytes_to(model)

    def passed(layer: int, _: int) -> None:
        progress("reading weights, MB", sizes[layer], sizes[-1])

    progress("reading weights, MB", 0, sizes[-1])
    table.passed = passed
    for count in (tokens, 1):
        engine.reset()
        engine.forward([0] * count, table.taps)
        table.passed = None
    engine.reset()


def _megabytes_to(model: Model) -> list[int]:
    """The MB of the weights up to the end of each layer, and of all weights."""
    sizes = [0] * (model.graph.layers + 1)
    for name, weight in model.weights.items():
        parts = name.split(".")
        sizes[int(parts[1]) if parts[0] == "blk" else -1] += weight.data.size
    return [int(size) // 1_000_000 for size in np.cumsum(sizes)]
