"""A model whose weights are disturbed within their own quantisation step, as another quantisation might be."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from aprtui.model.weights import Weight, WeightType, block_shape
from aprtui.trace.graph import Node

if TYPE_CHECKING:
    from aprtui.model.config import ModelConfig
    from aprtui.model.model import Model
    from aprtui.trace.graph import StageGraph

_SUB_BLOCK: dict[WeightType, int] = {
    WeightType.Q4_K: 32,
    WeightType.Q5_K: 32,
    WeightType.Q6_K: 16,
    WeightType.Q4_0: 32,
    WeightType.Q5_0: 32,
    WeightType.Q8_0: 32,
}
"""Values that share a scale."""
_MANTISSA: dict[WeightType, float] = {WeightType.F32: 0.0, WeightType.F16: 2.0**-10, WeightType.BF16: 2.0**-7}
"""Step of the floating types, relative to the value."""


@dataclass(frozen=True, slots=True)
class PerturbedWeight(Weight):
    """A weight whose dequantised values are off by up to half a step, uniformly and the same at every call."""

    seed: int = 0

    def dequantize(self, rows: slice | Sequence[int] = slice(None)) -> NDArray[np.float32]:
        """The disturbed values of `rows`."""
        # Not `super()`: a slotted dataclass is a new class, which the implicit form does not know.
        exact = Weight.dequantize(self, rows)
        chosen = range(self.rows)[rows] if isinstance(rows, slice) else rows
        noise = np.stack([self._noise(row) for row in chosen]) if len(chosen) else np.empty_like(exact)
        return exact + noise * _steps(self.type, exact)

    def _noise(self, row: int) -> NDArray[np.float32]:
        random = np.random.default_rng([self.seed, zlib.crc32(self.name.encode()), row])
        return random.random(self.columns, np.float32) - np.float32(0.5)


def _steps(kind: WeightType, exact: NDArray[np.float32]) -> NDArray[np.float32]:
    """The distance between neighbouring levels around each value.

    Of a block its smallest gap between different values is a whole number of steps, nearly always one.
    """
    if kind in _MANTISSA:
        return np.asarray(np.abs(exact) * np.float32(_MANTISSA[kind]), np.float32)
    blocks = np.sort(exact.reshape(exact.shape[0], -1, _SUB_BLOCK[kind]), axis=-1)
    gaps = np.diff(blocks, axis=-1)
    gaps[gaps <= np.abs(blocks[..., 1:]) * np.float32(1e-5)] = np.inf
    steps = gaps.min(-1)
    steps[~np.isfinite(steps)] = 0
    return np.repeat(steps, _SUB_BLOCK[kind], axis=-1)


@dataclass(frozen=True, slots=True)
class PerturbedModel:
    """What an evaluator needs of a model, with disturbed weights."""

    config: ModelConfig
    graph: StageGraph
    original: Model
    seed: int

    def params(self, node: Node) -> tuple[Weight, ...]:
        """The weights of `node`, disturbed."""
        return tuple(
            PerturbedWeight(weight.name, weight.type, weight.rows, weight.columns, weight.data, seed=self.seed)
            for weight in self.original.params(node)
        )


def perturbed(model: Model, seed: int) -> Model:
    """`model` with disturbed weights, for evaluators that ask for `config`, `graph` and `params` only."""
    assert all(block_shape(kind)[0] % size == 0 for kind, size in _SUB_BLOCK.items())
    return cast("Model", PerturbedModel(model.config, model.graph, model, seed))
