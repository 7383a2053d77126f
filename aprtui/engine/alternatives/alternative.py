"""An alternative: another way to compute a stage, its parameters solved from the captured values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.model.model import Model
from aprtui.model.weights import Weight
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node

MOST_VALUES = 1 << 25
"""Of a matrix that is decoded as a whole: 256 MB in float64."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An alternative with its parameters, for one node: what the engine did, in `words`, and how that is computed.

    `fitted` is how many numbers were solved for. `changed` is the call as the engine had it, where nothing else is
    other than in the model: other inputs, or other numbers of the model. `of_model` is whether it is the latter: what
    an engine has of those, it mostly has in all layers.
    """

    words: str
    compute: Callable[[StageCall], Array]
    fitted: int = 0
    changed: Callable[[StageCall], StageCall] | None = None
    of_model: bool = False


def reading(words: str, inputs: Mapping[int, Array], fitted: int = 0) -> Attempt:
    """An attempt of other `inputs`, by their place."""

    def changed(call: StageCall) -> StageCall:
        return replace(call, inputs=tuple(inputs.get(place, own) for place, own in enumerate(call.inputs)))

    return Attempt(words, lambda call: changed(call).honest(), fitted, changed=changed)


def configured(words: str, changes: Callable[[StageCall], Mapping[str, object]], fitted: int = 0) -> Attempt:
    """An attempt of other numbers of the model: `changes` of its `ModelConfig`."""

    def changed(call: StageCall) -> StageCall:
        return call.configured(**changes(call))

    return Attempt(words, lambda call: changed(call).honest(), fitted, changed=changed, of_model=True)


Parameters = Sequence[Weight]


def parametrised(words: str, params: Callable[[StageCall], Parameters], fitted: int = 0) -> Attempt:
    """An attempt of other parameters of the node."""

    def changed(call: StageCall) -> StageCall:
        return call.with_params(*params(call))

    return Attempt(words, lambda call: changed(call).honest(), fitted, changed=changed)


Attempts = Callable[[StageCall, Array | None], Iterable[Attempt]]
"""The ways in which one alternative is tried at a call, given its captured values; where these are not captured,
parameters have the values that are usual."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another way to compute the stages whose name or op is one of `at`, where it `applies`; `advice` is what to do.

    `may_be_meant` is whether an engine without a fault may compute so. `of_result` is whether it changes nothing but
    what the model's own way gives. One that is tried `only_together` is a way of all such stages of a layer, and says
    nothing of one of them.
    """

    name: str
    at: frozenset[str | Op]
    attempts: Attempts
    advice: str
    applies: Callable[[Model, Node], bool] = field(default=lambda model, node: True)
    may_be_meant: bool = False
    of_result: bool = False
    only_together: bool = False

    def concerns(self, model: Model, node: Node) -> bool:
        """Whether it is an alternative at `node`."""
        named = node.stage in self.at or model.graph[node.stage].op in self.at
        return named and self.applies(model, node)


def plain(
    name: str, at: Iterable[str | Op], compute: Callable[[StageCall], Array], words: str, advice: str,
    applies: Callable[[Model, Node], bool] = lambda model, node: True, *, of_result: bool = False,
    may_be_meant: bool = False,
) -> Alternative:  # fmt: skip
    """An alternative without parameters."""
    attempt = Attempt(words, compute)
    return Alternative(name, frozenset(at), lambda call, found: [attempt], advice, applies, may_be_meant, of_result)


def nicest(value: float, cost: Callable[[float], float]) -> float:
    """`value` with as few digits as cost about as little: people write 10000, not 9999.99987."""
    least = cost(value)
    for digits in range(1, 8):
        rounded = float(f"{value:.{digits - 1}e}")
        if cost(rounded) <= max(1.1 * least, 1e-13):
            return rounded
    return value


def least(cost: Callable[[float], float], low: float, high: float, steps: int = 60) -> float:
    """Where `cost` is least between `low` and `high`, by golden sections."""
    ratio = (5**0.5 - 1) / 2
    for _ in range(steps):
        inner, outer = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, outer) if cost(inner) < cost(outer) else (inner, high)
    return (low + high) / 2


def distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """|b − a| / |a| over values that are finite on both sides; inf where `a` is zero."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(wide_a) & np.isfinite(wide_b)
    norm = float(np.linalg.norm(wide_a[finite]))
    return float(np.linalg.norm((wide_b - wide_a)[finite])) / norm if norm else float("inf")
