"""What a fault computes with: the model, the node, the arithmetic of the run, and its own parameters."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.protocol import NodeCall
from aprtui.engine.reference.evaluate import evaluate
from aprtui.engine.rounding import ROUND, Arithmetic
from aprtui.model.config import ModelConfig
from aprtui.model.model import Model
from aprtui.model.weights import Weight
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ConfiguredModel:
    """A model with another configuration; it has what `evaluate` reads of a model."""

    config: ModelConfig
    graph: StageGraph
    original: Model

    def params(self, node: Node) -> tuple[Weight, ...]:
        return self.original.params(node)


@dataclass(slots=True)
class FaultSetting:
    """One fault in one run. `memory` holds rows of earlier positions."""

    model: Model
    arithmetic: Arithmetic
    node: Node
    parameters: Mapping[str, float]
    memory: dict[str, Array] = field(default_factory=dict)

    def index(self, name: str, size: int) -> int:
        """A parameter that counts something of which there are `size`: the last one at most."""
        return min(int(self.parameters[name]), size - 1)

    def positions(self, call: NodeCall) -> range:
        """The position of each row of the output; a call may want the last rows only."""
        end = call.position + len(call.tokens)
        return range(end - call.output.shape[-2], end)

    def evaluated(
        self, call: NodeCall, *, config: ModelConfig | None = None, inputs: tuple[Array, ...] | None = None,
        node: Node | None = None, shift: int = 0,
    ) -> Array:  # fmt: skip
        """The op of the node computed in another way: with another configuration, inputs, weights or positions."""
        model = self.model if config is None else cast(Model, ConfiguredModel(config, self.model.graph, self.model))
        with np.errstate(invalid="ignore", over="ignore"):
            return evaluate(
                model, node or call.node, inputs or call.inputs,
                tokens=call.tokens, position=self.positions(call).start + shift, arithmetic=self.arithmetic,
            )  # fmt: skip

    def with_rows(self, call: NodeCall, weight: Weight, offset: int, rows: Array) -> Array:
        """The output of a matrix product whose weight `weight` begins with other `rows`; its channels start at
        `offset` of the output."""
        rounded = ROUND[self.arithmetic.matmul_input(weight)](call.inputs[0])
        out = call.output.copy()
        product = rounded.astype(np.float64) @ rows.astype(np.float64).T
        out[:, offset : offset + rows.shape[0]] = product.astype(np.float32)
        return out

    def random(self, position: int) -> np.random.Generator:
        """Randomness that depends on seed, node and position alone, so prefill and decode see the same."""
        node = zlib.crc32(str(self.node).encode())
        return np.random.default_rng([int(self.parameters["seed"]), node, position])

    def configured(self, **changes: object) -> ModelConfig:
        return replace(self.model.config, **changes)  # type: ignore[arg-type]
