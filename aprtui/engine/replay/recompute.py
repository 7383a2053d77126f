"""Computing a stage from the nearest captured stages before it: stages between them are evaluated on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.replay.arithmetic import Recomputation
from aprtui.engine.replay.captured import CapturedStages
from aprtui.model.model import Model
from aprtui.trace.graph import Node, Op, Part, Stage

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Recomputed:
    """A stage from its nearest captured ancestors; `segment` are the nodes evaluated through, in execution order."""

    values: Array
    segment: tuple[Node, ...]


@dataclass(slots=True)
class Recomputer:
    """Recomputes nodes in graph order; stages evaluated on the way are cached while they may be needed again."""

    model: Model
    stages: CapturedStages
    _cached: dict[Node, tuple[Array, frozenset[Node]]] = field(default_factory=dict)

    def recompute(self, node: Node, recomputation: Recomputation, rows: int) -> Recomputed:
        """The last `rows` rows of `node`; of attention maps all."""
        values, through = self._evaluate(node, recomputation, rows)
        order = self.model.graph.order
        return Recomputed(values, tuple(sorted(through, key=lambda found: order[found])))

    def forget_before(self, layer: int) -> None:
        """Drop cached stages of layers before `layer`, except the output that enters it."""
        for node in [n for n in self._cached if n.layer is not None and n.layer < layer - 1]:
            del self._cached[node]

    def _evaluate(self, node: Node, recomputation: Recomputation, rows: int) -> tuple[Array, frozenset[Node]]:
        stage, graph = self.model.graph[node.stage], self.model.graph
        inputs: list[Array] = []
        through: frozenset[Node] = frozenset()
        for entry, source in zip(stage.inputs, graph.inputs(node), strict=True):
            tensor, passed = self._input(source, recomputation)
            inputs.append(_cut(tensor, stage, self._columns(entry.part), rows, is_history=_is_history(stage, inputs)))
            through |= passed
        tokens = self.stages.tokens
        position = len(tokens) - rows
        return recomputation.evaluate(node, inputs, tokens[position:], position), through

    def _input(self, source: Node, recomputation: Recomputation) -> tuple[Array, frozenset[Node]]:
        total = len(self.stages.tokens)
        if self.stages.rows(source) == total:
            return self.stages.values(source), frozenset()
        if source not in self._cached:
            values, through = self._evaluate(source, recomputation, total)
            self._cached[source] = values, through | {source}
        return self._cached[source]

    def _columns(self, part: Part) -> slice:
        config = self.model.graph.config
        assert config is not None
        return config.part(part)


def _is_history(stage: Stage, before: Sequence[Array]) -> bool:
    """Whether the input after `before` reaches back over all positions: keys of the scores, values of the attention."""
    return stage.op in (Op.SCORES, Op.ATTEND) and len(before) == 1


def _cut(tensor: Array, stage: Stage, columns: slice, rows: int, *, is_history: bool) -> Array:
    if tensor.ndim == 3:
        return tensor[:, tensor.shape[1] - rows :]
    return tensor[:, columns] if is_history else tensor[tensor.shape[0] - rows :, columns]
