"""Alternatives of one number that is looked for, where nothing of the stage was captured that it could be solved from:
it is tried with a few numbers, and then between those that come nearest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from aprtui.engine.alternatives.activations import with_beta
from aprtui.engine.alternatives.alternative import Alternative, Attempt
from aprtui.engine.alternatives.call import StageCall
from aprtui.engine.alternatives.norms import with_epsilon
from aprtui.engine.alternatives.results import named_number
from aprtui.engine.alternatives.rope import turns_heads, with_base, with_scale
from aprtui.model.model import Model
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import ENTRY, Node


@dataclass(frozen=True, slots=True)
class NumberedAlternative:
    """`alternative` is tried with each of `numbers`, all of them positive, by `attempt`."""

    alternative: Alternative
    attempt: Callable[[StageCall, float], Attempt]
    numbers: Callable[[StageCall], tuple[float, ...]]


def _everywhere(model: Model, node: Node) -> bool:
    return True


def _numbered(
    name: str, at: str | Op, attempt: Callable[[StageCall, float], Attempt], advice: str,
    numbers: Callable[[StageCall], tuple[float, ...]], applies: Callable[[Model, Node], bool] = _everywhere,
) -> NumberedAlternative:  # fmt: skip
    def attempts(call: StageCall, found: object) -> list[Attempt]:
        return [attempt(call, number) for number in numbers(call)]

    return NumberedAlternative(Alternative(name, frozenset({at}), attempts, advice, applies), attempt, numbers)


def _times(what: str) -> Callable[[StageCall, float], Attempt]:
    """The result of a stage times a number."""

    def attempt(call: StageCall, factor: float) -> Attempt:
        words = f"{what} multiplied by {factor:.6g}{named_number(factor, call.model.config)}"
        return Attempt(words, lambda c: c.honest() * np.float32(factor), 1)

    return attempt


def _block_times(call: StageCall, factor: float) -> Attempt:
    words = f"what a block adds is multiplied by {factor:.6g}{named_number(factor, call.model.config)}"
    return Attempt(words, lambda c: c.honest(c.inputs[0], c.inputs[1] * np.float32(factor)), 1)


_AROUND_ONE = (0.125, 0.25, 0.5, 0.7, 0.85, 1.2, 1.4, 2.0, 4.0, 8.0)


def _factors(call: StageCall) -> tuple[float, ...]:
    """Some on both sides of 1, and those that are named."""
    graph, scale = call.model.config.graph, call.model.config.embedding_scale
    roots = (graph.head_dim**0.5, graph.hidden**0.5, (graph.head_dim / graph.hidden) ** 0.5, scale)
    named = {number for root in roots for number in (root, 1 / root)} - {1.0}
    return tuple(sorted({*named, *_AROUND_ONE}))


_BASES = (1e3, 3e3, 1e4, 3e4, 1e5, 2.5e5, 5e5, 1e6, 2.5e6, 5e6, 1e7, 1e8)
_EPSILONS = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


def _always(*numbers: float) -> Callable[[StageCall], tuple[float, ...]]:
    return lambda call: numbers


_SCALE = "scale as the model's metadata says, and nowhere else"

NUMBERED: tuple[NumberedAlternative, ...] = (
    _numbered("RoPE base", Op.ROPE, with_base, "take theta from the model's metadata", _always(*_BASES), turns_heads),
    _numbered(
        "RoPE scale", Op.ROPE, with_scale, "divide positions by what the model's metadata says",
        _always(*_AROUND_ONE, 16.0, 32.0), turns_heads,
    ),
    _numbered(
        "norm epsilon", Op.RMS_NORM, with_epsilon, "take epsilon from the model's metadata", _always(*_EPSILONS)
    ),
    _numbered(
        "scale of scores", Op.SCORES, _times("scores are"),
        "scale scores by one over the root of the head's size, or as the model's metadata says", _factors,
    ),
    _numbered(
        "activation factor", Op.SILU, with_beta, "use the activation that the architecture has", _always(*_AROUND_ONE)
    ),
    _numbered("residual factor", Op.ADD, _block_times, _SCALE, _always(*_AROUND_ONE)),
    _numbered("embedding factor", ENTRY, _times("the embedding is"), _SCALE, _factors),
    _numbered("logits factor", "lm_head", _times("logits are"), _SCALE, _factors),
)  # fmt: skip
