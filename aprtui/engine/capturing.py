"""Writing a capture: plan, run with taps, finish. `aprtui trace` does it, and the live screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aprtui.build import this_build
from aprtui.engine.faults.faults import Fault
from aprtui.engine.generation import evaluate, generate
from aprtui.engine.protocol import NO_TAPS, Engine, Logits, Taps, TapSink
from aprtui.errors import EngineError, UsageError
from aprtui.model.model import Model
from aprtui.progress import Progress
from aprtui.trace.graph.stage import Node
from aprtui.trace.manifest import EngineInfo, Manifest, ModelInfo
from aprtui.trace.stats import Accumulator
from aprtui.trace.writer import CaptureWriter, planned_files

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CaptureRequest:
    """A capture: `prefill` tokens are evaluated at once, the rest one by one, then `generate` greedy ones are added."""

    tokens: Sequence[int]
    text: str | None
    nodes: frozenset[Node]
    logits: Logits = Logits.LAST
    prefill: int | None = None
    generate: int = 0

    @property
    def positions(self) -> int:
        """Positions that will be evaluated at most: the last generated token is not."""
        return len(self.tokens) + max(self.generate - 1, 0)


def write_capture(
    engine: Engine,
    model: Model,
    request: CaptureRequest,
    directory: Path,
    *,
    overwrite: bool = False,
    faults: Sequence[Fault] = (),
    progress: Progress | None = None,
) -> Manifest:
    """Run `request` on `engine` and write what it taps to `directory`; return the manifest as written, which names the
    `faults` that the engine was opened with. An exception of `progress` ends the run.

    Raises `UsageError` or `EngineError` before anything is written if the request or the directory cannot be used. A
    run that ends early leaves a manifest with `"complete": false`.
    """
    require_possible(request, engine.context)
    manifest = _planned(engine, model, request, tuple(str(fault) for fault in faults))
    writer = CaptureWriter(directory, manifest, overwrite=overwrite)
    try:
        sink = writer if progress is None else _Reporting(writer, request, progress)
        # The engine counts statistics on all its threads while the values are in cache.
        tokens, completion = _run(engine, model, request, Taps(sink, full=request.nodes, stats=request.nodes))
        positions = tuple(range(len(tokens)))
        return writer.finish(
            replace(
                manifest, tokens=tokens, positions=positions, completion=completion, pieces=model.pieces(tokens)
            )
        )  # fmt: skip
    finally:
        writer.close()


def write_window(
    engine: Engine, model: Model, request: CaptureRequest, first: int, directory: Path, *, overwrite: bool = False,
    faults: Sequence[Fault] = (),
) -> Manifest:  # fmt: skip
    """A capture of the last positions of `request`, from `first` on: those before are evaluated and not written.

    Attention maps are left out: with the first positions missing, they are no maps of the sequence.
    """
    require_possible(request, engine.context)
    nodes = frozenset(node for node in request.nodes if not engine.graph[node.stage].is_attention_map)
    rows, prefill = len(request.tokens) - first, request.prefill or len(request.tokens)
    manifest = _planned(engine, model, request, tuple(str(fault) for fault in faults))
    manifest = replace(manifest, files=planned_files(engine.graph, nodes, rows, rows))
    writer = CaptureWriter(directory, manifest, overwrite=overwrite)
    try:
        taps = Taps(_Shifted(writer, first), full=nodes)
        engine.reset()
        ends = sorted({first, prefill, *range(prefill, len(request.tokens) + 1)})
        begin = 0
        for end in ends:
            part = request.tokens[begin:end]
            if part:
                seen = begin >= first
                engine.forward(part, taps if seen else NO_TAPS, Logits.ALL if seen else Logits.LAST)
                begin = end
        return writer.finish(manifest, rows=rows)
    finally:
        writer.close()


@dataclass(frozen=True, slots=True)
class _Shifted:
    """A `TapSink` for which the position `first` is 0."""

    sink: TapSink
    first: int

    def put(self, node: Node, position: int, values: Array | None, stats: Accumulator | None) -> None:
        self.sink.put(node, position - self.first, values, stats)


@dataclass(slots=True)
class _Reporting:
    """A `TapSink` that reports how much of a request has arrived, in stage tensors of one position."""

    sink: TapSink
    request: CaptureRequest
    progress: Progress
    arrived: int = field(default=0)

    def put(self, node: Node, position: int, values: Array | None, stats: Accumulator | None) -> None:
        self.sink.put(node, position, values, stats)
        if values is not None:
            self.arrived += values.shape[-2]
            self.progress("writing the capture", self.arrived, len(self.request.nodes) * self.request.positions)


def require_possible(request: CaptureRequest, context: int) -> None:
    """Raise `UsageError` unless `request` can be run in a context of that many positions."""
    count = len(request.tokens)
    if not request.nodes:
        raise UsageError("no stage is selected: name stages and layers that the model has")
    if not count:
        raise UsageError("the prompt has no tokens: give a longer one")
    if request.positions > context:
        raise UsageError(
            f"{request.positions} positions are to be evaluated, the context has room for {context}: "
            "shorten the prompt, generate less, or raise --context"
        )
    if request.prefill is not None and request.generate:
        raise UsageError("--decode-from evaluates given tokens, --generate chooses new ones: use one of them")
    if request.prefill is not None and request.prefill > count:
        raise UsageError(f"--decode-from {request.prefill}: the prompt has {count} tokens: use 1 … {count}")


def _run(engine: Engine, model: Model, request: CaptureRequest, taps: Taps) -> tuple[tuple[int, ...], str | None]:
    """Evaluate the request; return the ids of all evaluated positions, and the text of those that were generated."""
    if not request.generate:
        prefill = len(request.tokens) if request.prefill is None else request.prefill
        evaluate(engine, request.tokens, prefill=prefill, taps=taps, logits=request.logits)
        return tuple(request.tokens), None
    generation = generate(
        engine, model.tokenizer, request.tokens,
        max_tokens=request.generate, taps=taps, logits=request.logits, stop_ids=model.tokenizer.stop_ids,
    )  # fmt: skip
    generated = list(generation)
    tokens = (*request.tokens, *(token.id for token in generated))[: engine.position]
    if len(tokens) != engine.position:
        raise EngineError(f"{engine.position} positions were evaluated, {len(tokens)} token ids are known")
    # The last token that was chosen is not evaluated.
    return tokens, "".join(token.text for token in generated[: len(tokens) - len(request.tokens)])


def _planned(engine: Engine, model: Model, request: CaptureRequest, faults: tuple[str, ...]) -> Manifest:
    graph = model.config.graph
    logits = request.positions if request.logits is Logits.ALL else 1
    prompt = len(request.tokens)
    return Manifest(
        model=ModelInfo(model.name, model.sha256(), model.architecture, model.quantization),
        graph=graph,
        engine=EngineInfo(
            "aprtui", str(this_build()), engine.backend, engine.device, engine.code_path, str(engine.mode),
            engine.rounding.stated(), engine.threads, faults,
        ),
        tokens=tuple(request.tokens),
        positions=tuple(range(prompt)),
        text=request.text,
        prompt_tokens=prompt,
        prefill_tokens=prompt if request.prefill is None else request.prefill,
        logits=str(request.logits),
        files=planned_files(engine.graph, request.nodes, request.positions, logits),
        pieces=model.pieces(request.tokens),
    )  # fmt: skip
