"""Captures of a model that transformers runs: every stage that exists there, and none that does not.

The maps of an attention that makes none are left out, and so is what has no tap (`aprtui.capture.module_taps`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from aprtui.capture.module_taps import module_taps
from aprtui.capture.torch_values import MAPS, StageValues, attach, eager_maps, turned_stages
from aprtui.errors import UsageError
from aprtui.model.architectures.registry import ARCHITECTURES
from aprtui.model.model import Model
from aprtui.oracle.transformers_model import AttentionKind, DataType, TransformersModel, libraries, load
from aprtui.progress import Progress
from aprtui.trace.graph import Node, TokenMixer
from aprtui.trace.manifest import EngineInfo, Manifest, ModelInfo
from aprtui.trace.writer import CaptureWriter, planned_files, require_usable

_CAPPED = Node(None, "logit_softcap")
"""What the model itself gives."""


@dataclass(frozen=True, slots=True)
class OracleRequest:
    """Tokens that are evaluated: the first `prefill` at once, the rest one by one."""

    tokens: Sequence[int]
    text: str | None
    prefill: int
    kind: DataType = DataType.FLOAT32
    attention: AttentionKind = AttentionKind.EAGER
    threads: int | None = None


def write_transformers_capture(
    model: Model, request: OracleRequest, directory: Path, progress: Progress, *, overwrite: bool = False
) -> Manifest:
    """Run `model` by transformers and write what it computes to `directory`; the manifest as written.

    Raises `UsageError` before anything is loaded if the request or the directory cannot be used, `EngineError` where
    torch or transformers is missing.
    """
    _require_possible(model, request)
    require_usable(directory, overwrite)
    progress("loading", 0, 1)
    loaded = load(model, request.kind, request.attention, request.threads)
    taps = tuple(module_taps(model.graph, ARCHITECTURES[model.architecture].transformers_modules))
    writer = CaptureWriter(directory, _planned(loaded, request, [tap.node for tap in taps]), overwrite=overwrite)
    try:
        with ExitStack() as stack:
            values = StageValues(model.graph, lambda node, position, rows: writer.put(node, position, rows, None))
            for handle in attach(taps, loaded.module, values):
                stack.callback(handle.remove)
            if request.attention is AttentionKind.EAGER:
                stack.enter_context(eager_maps(loaded.module, values))
            _evaluate(loaded, request, values, progress)
        return writer.finish(replace(writer.manifest, pieces=model.pieces(request.tokens)))
    finally:
        writer.close()


def _require_possible(model: Model, request: OracleRequest) -> None:
    count = len(request.tokens)
    if not count:
        raise UsageError("the prompt has no tokens: give a longer one")
    if count > model.config.context:
        raise UsageError(f"{count} tokens, the context has room for {model.config.context}: shorten the prompt")
    if not 1 <= request.prefill <= count:
        raise UsageError(f"--decode-from {request.prefill}: the prompt has {count} tokens: use 1 … {count}")


def _planned(loaded: TransformersModel, request: OracleRequest, nodes: Sequence[Node]) -> Manifest:
    model, count = loaded.source, len(request.tokens)
    attending = model.config.graph.layers_with(TokenMixer.ATTENTION)
    maps = [
        Node(layer, name) for layer in attending for name in MAPS
        if name in model.graph and request.attention is AttentionKind.EAGER
    ]  # fmt: skip
    turned = [Node(layer, name) for layer in attending for name in turned_stages(model.graph)]
    capped = [node for node in (_CAPPED,) if node in model.graph.order]
    chosen = [*nodes, *maps, *(turned if maps else ()), *capped]
    return Manifest(
        model=ModelInfo(model.name, model.sha256(), model.architecture, model.quantization),
        graph=model.config.graph,
        engine=EngineInfo(
            "transformers", loaded.version, "cpu", "cpu", str(request.attention), str(request.kind), {},
            request.threads,
        ),
        tokens=tuple(request.tokens),
        positions=tuple(range(count)),
        text=request.text,
        prompt_tokens=count,
        prefill_tokens=request.prefill,
        logits="all",
        files=planned_files(model.graph, chosen, count, count),
    )  # fmt: skip


def _evaluate(loaded: TransformersModel, request: OracleRequest, values: StageValues, progress: Progress) -> None:
    torch, transformers = libraries()
    # It keeps the keys of all positions, also where layers have a window: maps are of all keys.
    tokens, config = list(request.tokens), loaded.module.config
    past = transformers.DynamicCache(**({"config": config} if loaded.source.config.graph.recurrent else {}))
    steps = [request.prefill, *[1] * (len(tokens) - request.prefill)]
    with torch.no_grad():
        for step in steps:
            chunk = torch.tensor([tokens[values.position : values.position + step]])
            values.begin(1, step)
            output = loaded.module(chunk, past_key_values=past, use_cache=True)
            if _CAPPED in loaded.source.graph.order:
                values.put(_CAPPED, output.logits)
            values.end()
            progress("evaluating", values.position, len(tokens))
