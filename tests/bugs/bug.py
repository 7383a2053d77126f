"""A bug: what it changes in a running model of transformers, and what says what is wrong."""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import torch

QWEN, SMOL, GEMMA = "qwen2.5-coder-0.5b", "smollm2-135m", "gemma3-270m"
"""How the names of the files begin."""

WHOLE = (16,)
"""All tokens in one pass."""
DECODED = (12, 1, 1, 1, 1)
CHUNKS = (8, 8)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: `words` is a regular expression that only a sentence which names it matches.

    `layers` is empty where every layer that has one of the `stages` is wrong, or where the model has the stage once.
    """

    stages: str
    words: str
    layers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Bug:
    """`plant` changes a running model; `passes` are the tokens of each call."""

    name: str
    model: str
    plant: Callable[[Edit], None]
    faults: tuple[Fault, ...]
    passes: tuple[int, ...] = WHOLE


class Edit:
    """Changes of a running model, taken back when the block ends."""

    def __init__(self, model: Any) -> None:
        self.model, self.layers, self.rotary = model, model.model.layers, model.model.rotary_emb
        self.config = model.config
        self.source: Any = importlib.import_module(type(model).__module__)
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def replace(self, owner: Any, name: str, value: Any) -> None:
        """`owner.name` is `value`."""
        if name in vars(owner):
            self._undo.callback(setattr, owner, name, vars(owner)[name])
        else:
            self._undo.callback(delattr, owner, name)
        setattr(owner, name, value)

    def method(self, owner: Any, function: Callable[..., Any], name: str = "forward") -> Any:
        """A module computes `function(module, …)`; what it computed before is given back."""
        plain = getattr(owner, name)
        self.replace(owner, name, types.MethodType(function, owner))
        return plain

    def fill(self, tensor: Any, values: Any) -> None:
        """A weight or a buffer has these values."""
        kept = tensor.detach().clone()
        self._undo.callback(tensor.data.copy_, kept)
        tensor.data.copy_(values)

    def of_all(self, name: str) -> list[Any]:
        """The module of every layer that is called so."""
        return [layer.get_submodule(name) for layer in self.layers]

    def norms(self) -> Iterable[Any]:
        """Every norm of the model."""
        return [module for module in self.model.modules() if type(module).__name__.endswith("RMSNorm")]


@dataclass(frozen=True, slots=True)
class Attention:
    """The steps of an attention as transformers takes them, each of which a bug may take in another way.

    Every step is called with the attention's module first. Keys and values are `[batch, heads, tokens, channels]`.
    """

    queries: Callable[[Any, Any], Any] = lambda module, queries: queries
    keys: Callable[[Any, Any], Any] = lambda module, keys: keys.repeat_interleave(module.num_key_value_groups, 1)
    values: Callable[[Any, Any], Any] = lambda module, values: values.repeat_interleave(module.num_key_value_groups, 1)
    scale: Callable[[Any], float] = lambda module: module.scaling
    capped: Callable[[Any, Any], Any] = lambda module, scores: scores
    mask: Callable[[Any, Any], Any] = lambda module, mask: mask
    softmax: Callable[[Any, Any], Any] = lambda module, masked: torch.softmax(masked, -1, torch.float32)
    product: Callable[[Any, Any, Any], Any] = lambda module, probabilities, values: probabilities @ values
    joined: Callable[[Any, Any], Any] = lambda module, heads: heads.transpose(1, 2).contiguous()
    layers: tuple[int, ...] = ()
    """The layers that take these steps, where not all do."""

    def plant(self, edit: Edit) -> None:
        """The attention of the model takes these steps."""
        plain = edit.source.eager_attention_forward

        def attention(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
            if self.layers and module.layer_idx not in self.layers:
                return plain(module, query, key, value, mask, **options)
            keys, values = self.keys(module, key), self.values(module, value)
            scores = torch.matmul(self.queries(module, query), keys.transpose(2, 3)) * self.scale(module)
            visible = causal(scores) if mask is None else mask
            probabilities = self.softmax(module, self.capped(module, scores) + self.mask(module, visible))
            return self.joined(module, self.product(module, probabilities, values)), probabilities

        edit.replace(edit.source, "eager_attention_forward", attention)


def causal(scores: Any) -> Any:
    """What is added to scores `[…, queries, keys]`, so that a query sees no key behind it."""
    queries, keys = scores.shape[-2:]
    return torch.full((queries, keys), -torch.inf).triu(1 + keys - queries)


def turned(edit: Edit, function: Callable[[Any, Any], Any]) -> None:
    """Cosines and sines of positions are `function(cos, sin)`."""

    def forward(_module: Any, *args: Any, **kwargs: Any) -> Any:
        return function(*plain(*args, **kwargs))

    plain = edit.method(edit.rotary, forward)


def positions(edit: Edit, function: Callable[[Any], Any]) -> None:
    """Positions `[batch, tokens]` are `function(positions)` where angles are made of them."""

    def forward(_module: Any, x: Any, position_ids: Any, *rest: Any, **more: Any) -> Any:
        return plain(x, function(position_ids), *rest, **more)

    plain = edit.method(edit.rotary, forward)


def frequencies(base: float, width: int) -> Any:
    """The angles by which pairs of channels turn from one token to the next."""
    return base ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
