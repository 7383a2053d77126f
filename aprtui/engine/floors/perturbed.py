"""A model whose weights are disturbed within their own quantisation step, as another quantisation might be."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from aprtui.model.config import ModelConfig
from aprtui.model.model import Model, Rebuilt
from aprtui.model.weight_types import WeightType
from aprtui.model.weights import Weight
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph


@dataclass(frozen=True, slots=True)
class PerturbedWeight(Weight):
    """A weight whose dequantised values are off by up to half a step, uniformly and the same at every call."""

    seed: int = 0

    def dequantize(self, rows: slice | Sequence[int] = slice(None)) -> NDArray[np.float32]:
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

    The smallest gap between different values of a block is a whole number of steps, nearly always one.
    """
    row = kind.format
    if row.float_step is not None:
        # Float32 weights were not quantised, so another quantisation does not change them.
        relative = 0.0 if kind is WeightType.F32 else row.float_step[0]
        return np.asarray(np.abs(exact) * np.float32(relative), np.float32)
    blocks = np.sort(exact.reshape(exact.shape[0], -1, row.sub_block), axis=-1)
    gaps = np.diff(blocks, axis=-1)
    gaps[gaps <= np.abs(blocks[..., 1:]) * np.float32(1e-5)] = np.inf
    steps = gaps.min(-1)
    steps[~np.isfinite(steps)] = 0
    steps = np.repeat(steps, row.sub_block, axis=-1)
    return _uneven_steps(row.codebook, exact, steps) if row.codebook else steps


def _uneven_steps(
    codebook: Sequence[int], exact: NDArray[np.float32], least: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The distance around each value where levels are those of a codebook, and `least` the smallest one there."""
    levels = np.unique(codebook).astype(np.float32)
    unit = least / np.diff(levels).min()
    quants = exact / np.where(unit == 0, np.float32(1), unit)
    places = np.searchsorted((levels[1:] + levels[:-1]) / 2, quants)
    return np.asarray(unit * np.gradient(levels)[places], np.float32)


@dataclass(frozen=True, slots=True)
class PerturbedModel:
    """What an evaluator needs of a model, with disturbed weights."""

    config: ModelConfig
    graph: StageGraph
    original: Model
    seed: int

    def params(self, node: Node) -> tuple[Weight, ...]:
        return tuple(
            PerturbedWeight(weight.name, weight.type, weight.rows, weight.columns, weight.data, seed=self.seed)
            for weight in self.original.params(node)
        )

    @property
    def rebuilt(self) -> Rebuilt | None:
        return self.original.rebuilt

    def uses_rebuilt(self, node: Node) -> bool:
        return self.original.uses_rebuilt(node)

    @property
    def unused_tokens(self) -> range:
        return self.original.unused_tokens


def perturbed(model: Model, seed: int) -> Model:
    """`model` with disturbed weights, for evaluators that ask for what `PerturbedModel` has."""
    return cast(Model, PerturbedModel(model.config, model.graph, model, seed))
