"""One node computed as the engine of a capture would have: in float32, with that engine's roundings put around it.

The roundings by op: the input of a matrix product (by the type of its weights, or alike for all), its weights and sums
where an engine keeps them in another type, query and keys of the scores, probabilities and values of the attention,
what goes into GELU and comes out of it, and what leaves every stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.gelu import gelu_f16
from aprtui.engine.protocol import NodeEvaluator, Rounding
from aprtui.engine.reference.ops import each_head, expert_sum_correction, of_experts
from aprtui.engine.replay.flash_attention import (
    MET_IN_Q8_0,
    ONLINE_F16,
    ROTATED,
    attend_online_f16,
    met_inputs,
    rotated_inputs,
)
from aprtui.engine.rounding import ROUND, sum_correction
from aprtui.engine.weight_rounding import OWN_WEIGHTS, WEIGHT_ROUNDINGS, product, rounded
from aprtui.errors import UsageError
from aprtui.model.config import RopeAngles
from aprtui.model.model import Model
from aprtui.model.weights import Weight
from aprtui.trace.graph.ops import MATRIX_PRODUCTS, Op
from aprtui.trace.graph.stage import Node

Array = NDArray[np.float32]

NodeEvaluators = Callable[[RopeAngles], NodeEvaluator]
"""Gives the evaluator that computes RoPE angles in that way."""

BY_WEIGHT = "q8"
"""As a matmul input: what llama.cpp's CPU backend rounds to, by the type of the weights."""

INPUT_LIMIT = "input_limit"

UNROUNDED = Rounding("none", "f32", str(RopeAngles.F64))
ATTENTION_OPS = frozenset({Op.SCORES, Op.ATTEND})
"""Those that the types of the K/V cache and of the softmax's results matter to."""

_CONCERNED: Mapping[str, frozenset[Op]] = MappingProxyType(
    {
        "kv_cache": ATTENTION_OPS,
        "softmax": ATTENTION_OPS,
        "activation": frozenset({Op.GELU}),
        "rope_angles": frozenset({Op.ROPE}),
        **dict.fromkeys(("matmul_input", "weights", "sums", "input_limit"), MATRIX_PRODUCTS),
    }
)
"""The ops that a rounding matters to; what stages are kept in matters to all."""

_HALVES = ("f32", "f16", "bf16")
KEPT: Mapping[str, str] = MappingProxyType({"f16_kept": "f16", "bf16_kept": "bf16"})
"""Types of a softmax whose results are kept in 16 bits, by that type, where queries are not rounded to it."""
CHOICES: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "matmul_input": (BY_WEIGHT, *ROUND),
        "kv_cache": (*_HALVES, "q8_0", "q4_0", "fp8", "fp8_e5m2", "int8_row", *ROTATED, *MET_IN_Q8_0),
        "rope_angles": tuple(RopeAngles),
        "stage_output": _HALVES,
        "softmax": (*_HALVES, ONLINE_F16, *KEPT),
        "activation": ("f32", "f16"),
        "weights": (OWN_WEIGHTS, *WEIGHT_ROUNDINGS),
        "sums": _HALVES,
    }
)
"""The types that each rounding can have; `input_limit` takes a number. `matmul_input` may join several by `+`, one of
which each weight takes, and `kv_cache` those of keys and values."""


_MOST_PARTS: Mapping[str, int] = MappingProxyType({"matmul_input": len(ROUND), "kv_cache": 2})
"""How many types may be joined; one where nothing stands here."""


def parse_rounding(text: str) -> dict[str, str]:
    """The roundings that `--rounding` states, as `matmul_input=q8_k,kv_cache=f16`. Raises `UsageError`."""
    stated: dict[str, str] = {}
    for piece in text.split(","):
        name, _, value = (part.strip() for part in piece.partition("="))
        if name == INPUT_LIMIT and _is_magnitude(value):
            stated[name] = value
            continue
        if name not in CHOICES:
            where = ", ".join((*CHOICES, f"{INPUT_LIMIT} (a number)"))
            raise UsageError(f"--rounding {piece!r}: expected WHERE=WHAT with WHERE one of {where}")
        parts = value.split("+")
        if any(part not in CHOICES[name] for part in parts):
            raise UsageError(f"--rounding {piece!r}: {name} is one of {', '.join(CHOICES[name])}")
        if len(parts) > _MOST_PARTS.get(name, 1):
            raise UsageError(f"--rounding {piece!r}: {name} takes {_MOST_PARTS.get(name, 1)} at most")
        stated[name] = value
    return stated


def _is_magnitude(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


def rounding_text(rounding: Rounding) -> str:
    """The roundings as `--rounding` takes them; of the activation, weights, sums and limits only what is unusual."""
    named = rounding.stated().items()
    return ", ".join(f"{name}={kind}" for name, kind in named if (name, kind) != ("activation", "f32"))


def matmul_rounding(stated: str, weight: Weight) -> str:
    """Which of the roundings that `stated` joins by `+` the input of `weight` takes."""
    own, names = weight.type.format.cpu_input, stated.split("+")
    if BY_WEIGHT in names:
        return own
    of_schemes = (own, weight.type.format.cuda_input)
    return next((name for name in of_schemes if name in names), names[0])


def kept_type(op: Op, rounding: Rounding) -> str:
    """What keys (for the scores) or values are kept in: the one type of the K/V cache, or one of two joined by `+`."""
    keys, _, values = rounding.kv_cache.partition("+")
    return keys if op is Op.SCORES or not values else values


def factor_type(op: Op, rounding: Rounding) -> str:
    """The type of what the scores or the attention multiply what they read from the cache by: queries, probabilities.

    Engines that keep K and V in float16 may multiply in float16 as well: then queries are rounded too.
    """
    if rounding.softmax in KEPT:
        return "none" if op is Op.SCORES else KEPT[rounding.softmax]
    return "f16" if rounding.softmax == ONLINE_F16 else _rounds(rounding.softmax)


def cached_type(op: Op, rounding: Rounding) -> str:
    """What keys or values are rounded to as the scores or the attention read them from the K/V cache."""
    return _rounds(kept_type(op, rounding))


@dataclass(frozen=True, slots=True)
class KnownArithmetic:
    """What is known of how the engine of a capture computes.

    `outputs` are the types that stages are kept in, by name, where that is not `rounding.stage_output`; `stored` is the
    type that values were only saved in, as the engine went on with more digits. Stages that were not captured may be
    kept in any type of `between` as well. `alternatives` are changes of `rounding` that come out about as close as it
    does. `open_ops` are the ops whose rounding nothing has established: `rounding` is the nearest one for them, and no
    more.
    """

    rounding: Rounding = UNROUNDED
    outputs: Mapping[str, str] = field(default_factory=dict)
    stored: str = "f32"
    between: frozenset[str] = frozenset({"f32"})
    alternatives: tuple[Mapping[str, str], ...] = ()
    open_ops: frozenset[Op] = frozenset()

    def output_type(self, node: Node) -> str:
        return self.outputs.get(node.stage, self.rounding.stage_output)


def concerns(name: str, ops: Collection[Op]) -> bool:
    """Whether the rounding `name` can change what nodes of `ops` come out as."""
    return name not in _CONCERNED or not _CONCERNED[name].isdisjoint(ops)


@dataclass(frozen=True, slots=True)
class Recomputation:
    """Computes nodes of `model` under `rounding`; `evaluators` gives one for each way of computing RoPE angles."""

    model: Model
    rounding: Rounding
    evaluators: NodeEvaluators
    outputs: Mapping[str, str] = field(default_factory=dict)
    """What each stage is kept in, by its name; `rounding.stage_output` where it is not named."""

    def evaluate(self, node: Node, inputs: Sequence[Array], tokens: Sequence[int], position: int = 0) -> Array:
        """The stage tensor of `node` from its inputs, as in `NodeEvaluator`."""
        op = self.model.graph[node.stage].op
        config = self.model.config.graph
        if op is Op.MATMUL:
            out = self._matmul(node, inputs[0], tokens, position)
        elif op in (Op.EXPERT_MATMUL, Op.HEAD_MATMUL):
            out = self._expert_matmul(node, inputs, tokens, position)
        elif op is Op.ATTEND and self.rounding.softmax == ONLINE_F16:
            out = attend_online_f16(inputs[0], ROUND[cached_type(op, self.rounding)](inputs[1]), config)
        elif op is Op.GELU and self.rounding.activation == "f16":
            out = gelu_f16(inputs[0])
        else:
            out = self._evaluator().evaluate(node, self._rounded(op, inputs), tokens=tokens, position=position)
        kept = ROUND[_rounds(self.outputs.get(node.stage, self.rounding.stage_output))](out)
        return _without_overflow(kept, out)

    def _evaluator(self) -> NodeEvaluator:
        return self.evaluators(RopeAngles(self.rounding.rope_angles))

    def _rounded(self, op: Op, inputs: Sequence[Array]) -> Sequence[Array]:
        if op not in ATTENTION_OPS:
            return inputs
        kept = kept_type(op, self.rounding)
        if kept in ROTATED:
            return rotated_inputs(op, inputs, ROTATED[kept], self.model.config.graph)
        if kept in MET_IN_Q8_0:
            return met_inputs(op, inputs, MET_IN_Q8_0[kept])
        factor, cached = ROUND[factor_type(op, self.rounding)], ROUND[cached_type(op, self.rounding)]
        return [factor(inputs[0]), cached(inputs[1])]

    def _matmul(self, node: Node, x: Array, tokens: Sequence[int], position: int) -> Array:
        """Each weight of a fused stage may round its input in its own way: one product for each way, columns chosen."""
        weights = self.model.params(node)
        kinds = [matmul_rounding(self.rounding.matmul_input, weight) for weight in weights]
        x = self._clamped(x)
        if self.changes_products:
            parts = [self._product(ROUND[kind](x), weight) for kind, weight in zip(kinds, weights, strict=True)]
            return np.concatenate(parts, axis=1)
        products = {
            kind: self._evaluator().evaluate(node, [ROUND[kind](x)], tokens=tokens, position=position)
            for kind in dict.fromkeys(kinds)
        }
        ends = np.cumsum([weight.rows for weight in weights])[:-1]
        parts = [np.split(products[kind], ends, axis=1)[index] for index, kind in enumerate(kinds)]
        corrections = [sum_correction(kind, x, weight) for kind, weight in zip(kinds, weights, strict=True)]
        return np.concatenate([part + more for part, more in zip(parts, corrections, strict=True)], axis=1)

    def _expert_matmul(self, node: Node, inputs: Sequence[Array], tokens: Sequence[int], position: int) -> Array:
        """Each row that an expert, or a head with a matrix of its own, multiplies is rounded by itself."""
        (weight,) = self.model.params(node)
        kind, x = matmul_rounding(self.rounding.matmul_input, weight), self._clamped(inputs[0])
        choice = inputs[1] if len(inputs) > 1 else each_head(len(x), weight)
        x_rounded = ROUND[kind](x.reshape(-1, weight.columns)).reshape(x.shape)
        if self.changes_products:
            return of_experts(x_rounded, choice, weight, self._product)
        found = self._evaluator().evaluate(node, [x_rounded, *inputs[1:]], tokens=tokens, position=position)
        return found + expert_sum_correction(kind, x, choice, weight)

    @property
    def changes_products(self) -> bool:
        """Whether weights or sums are of another type than what the evaluators compute with."""
        return self.rounding.weights != OWN_WEIGHTS or self.rounding.sums != "f32"

    def _product(self, x: Array, weight: Weight) -> Array:
        return product(x, rounded(weight, self.rounding.weights), self.rounding.sums)

    def _clamped(self, x: Array) -> Array:
        if self.rounding.input_limit == "none":
            return x
        limit = np.float32(self.rounding.input_limit)
        return np.clip(x, -limit, limit)


def _without_overflow(kept: Array, values: Array) -> Array:
    """`kept`, but `values` where these are finite and `kept` is not: that is no rounding, and no engine means it."""
    lost = ~np.isfinite(kept) & np.isfinite(values)
    return np.where(lost, values, kept) if lost.any() else kept


def _rounds(element_type: str) -> str:
    return "none" if element_type == "f32" else element_type
