"""What an evaluator computed so far: what alternatives read beside the inputs of their node, where little of it was
captured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.protocol import NodeEvaluator
from aprtui.engine.replay.recompute import CapturedStages
from aprtui.trace.graph.stage import Node

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ComputedOrCaptured(Mapping[Node, Array]):
    """What was `computed` so far; of the rest what a capture holds."""

    computed: Mapping[Node, Array]
    stages: CapturedStages

    def __getitem__(self, node: Node) -> Array:
        if node in self.computed:
            return self.computed[node]
        if not self.stages.rows(node):
            raise KeyError(node)
        return self.stages.values(node)

    def __iter__(self) -> Iterator[Node]:
        yield from self.computed
        yield from (node for node in self.stages.capture.files if node not in self.computed)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True, slots=True)
class RememberingNodes:
    """`NodeEvaluator` that puts what it computes into `computed`, and keeps it for a layer and the one behind it."""

    engine: NodeEvaluator
    computed: dict[Node, Array]

    def evaluate(self, node: Node, inputs: Sequence[Array], *, tokens: Sequence[int], position: int) -> Array:
        """As the engine evaluates it."""
        found = self.engine.evaluate(node, inputs, tokens=tokens, position=position)
        if node.layer is not None:
            for old in [one for one in self.computed if one.layer is not None and one.layer < node.layer - 1]:
                del self.computed[old]
        self.computed[node] = found
        return found

    def close(self) -> None:
        """Nothing of its own to release."""
