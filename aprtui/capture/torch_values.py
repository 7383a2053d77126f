"""Stages of a graph in a running model of torch: what its modules take in and give, as rows of a capture.

Values are copied when they are seen, so what is written into a tensor later does not matter.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprtui.capture.module_taps import MAPS, ModuleTap
from aprtui.errors import UsageError
from aprtui.model.architectures.registry import ARCHITECTURES
from aprtui.trace.graph.config import GraphConfig, RopeLayout
from aprtui.trace.graph.ops import Axis
from aprtui.trace.graph.stage import ROUTER_CHOICE, Node, TokenMixer
from aprtui.trace.graph.stage_graph import StageGraph

Array = NDArray[np.float32]


def turned_stages(graph: StageGraph) -> tuple[str, ...]:
    """The stages of queries and keys as the attention gets them; of latent attention those that it is given in part."""
    if graph.config is not None and graph.config.latent is not None:
        hidden = {"q_temp_scaled"} if graph.config.latent.absorbed else set()
        hidden |= _BEFORE_TEMPERATURE if graph.config.query_temperature else set()
        return tuple(name for name in _OF_LATENT if name in graph and name not in hidden)
    queries, keys = graph["attn_scores"].inputs
    return queries.stage, keys.stage


_IN_PAIRS = "DeepseekV2ForCausalLM"
"""The class with latent attention that leaves turned channels in pairs; others leave them in halves."""
_OF_LATENT = ("q_nope", "q_pe", "k_pe", "k_nope", "v_heads", "q_post_rope", "q_temp_scaled", "k_post_rope")
_BEFORE_TEMPERATURE = frozenset({"q_nope", "q_pe", "q_post_rope"})
"""What queries are made of that the attention gets scaled by their positions."""


class StageValues:
    """Takes tensors as the nodes that they are, and hands on the rows of one sequence of a batch.

    `take` gets a node, the position of the first row, and `[tokens, width]` or `[heads, tokens, keys]`.
    """

    def __init__(self, graph: StageGraph, take: Callable[[Node, int, Array], None], batch: int = 0) -> None:
        self.graph = graph
        self.position = 0
        self._take, self._batch = take, batch
        self._batches = self._tokens = 0
        self._parts: dict[Node, dict[int, Any]] = {}
        self._chosen_by = graph[ROUTER_CHOICE].inputs[0].stage if ROUTER_CHOICE in graph else ""
        self._scores: dict[int | None, Array] = {}
        """What the experts of a layer are chosen by in this pass."""
        self._order: dict[int | None, NDArray[np.int64]] = {}

    def begin(self, batches: int, tokens: int) -> None:
        """A pass begins: so many sequences, so many tokens of each. Raises `UsageError` where ours is not there."""
        if self._batch >= batches:
            raise UsageError(
                f"batch={self._batch}: the model was called with {batches} sequences: use 0 … {batches - 1}"
            )
        self._batches, self._tokens = batches, tokens

    def end(self) -> None:
        """The pass has ended."""
        self.position += self._tokens
        self._batches = self._tokens = 0
        self._scores, self._order = {}, {}

    @property
    def running(self) -> bool:
        """Whether a pass has begun and not ended."""
        return self._tokens > 0

    @property
    def tokens(self) -> int:
        """Tokens of this pass."""
        return self._tokens

    def put(self, node: Node, values: Any) -> None:
        """Take the values of a node: `[batch, tokens, …]`, `[batch, heads, tokens, channels]`, or
        `[batch, heads, queries, keys]`; batch and tokens may be one axis.

        Raises `UsageError` for a tensor that does not have the tokens of this pass, or the width of the stage.
        """
        is_map = self.graph[node.stage].is_attention_map
        self._hand_on(node, self._map_of(node, values) if is_map else self._rows_of(node, values))

    def _hand_on(self, node: Node, of_sequence: Any) -> None:
        stage = self.graph[node.stage]
        rows = of_sequence.detach().float().cpu().numpy()
        config = self.graph.config
        if config is not None:
            width = rows.shape[0] if stage.is_attention_map else rows.shape[1]
            if width != stage.width:
                raise UsageError(f"{node}: {_shape(of_sequence)}, where the model has a width of {stage.width}")
            if config.rope_layout is RopeLayout.INTERLEAVED:
                rows = _in_pairs(self.graph, config, node, rows)
            if stage.mixer is TokenMixer.RECURRENCE and stage.name != "linear_attn_out":
                rows = _across_key_heads(config, rows)
        if Axis.EXPERT in stage.axes:
            rows = self._most_probable_first(node, rows)
        self._take(node, self.position, np.ascontiguousarray(rows, np.float32))

    def _most_probable_first(self, node: Node, rows: Array) -> Array:
        """`rows` with a token's experts in the order of the stages; some classes of transformers leave them in any."""
        if node.stage == self._chosen_by:
            self._scores[node.layer] = rows
        elif node.stage == ROUTER_CHOICE and node.layer in self._scores:
            scores = np.take_along_axis(self._scores[node.layer], rows.astype(np.int64), axis=1)
            self._order[node.layer] = np.lexsort((rows, -scores))
        order = self._order.get(node.layer)
        return rows if order is None or rows.shape != order.shape else np.take_along_axis(rows, order, axis=1)

    def put_part(self, node: Node, values: Any, part: int, count: int) -> None:
        """Take one of `count` parts of a fused node: its columns from the left."""
        found = self._parts.setdefault(node, {})
        found[part] = self._rows_of(node, values).detach().float().cpu()
        if len(found) == count:
            del self._parts[node]
            self._hand_on(node, importlib.import_module("torch").cat([found[at] for at in range(count)], -1))

    def _rows_of(self, node: Node, values: Any) -> Any:
        """`[tokens, width]` of our sequence, as a tensor."""
        batches, tokens, at, shape = self._batches, self._tokens, self._batch, tuple(values.shape)
        if len(shape) == 4 and shape[1] == shape[2] and shape[1] > 1:
            raise UsageError(
                f"{node}: {_shape(values)}: heads or tokens first? map a function that gives [tokens, width]"
            )
        if len(shape) > 2 and shape[:2] == (batches, tokens):
            return values[at].reshape(tokens, -1)
        if len(shape) > 1 and shape[0] == batches * tokens:
            return values.reshape(batches, tokens, -1)[at]
        width = self.graph[node.stage].width
        if self.graph.config is not None and math.prod(shape) == batches * tokens * width and len(shape) == 2:
            return values.reshape(batches, tokens, width)[at]  # rows are heads
        if len(shape) == 4 and (shape[0], shape[2]) == (batches, tokens):
            return values[at].transpose(0, 1).reshape(tokens, -1)
        if len(shape) > 1 and shape[0] == batches and self.graph[node.stage].of_last_position:
            return values[at].reshape(-1, shape[-1])
        raise UsageError(
            f"{node}: {_shape(values)}, where {batches} × {tokens} tokens were evaluated: map another place"
        )

    def _map_of(self, node: Node, values: Any) -> Any:
        """`[heads, queries, keys]` of our sequence, as a tensor, without keys that a cache only has room for."""
        whole = values[self._batch] if values.ndim == 4 else values
        if whole.ndim != 3 or whole.shape[1] != self._tokens:
            raise UsageError(f"{node}: {_shape(values)}, expected [batch, heads, {self._tokens}, keys]")
        return whole[:, :, : self.position + self._tokens]


def _shape(values: Any) -> str:
    return f"a tensor of {list(values.shape)}"


def _in_pairs(graph: StageGraph, config: GraphConfig, node: Node, rows: Array) -> Array:
    """`rows` with the channels of queries and keys in the order of a GGUF file.

    transformers has halves of a head, where the file has pairs.
    """
    # Latent attention turns pairs in transformers, too.
    parts = graph.rope_parts.get(node.stage, frozenset()) if config.latent is None else frozenset()
    rows = rows.copy() if parts else rows
    for part in parts:
        columns = rows[:, config.part(part)]
        halves = columns.reshape(len(rows), -1, 2, config.head_dim // 2)
        columns[...] = halves.swapaxes(2, 3).reshape(columns.shape)
    return rows


def _across_key_heads(config: GraphConfig, rows: Array) -> Array:
    """`rows` with value heads in the order of the file; transformers counts them key head by key head."""
    first = 2 * config.linear_key_width if rows.shape[1] == config.linear_qkv_width else 0
    heads = rows[:, first:].reshape(len(rows), config.linear_value_heads, -1)
    values = heads[:, list(config.value_heads_by_key_head)].reshape(len(rows), -1)
    return np.concatenate([rows[:, :first], values], axis=1)


def attach(taps: Iterable[ModuleTap], model: Any, values: StageValues) -> Iterator[Any]:
    """Hook the modules of `model` that `taps` name; each handle removes its hook."""
    for tap in taps:
        for part, name in enumerate(tap.modules):
            yield _hook(model.get_submodule(name), tap, part, values)


def _hook(module: Any, tap: ModuleTap, part: int, values: StageValues) -> Any:
    if tap.inside:
        return _Watching(module, tap, values)

    def before(_module: Any, inputs: Any) -> None:
        values.put(tap.node, inputs[tap.element or 0])

    def after(_module: Any, inputs: Any, output: Any) -> None:
        found = output[tap.element or 0] if isinstance(output, tuple) else output
        if tap.of_all_positions:
            found = _new_keys(found, values).flatten(1, 2)
        if found.ndim == 4:
            found = (found.transpose(1, 2) if _heads_first(inputs[0], values.tokens) else found).flatten(2)
        if tap.columns:
            found = found[..., list(tap.columns)]
        if len(tap.modules) == 1:
            values.put(tap.node, found)
        else:
            values.put_part(tap.node, found, part, len(tap.modules))

    return module.register_forward_pre_hook(before) if tap.takes_input else module.register_forward_hook(after)


class _Watching:
    """Sees what a function of torch gives inside a module; `remove` ends it."""

    def __init__(self, module: Any, tap: ModuleTap, values: StageValues) -> None:
        self._tap, self._values = tap, values
        self._running: list[AbstractContextManager[Any]] = []
        begin = module.register_forward_pre_hook(lambda *_: self._begin())
        self._handles = (begin, module.register_forward_hook(lambda *_: self._end(), always_call=True))

    def _begin(self) -> None:
        if self._values.running:
            watch = _calls(self._tap.inside, 1, lambda _, result: self._values.put(self._tap.node, result))
            watch.__enter__()
            self._running.append(watch)

    def _end(self) -> None:
        while self._running:
            self._running.pop().__exit__(None, None, None)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def _heads_first(taken: Any, tokens: int) -> bool:
    """Whether a tensor of four axes is `[batch, heads, tokens, channels]`.

    Where there are as many heads as tokens, it is one if it is a view of a tensor with tokens before heads, where a
    token has the larger stride.
    """
    of_tokens = [size == tokens for size in taken.shape[1:3]]
    return of_tokens[1] if of_tokens[0] != of_tokens[1] else bool(taken.stride(1) < taken.stride(2))


@contextmanager
def eager_maps(model: Any, values: StageValues) -> Iterator[None]:
    """See queries, keys and maps in the attention function of the source file of a model of transformers."""
    source: Any = importlib.import_module(type(model).__module__)
    plain, turned = source.eager_attention_forward, partial(_turned_rows, values.graph)

    def seen(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
        if not values.running:
            return plain(module, query, key, value, mask, **options)
        layer = module.layer_idx
        of_pass = (query, *(_new_keys(cached, values) for cached in (key, value)))
        for name, rows in turned(*(heads.transpose(1, 2) for heads in of_pass)).items():
            values.put(Node(layer, name), rows.flatten(2))
        with _products(lambda number, scores: values.put(Node(layer, MAPS[number]), scores), values.graph):
            output, probabilities = plain(module, query, key, value, mask, **options)
        values.put(Node(layer, MAPS[-1]), probabilities)
        return output, probabilities

    source.eager_attention_forward = seen
    try:
        yield
    finally:
        source.eager_attention_forward = plain


def _turned_rows(graph: StageGraph, query: Any, key: Any, value: Any) -> dict[str, Any]:
    """What queries, keys and values `[batch, tokens, heads, channels]` of this pass have of `graph`, by stage."""
    latent = None if graph.config is None else graph.config.latent
    if latent is None:
        return dict(zip(turned_stages(graph), (query, key), strict=True))
    assert graph.config is not None
    if ARCHITECTURES[graph.config.architecture].class_for(graph.config) != _IN_PAIRS:
        query, key = (_back_in_pairs(heads, latent.rope) for heads in (query, key))
    rows = {"q_nope": query[..., : latent.nope], "q_pe": query[..., latent.nope :]}
    rows |= {"k_pe": key[:, :, :1, latent.nope :], "k_nope": key[..., : latent.nope], "v_heads": value}
    rows |= {"q_post_rope": query, "q_temp_scaled": query, "k_post_rope": key}
    return {name: rows[name] for name in turned_stages(graph)}


def _back_in_pairs(heads: Any, turned: int) -> Any:
    """Heads whose last `turned` channels lie in halves, as the class of DeepSeek-V3 leaves them, in pairs again."""
    torch: Any = importlib.import_module("torch")
    halves = heads[..., -turned:].unflatten(-1, (2, -1))
    return torch.cat([heads[..., :-turned], halves.transpose(-1, -2).flatten(-2)], -1)


def _new_keys(key: Any, values: StageValues) -> Any:
    """The keys, or values, of this pass among those of a cache: the last ones, or, in a cache with room for more, those
    behind the former ones."""
    behind = values.position + values.tokens
    return key[:, :, values.position : behind] if key.shape[2] > behind else key[:, :, -values.tokens :]


def _products(take: Callable[[int, Any], None], graph: StageGraph) -> AbstractContextManager[Any]:
    """Hand out the products of queries and keys as they are scaled, and as they are softcapped where they are."""
    return _calls("mul", 2 if "attn_softcap" in graph else 1, take)


def _calls(function_name: str, wanted: int, take: Callable[[int, Any], None]) -> AbstractContextManager[Any]:
    """Hand out the results of the first `wanted` calls of a function of torch, also as an operator, with their
    number."""
    torch: Any = importlib.import_module("torch")
    names = (function_name, f"__{function_name}__")

    class Watch(torch.overrides.TorchFunctionMode):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.count = 0

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            if getattr(function, "__name__", "") in names and self.count < wanted:
                take(self.count, result)
                self.count += 1
            return result

    watch: AbstractContextManager[Any] = Watch()
    return watch
