"""Captures of a model that transformers runs: every stage that exists there, and none that does not.

The maps of an attention that makes none are left out, and so is what has no tap (`aprtui.capture.module_taps`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from aprtui.capture.cache_argument import called_behind
from aprtui.capture.module_taps import MAPS, fused_stages, module_taps
from aprtui.capture.torch_values import StageValues, attach, eager_maps, turned_stages
from aprtui.model.architectures.registry import ARCHITECTURES
from aprtui.model.model import Model
from aprtui.oracle.requests import Evaluation, Work, planned_manifest, require_evaluable
from aprtui.oracle.transformers_model import AttentionKind, DataType, TransformersModel, libraries, load
from aprtui.oracle.written import write_provenance
from aprtui.progress import Progress
from aprtui.trace.graph.stage import Node, TokenMixer
from aprtui.trace.manifest import EngineInfo, Manifest
from aprtui.trace.writer import CaptureWriter

_CAPPED = Node(None, "logit_softcap")
"""What the model itself gives."""


@dataclass(frozen=True, slots=True)
class TransformersOptions:
    """What transformers computes in, and how."""

    kind: DataType = DataType.FLOAT32
    attention: AttentionKind = AttentionKind.EAGER
    threads: int | None = None


def write_transformers_captures(
    model: Model, work: Work, options: TransformersOptions, progress: Progress, *, overwrite: bool = False
) -> dict[Path, Manifest]:
    """Run `model` by transformers and write what it computes; the manifests as written.

    Raises `UsageError` before anything is loaded if the request or a directory cannot be used, `EngineError` where
    torch or transformers is missing.
    """
    require_evaluable(model.config.context, work, overwrite)
    progress("loading", 0, 1)
    loaded = load(model, options.kind, options.attention, options.threads)
    return {
        directory: _capture(loaded, evaluation, options, directory, progress, overwrite)
        for directory, evaluation in work.items()
    }


def _capture(
    loaded: TransformersModel, evaluation: Evaluation, options: TransformersOptions, directory: Path,
    progress: Progress, overwrite: bool,
) -> Manifest:  # fmt: skip
    model, has_maps = loaded.source, options.attention is AttentionKind.EAGER
    taps = tuple(module_taps(model.graph, ARCHITECTURES[model.architecture].transformers_modules))
    engine = EngineInfo(
        "transformers", loaded.version, "cpu", "cpu", str(options.attention), str(options.kind), {}, options.threads
    )  # fmt: skip
    nodes = [*(tap.node for tap in taps), *(_of_attention(model) if has_maps else ()), _CAPPED]
    planned = planned_manifest(model, evaluation, engine, nodes, fused_stages(has_maps=has_maps))
    writer = CaptureWriter(directory, planned, overwrite=overwrite)
    try:
        with ExitStack() as stack:
            values = StageValues(model.graph, lambda node, position, rows: writer.put(node, position, rows, None))
            for handle in attach(taps, loaded.module, values):
                stack.callback(handle.remove)
            if has_maps:
                stack.enter_context(eager_maps(loaded.module, values))
            _evaluate(loaded, evaluation, values, progress)
        manifest = writer.finish(planned)
        write_provenance(directory, manifest)
        return manifest
    finally:
        writer.close()


def _of_attention(model: Model) -> Iterator[Node]:
    """The nodes that are seen in the attention itself."""
    names = [*turned_stages(model.graph), *(name for name in MAPS if name in model.graph)]
    for layer in model.config.graph.layers_with(TokenMixer.ATTENTION):
        yield from (Node(layer, name) for name in names)


def _evaluate(loaded: TransformersModel, evaluation: Evaluation, values: StageValues, progress: Progress) -> None:
    torch, transformers = libraries()
    # It keeps the keys of all positions, also where layers have a window: maps are of all keys.
    tokens, config = list(evaluation.tokens), loaded.module.config
    past = transformers.DynamicCache(**({"config": config} if loaded.source.config.graph.recurrent else {}))
    with torch.no_grad():
        for step in evaluation.steps:
            chunk = torch.tensor([tokens[values.position : values.position + step]])
            values.begin(1, step)
            output = called_behind(loaded.module, chunk, past)
            if _CAPPED in loaded.source.graph.order:
                values.put(_CAPPED, output.logits)
            values.end()
            progress("evaluating", values.position, len(tokens))
