"""Captures of a model that transformers runs: every stage that exists there, and none that does not.

What a module computes is what comes out of it; other stages are taken where a module takes them in. A matrix product
whose bias is added in the same call, and what the fused experts compute inside, exist nowhere: those stages are left
out, and so are the maps of an attention that makes none.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprtui.model.model import Model
from aprtui.oracle.requests import Evaluation, Work, planned_manifest, require_possible
from aprtui.oracle.transformers_model import AttentionKind, DataType, TransformersModel, libraries, load, module_name
from aprtui.progress import Progress
from aprtui.trace.graph import ENTRY, ROUTER_CHOICE, Node, Op, RopeLayout, TokenMixer
from aprtui.trace.manifest import EngineInfo, Manifest
from aprtui.trace.writer import CaptureWriter

Array = NDArray[np.float32]

_MAPS = ("attn_scores", "attn_softcap", "attn_softmax")
_HOLDERS = (Op.RMS_NORM, Op.HEAD_RMS_NORM, Op.MATMUL, Op.BIAS)
"""Ops that are a module each in transformers."""
_GATES = (Op.SILU, Op.GELU)
_FUSED = {"qkv_matmul": "qkv_bias", "attn_out_matmul": "attn_out", "ffn_moe_logits": "moe_router"}
"""Products whose biases are added in the same call, where they have any."""
_IN_ATTENTION = dict.fromkeys(("q_post_rope", "k_post_rope", *_MAPS), "attention")
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
    require_possible(model, work, overwrite)
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
    taps = tuple(_taps(loaded.source))
    nodes, maps = _nodes(loaded.source, taps, options), options.attention is AttentionKind.EAGER
    engine = EngineInfo(
        "transformers", loaded.version, "cpu", "cpu", str(options.attention), str(options.kind), {}, options.threads
    )  # fmt: skip
    planned = planned_manifest(loaded.source, evaluation, engine, nodes, _FUSED if maps else _FUSED | _IN_ATTENTION)
    writer = CaptureWriter(directory, planned, overwrite=overwrite)
    try:
        with ExitStack() as stack:
            run = _Run(writer, loaded.source)
            for handle in (handle for tap in taps for handle in tap.attach(loaded, run)):
                stack.callback(handle.remove)
            if maps:
                stack.enter_context(_eager_maps(loaded, run))
            _evaluate(loaded, evaluation, run, progress)
        return writer.finish(planned)
    finally:
        writer.close()


def _nodes(model: Model, taps: Sequence[_Tap], options: TransformersOptions) -> list[Node]:
    """The nodes that exist: those of `taps`, what the attention shows, and what the model itself gives."""
    maps: list[Node] = []
    if options.attention is AttentionKind.EAGER:
        names = [*_multiplied(model), *(name for name in _MAPS if name in model.graph)]
        maps = [Node(layer, name) for layer in model.config.graph.layers_with(TokenMixer.ATTENTION) for name in names]
    return [*(tap.node for tap in taps), *maps, *(node for node in (_CAPPED,) if node in model.graph.order)]


def _multiplied(model: Model) -> tuple[str, str]:
    """The stages of queries and keys as the attention gets them."""
    queries, keys = model.graph["attn_scores"].inputs
    return queries.stage, keys.stage


@dataclass(slots=True)
class _Run:
    """Where values go, and how many positions lie before those that are evaluated."""

    writer: CaptureWriter
    model: Model
    position: int = 0
    parts: dict[Node, list[Any]] = field(default_factory=dict)

    def put(self, node: Node, values: Any) -> None:
        """Take the values of a node, `[1, tokens, …]` or `[1, heads, queries, keys]`."""
        stage = self.model.graph[node.stage]
        found = values.detach().float().numpy()
        rows = found.reshape(found.shape[-3:]) if stage.is_attention_map else found.reshape(-1, stage.width)
        if self.model.config.graph.rope_layout is RopeLayout.INTERLEAVED:
            rows = _in_pairs(self.model, node, rows)
        if stage.mixer is TokenMixer.RECURRENCE and stage.name != "linear_attn_out":
            rows = _across_key_heads(self.model, rows)
        self.writer.put(node, self.position, np.ascontiguousarray(rows, np.float32), None)

    def put_part(self, node: Node, values: Any, count: int) -> None:
        """Take one of `count` parts of a fused node, in their order."""
        found = self.parts.setdefault(node, [])
        found.append(values)
        if len(found) == count:
            self.put(node, libraries()[0].cat(self.parts.pop(node), -1))


def _in_pairs(model: Model, node: Node, rows: Array) -> Array:
    """`rows` with the channels of queries and keys in the order of the file: transformers has halves of a head, where
    the file has pairs."""
    config = model.config.graph
    rows = rows.copy()
    for part in model.graph.rope_parts.get(node.stage, ()):
        columns = rows[:, config.part(part)]
        halves = columns.reshape(len(rows), -1, 2, config.head_dim // 2)
        columns[...] = halves.swapaxes(2, 3).reshape(columns.shape)
    return rows


def _across_key_heads(model: Model, rows: Array) -> Array:
    """`rows` with value heads in the order of the file; transformers counts them key head by key head."""
    config = model.config.graph
    first = 2 * config.linear_key_width if rows.shape[1] == config.linear_qkv_width else 0
    heads = rows[:, first:].reshape(len(rows), config.linear_value_heads, -1)
    values = heads[:, list(config.value_heads_by_key_head)].reshape(len(rows), -1)
    return np.concatenate([rows[:, :first], values], axis=1)


@dataclass(frozen=True, slots=True)
class _Tap:
    """Where a node's values are seen: going into a module, or coming out of one, or of several in parts."""

    node: Node
    modules: tuple[str, ...]
    takes_input: bool = False
    element: int | None = None
    """Which of several inputs or outputs."""

    def attach(self, loaded: TransformersModel, run: _Run) -> list[Any]:
        """Hook the modules; each handle removes its hook."""
        return [self._hook(loaded.module.get_submodule(name), run) for name in self.modules]

    def _hook(self, module: Any, run: _Run) -> Any:
        def before(_module: Any, inputs: Any) -> None:
            run.put(self.node, inputs[self.element or 0])

        def after(_module: Any, inputs: Any, output: Any) -> None:
            values = output[self.element or 0] if isinstance(output, tuple) else output
            if values.ndim == 4 and inputs[0].stride(1) < inputs[0].stride(2):
                # Heads before tokens: of a tensor `[1, tokens, heads, channels]`, where a token has the larger stride.
                values = values.transpose(1, 2)
            if len(self.modules) == 1:
                run.put(self.node, values)
            else:
                run.put_part(self.node, values, len(self.modules))

        return module.register_forward_pre_hook(before) if self.takes_input else module.register_forward_hook(after)


def _taps(model: Model) -> Iterator[_Tap]:
    """One for each node that a module makes or takes in; queries, keys and maps are seen in the attention itself."""
    graph = model.graph
    readers = {source: node for node in reversed(graph.nodes) for source in graph.inputs(node)[:1]}
    biased = {name for stage in graph.stages if stage.op is Op.BIAS for name in stage.params}
    for node in graph.nodes:
        stage, reader = graph[node.stage], readers.get(node)
        if stage.mixer is TokenMixer.RECURRENCE and stage.op in (Op.HEAD_RMS_NORM, *_GATES):
            continue  # it is normalised and gated in one module
        if stage.op in _HOLDERS:
            if stage.op is not Op.MATMUL or not biased.intersection(stage.params):
                yield _Tap(node, tuple(module_name(model, node, name) for name in stage.params))
        elif stage.op in _GATES and not model.config.graph.experts:
            yield _Tap(node, (f"model.layers.{node.layer}.mlp.act_fn",))
        elif stage.name in ("moe_ffn_out", "ffn_out"):
            part = ".experts" if stage.name == "moe_ffn_out" and "ffn_out" in graph else ""
            yield _Tap(node, (f"model.layers.{node.layer}.mlp{part}",))
        elif stage.name in (ROUTER_CHOICE, "ffn_moe_weights_norm", "ffn_moe_weights_softmax"):
            place = 1 if stage.name == ROUTER_CHOICE else 2
            yield _Tap(node, (f"model.layers.{node.layer}.mlp.experts",), takes_input=True, element=place)
        elif reader is not None and graph[reader.stage].op in _HOLDERS and stage.op is not Op.ROPE:
            reading = graph[reader.stage].params[0]
            yield _Tap(node, (module_name(model, reader, reading),), takes_input=True)
        elif stage.op is Op.EMBED and node.stage == ENTRY:
            yield _Tap(node, (module_name(model, node, stage.params[0]),))


@contextmanager
def _eager_maps(loaded: TransformersModel, run: _Run) -> Iterator[None]:
    """See queries, keys and maps in the attention function of the model's own source file."""
    source: Any = importlib.import_module(type(loaded.module).__module__)
    plain, (queries, keys) = source.eager_attention_forward, _multiplied(loaded.source)

    def seen(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
        layer = module.layer_idx
        run.put(Node(layer, queries), query.transpose(1, 2))
        run.put(Node(layer, keys), key[:, :, run.position :].transpose(1, 2))
        with _products(lambda number, scores: run.put(Node(layer, _MAPS[number]), scores), loaded.source):
            output, probabilities = plain(module, query, key, value, mask, **options)
        run.put(Node(layer, "attn_softmax"), probabilities)
        return output, probabilities

    source.eager_attention_forward = seen
    try:
        yield
    finally:
        source.eager_attention_forward = plain


@contextmanager
def _products(take: Callable[[int, Any], None], model: Model) -> Iterator[None]:
    """Hand out the products of queries and keys as they are scaled, and as they are softcapped where they are."""
    torch, _ = libraries()
    wanted = 2 if model.config.graph.attn_softcap else 1

    class Watch(torch.overrides.TorchFunctionMode):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.count = 0

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            if getattr(function, "__name__", "") in ("mul", "__mul__") and self.count < wanted:
                take(self.count, result)
                self.count += 1
            return result

    with Watch():
        yield


def _evaluate(loaded: TransformersModel, evaluation: Evaluation, run: _Run, progress: Progress) -> None:
    torch, transformers = libraries()
    # It keeps the keys of all positions, also where layers have a window: maps are of all keys.
    tokens, config = list(evaluation.tokens), loaded.module.config
    past = transformers.DynamicCache(**({"config": config} if loaded.source.config.graph.recurrent else {}))
    with torch.no_grad():
        for step in evaluation.steps:
            chunk = torch.tensor([tokens[run.position : run.position + step]])
            output = loaded.module(chunk, past_key_values=past, use_cache=True)
            if _CAPPED in loaded.source.graph.order:
                run.put(_CAPPED, output.logits)
            run.position += step
            progress("evaluating", run.position, len(tokens))
