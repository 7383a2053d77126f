"""The stages of a capture, and computing one from the nearest captured ones before it: those between are evaluated too.

Rows, columns and channel order are the model's. T = tokens of the capture; a stage that holds the last position only
has one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.align.layout import Layout
from aprtui.compare.survey import NOT_WRITTEN, written_values
from aprtui.engine.replay.arithmetic import Recomputation
from aprtui.model.model import Model
from aprtui.trace.capture import Capture
from aprtui.trace.graph import Node, Op, Stage

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Misfit:
    """A captured stage that does not fit the model at its node, and why."""

    reason: str


@dataclass(slots=True)
class CapturedStages:
    """Captured tensors by node; `layouts` holds the nodes whose order differs from the model's."""

    capture: Capture
    model: Model
    tokens: Sequence[int]
    layouts: dict[Node, Layout] = field(default_factory=dict)
    _misfits: dict[Node, Misfit] = field(default_factory=dict)

    def rows(self, node: Node) -> int:
        """Positions of `node` that the capture holds: T, 1 for the last, or 0 where none can be used."""
        if node not in self.capture.files or node in self._misfits:
            return 0
        raw = self.raw(node)
        return 0 if isinstance(raw, Misfit) else int(raw.shape[-2])

    def raw(self, node: Node) -> Array | Misfit:
        """The values of `node` as they lie in the file, in the model's shape. Raises `AprtError` for a broken file."""
        stage, total = self.model.graph[node.stage], len(self.tokens)
        values = written_values(self.capture, node)
        if values is None:
            return self._misfit(node, NOT_WRITTEN)
        if values.size == stage.size(total):
            return values.reshape(stage.shape(total))
        if values.size == stage.width and not stage.is_attention_map:
            return values.reshape(1, stage.width)
        shape = " × ".join(str(size) for size in stage.shape(total))
        return self._misfit(node, f"holds {values.size} values, the model has {shape} for {total} tokens")

    def _misfit(self, node: Node, reason: str) -> Misfit:
        self._misfits[node] = Misfit(reason)
        return self._misfits[node]

    def values(self, node: Node) -> Array:
        """The values of a node that `rows` counts, in the model's order; attention maps zero where key > query."""
        raw = self.raw(node)
        assert not isinstance(raw, Misfit)
        layout = self.layouts.get(node)
        values = raw if layout is None else layout.apply(raw)
        if not self.model.graph[node.stage].is_attention_map:
            return np.asarray(values)
        visible = np.tril(np.ones(values.shape[1:], np.bool_))
        return np.where(visible, values, np.float32(0))


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
            columns = self.model.config.graph.part(entry.part)
            inputs.append(_cut(tensor, stage, columns, rows, is_history=_is_history(stage, inputs)))
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


def _is_history(stage: Stage, before: Sequence[Array]) -> bool:
    """Whether the input after `before` reaches back over all positions: keys of the scores, values of the attention."""
    return stage.op in (Op.SCORES, Op.ATTEND) and len(before) == 1


def _cut(tensor: Array, stage: Stage, columns: slice, rows: int, *, is_history: bool) -> Array:
    if tensor.ndim == 3:
        return tensor[:, tensor.shape[1] - rows :]
    return tensor[:, columns] if is_history else tensor[tensor.shape[0] - rows :, columns]
