"""One node to compute in another way, what that is computed with, and the evaluator that does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.protocol import NodeEvaluator
from aprtui.engine.reference.evaluate import NumpyNodes
from aprtui.model.config import ModelConfig, RopeAngles
from aprtui.model.model import Model
from aprtui.model.weights import Weight
from aprtui.trace.graph.ops import Op, Part
from aprtui.trace.graph.stage import ENTRY, LAYER_OUTPUT, Node
from aprtui.trace.graph.stage_graph import StageGraph

Array = NDArray[np.float32]
Matrix = NDArray[np.float64]


def layers_with(model: Model, stage: str) -> tuple[int, ...]:
    """The layers that have a stage: in a hybrid not all."""
    return tuple(layer for layer in range(model.graph.layers) if Node(layer, stage) in model.graph.order)


def middle_two(layers: Sequence[int]) -> Sequence[int]:
    """The middle one of `layers` and the one behind it; of two both."""
    middle = max(min(len(layers) // 2, len(layers) - 2), 0)
    return layers[middle : middle + 2]


@dataclass(frozen=True, slots=True)
class _ChangedModel:
    """A model of which numbers, or the parameters of one node, are others; it has what computing a node reads."""

    config: ModelConfig
    graph: StageGraph
    original: Model
    node: Node
    own_params: tuple[Weight, ...] | None = None

    def params(self, node: Node) -> tuple[Weight, ...]:
        return self.own_params if self.own_params is not None and node == self.node else self.original.params(node)


@dataclass(frozen=True, slots=True)
class StageCall:
    """One node to compute, as `NodeEvaluator` has it: inputs are rounded as the engine rounds them.

    `seen` are the stages that were computed before, of all layers.
    """

    model: Model
    angles: RopeAngles
    engine: NodeEvaluator
    seen: Mapping[Node, Array]
    node: Node
    inputs: tuple[Array, ...]
    tokens: Sequence[int]
    position: int

    @property
    def layer(self) -> int:
        """The layer of a node that has one."""
        assert self.node.layer is not None
        return self.node.layer

    @property
    def op(self) -> Op:
        return self.model.graph[self.node.stage].op

    @property
    def x(self) -> Array:
        """The first input, or the only one."""
        return self.inputs[0]

    def honest(self, *inputs: Array, node: Node | None = None, shift: int = 0) -> Array:
        """What the engine makes of the inputs, or of others; with the parameters of another node, at positions moved
        by `shift`."""
        return self.engine.evaluate(
            node or self.node, inputs or self.inputs, tokens=self.tokens, position=self.position + shift
        )

    def with_config(self, *inputs: Array, **changes: object) -> Array:
        """The same with numbers of the model changed, of `ModelConfig`."""
        return self.configured(**changes).honest(*inputs)

    def configured(self, **changes: object) -> StageCall:
        """This call of a model with other numbers, of `ModelConfig`."""
        config: ModelConfig = replace(self.model.config, **changes)  # type: ignore[arg-type]
        return self._of(_ChangedModel(config, self.model.graph, self.model, self.node))

    def with_params(self, *params: Weight) -> StageCall:
        """This call with other parameters of its node."""
        return self._of(_ChangedModel(self.model.config, self.model.graph, self.model, self.node, params))

    def _of(self, changed: _ChangedModel) -> StageCall:
        model = cast(Model, changed)
        return replace(self, model=model, engine=NumpyNodes(model, self.angles))

    def neighbour(self, step: int) -> Node:
        """The same stage in the next layer that has it (`step` 1), or in the one before (−1); around the ends."""
        layers = layers_with(self.model, self.node.stage)
        return Node(layers[(layers.index(self.layer) + step) % len(layers)], self.node.stage)

    def before(self, stage: str, part: Part = Part.WHOLE) -> Array:
        """What was computed as `stage` in this layer."""
        return self.seen[Node(self.node.layer, stage)][..., self.model.config.graph.part(part)]

    def layer_input(self, layer: int) -> Array:
        """What entered `layer`."""
        return self.seen[Node(layer - 1, LAYER_OUTPUT) if layer else Node(0, ENTRY)]

    def fused(self, layer: int, part: Part) -> Array:
        """Queries, keys or values of `layer`, before RoPE."""
        stage = "qkv_bias" if "qkv_bias" in self.model.graph else "qkv_matmul"
        return self.seen[Node(layer, stage)][:, self.model.config.graph.part(part)]

    def heads(self, x: Array) -> Array:
        """`x` `[T, heads · dim]` as `[T, heads, dim]`."""
        return x.reshape(len(x), -1, self.head_dim)

    @property
    def head_dim(self) -> int:
        """Channels of a head of the stage, or of what a map is made of."""
        return self.model.graph[self.node.stage].head_size or self.model.config.graph.head_dim

    def matrices(self) -> list[Matrix]:
        """The weights of a matrix product, dequantised `[rows, columns]`."""
        return [weight.dequantize().astype(np.float64) for weight in self.model.params(self.node)]

    def product(self, matrices: Sequence[Matrix]) -> Array:
        """The input times the transpose of each of `matrices`, side by side."""
        with np.errstate(invalid="ignore", over="ignore"):
            return np.concatenate([self.x.astype(np.float64) @ m.T for m in matrices], axis=1).astype(np.float32)


@dataclass(slots=True)
class AlternativeNodes:
    """`NodeEvaluator` that computes some `nodes` in another way; `seen` is what each node before came out as."""

    model: Model
    angles: RopeAngles
    engine: NodeEvaluator
    compute: Callable[[StageCall], Array]
    nodes: frozenset[Node]
    seen: Mapping[Node, Array]

    def evaluate(self, node: Node, inputs: Sequence[Array], *, tokens: Sequence[int], position: int) -> Array:
        if node not in self.nodes:
            return self.engine.evaluate(node, inputs, tokens=tokens, position=position)
        call = StageCall(self.model, self.angles, self.engine, self.seen, node, tuple(inputs), tokens, position)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            return np.ascontiguousarray(self.compute(call), np.float32)

    def close(self) -> None:
        """Nothing of its own to release."""
