"""One node to compute in another way, what that is computed with, and the evaluator that does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.faults.setting import ConfiguredModel
from aprtui.engine.protocol import NodeEvaluator
from aprtui.engine.reference.evaluate import NumpyNodes
from aprtui.model.config import ModelConfig, RopeAngles
from aprtui.model.model import Model
from aprtui.trace.graph import ENTRY, LAYER_OUTPUT, Node, Op, Part

Array = NDArray[np.float32]
Matrix = NDArray[np.float64]


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
        model = self.model
        config: ModelConfig = replace(model.config, **changes)  # type: ignore[arg-type]
        nodes = NumpyNodes(cast(Model, ConfiguredModel(config, model.graph, model)), self.angles)
        return nodes.evaluate(self.node, inputs or self.inputs, tokens=self.tokens, position=self.position)

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
        return x.reshape(len(x), -1, self.model.config.graph.head_dim)

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
