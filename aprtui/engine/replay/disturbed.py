"""Results with last bits of their own: another honest engine adds in another order, and rounds float32 elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.protocol import NodeEvaluator
from aprtui.engine.replay.bounds import ANGLE_ERROR
from aprtui.model.model import Model
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node

Array = NDArray[np.float32]
Disturb = Callable[[Node, Array], Array]

SOFTPLUS_STEP = 2.0**-24
"""Half a step of float32 at 1: engines that add 1 and exp(x) in float32 lose that much of a softplus."""

LAST_BITS = 2.0**-22
"""Relative size of the disturbance: two honest float32 sums of one stage differ by about this."""
MORE_FLIPS = 16.0
"""Between engines that round alike flips are all there is, and a few runs see few: a larger disturbance, more flips."""


@dataclass(frozen=True, slots=True)
class DisturbedNodes:
    """`NodeEvaluator` whose results are those of another, disturbed; the caller closes the other."""

    evaluator: NodeEvaluator
    disturb: Disturb

    def evaluate(self, node: Node, inputs: Sequence[Array], *, tokens: Sequence[int], position: int) -> Array:
        return self.disturb(node, self.evaluator.evaluate(node, inputs, tokens=tokens, position=position))

    def close(self) -> None:
        """Nothing of its own to release."""


def disturbance(model: Model, seed: int, size: float) -> Disturb:
    """Relative noise of `size` in every value, and more in two: RoPE's angles, softplus' sum in float32."""

    def disturb(node: Node, values: Array) -> Array:
        if model.graph[node.stage].holds_indices:
            return values
        random = np.random.default_rng([seed, node.layer or 0, len(node.stage), *node.stage.encode()])
        noise = random.uniform(-1, 1, values.shape).astype(np.float32)
        noise *= np.float32(size)
        if model.graph[node.stage].op is Op.ROPE:
            noise *= (1 + ANGLE_ERROR / size * np.arange(len(values), dtype=np.float32))[:, None]
        noise *= values
        if model.graph[node.stage].op is Op.SOFTPLUS:
            noise += random.uniform(-SOFTPLUS_STEP, SOFTPLUS_STEP, values.shape).astype(np.float32)
        return values + noise

    return disturb
