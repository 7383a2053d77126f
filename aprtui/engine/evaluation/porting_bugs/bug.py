"""A bug: how it computes the nodes that it is in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from aprtui.engine.alternatives.call import Array, StageCall, layers_with, middle_two
from aprtui.model.model import Model
from aprtui.trace.graph.ops import Op, Scope
from aprtui.trace.graph.stage import Node


class Layers(Enum):
    """Which layers have a bug, of those that have its stage: code that is wrong is wrong in all, a tensor that is wrong
    in one."""

    ALL = "all"
    MIDDLE = "the middle one"
    MIDDLE_TWO = "the middle one and the one behind it"

    def among(self, layers: Sequence[int]) -> Sequence[int]:
        """Those of `layers` that have a bug."""
        middle = len(layers) // 2
        if self is Layers.MIDDLE_TWO:
            return middle_two(layers)
        return layers if self is Layers.ALL else layers[middle : middle + 1]


@dataclass(frozen=True, slots=True)
class PortingBug:
    """How a bug computes the nodes it is in: those whose stage or op is one of `at`, in `layers` (stages that the model
    has once count as in all), where it `applies`.
    """

    compute: Callable[[StageCall], Array]
    at: tuple[str | Op, ...]
    layers: Layers = Layers.ALL
    applies: Callable[[Model, Node], bool] = lambda model, node: True

    def nodes(self, model: Model) -> frozenset[Node]:
        """Where the bug is in `model`; empty where `model` has nothing that it could be in."""
        graph = model.graph
        named = [node for node in graph.nodes if node.stage in self.at or graph[node.stage].op in self.at]
        return frozenset(node for node in named if self._in_layer(model, node) and self.applies(model, node))

    def _in_layer(self, model: Model, node: Node) -> bool:
        if self.layers is Layers.ALL or node.layer is None or model.graph[node.stage].scope is not Scope.LAYER:
            return True
        return node.layer in self.layers.among(layers_with(model, node.stage))
