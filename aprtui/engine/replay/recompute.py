"""The stages of a capture, and computing one from the nearest captured ones before it: those between are evaluated too.

Rows, columns and channel order are the model's. T = tokens of the capture; a stage that holds the last positions only
has as many rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.align.layout import Layout
from aprtui.compare.align.saved_as_inf import is_saved_as_inf
from aprtui.compare.align.served_logits import ServedLogits, served_logits
from aprtui.compare.survey import Lost, held_values
from aprtui.engine.reference.history import rows_needed
from aprtui.engine.replay.arithmetic import Recomputation
from aprtui.engine.replay.disturbed import Disturb
from aprtui.model.model import Model
from aprtui.trace.capture import Capture
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node

Array = NDArray[np.float32]

_KEPT_VALUES = 1 << 24
"""Values of stages that stay at hand: every arithmetic that is tried asks for the same few layers."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """A captured stage that does not fit the model at its node, and why."""

    reason: str


@dataclass(slots=True)
class CapturedStages:
    """Captured tensors by node; `layouts` holds the nodes whose order differs from the model's.

    Of a capture of the last of the tokens only, `last` says how many those are. A file is opened and checked once, and
    again only after many others.
    """

    capture: Capture
    model: Model
    tokens: Sequence[int]
    last: int = 1
    layouts: dict[Node, Layout] = field(default_factory=dict)
    _found: dict[Node, Array | Misfit] = field(default_factory=dict)
    _kept: int = 0
    _saved_as_inf: dict[Node, bool] = field(default_factory=dict)
    _served: dict[Node, ServedLogits] = field(default_factory=dict)

    def is_saved_as_inf(self, node: Node) -> bool:
        """Whether saving made some of the values of a captured node Inf: what is computed from it needs them."""
        if node not in self._saved_as_inf:
            self._saved_as_inf[node] = is_saved_as_inf(self.capture, node, self.model.graph)
        return self._saved_as_inf[node]

    def rows(self, node: Node) -> int:
        """Positions of `node` that the capture holds, the last ones: T, `last`, 1, or 0 where none can be used."""
        if node not in self.capture.files:
            return 0
        raw = self.raw(node)
        return 0 if isinstance(raw, Misfit) else int(raw.shape[-2])

    def raw(self, node: Node) -> Array | Misfit:
        """The values of `node` as they lie in the file, in the model's shape."""
        if node not in self._found:
            self._found[node] = self._read(node)
            self._kept += _size(self._found[node])
            while self._kept > _KEPT_VALUES and len(self._found) > 1:
                self._kept -= _size(self._found.pop(next(iter(self._found))))
        return self._found[node]

    def _read(self, node: Node) -> Array | Misfit:
        stage, total = self.model.graph[node.stage], len(self.tokens)
        values = held_values(self.capture, node)
        if isinstance(values, Lost):
            return Misfit(values.reason)
        if stage.holds_indices and not _are_indices(values, self.model.config.graph.experts):
            return Misfit(f"holds what is no expert: the model has {self.model.config.graph.experts}")
        if stage.holds_logits:
            served = served_logits(values, stage.width, (1, self.last, total), self.model.unused_tokens)
            if isinstance(served, str):
                return Misfit(served)
            if served is not None:
                self._served[node] = served
                return served.values
        if values.size == stage.size(total):
            return values.reshape(stage.shape(total))
        if not stage.is_attention_map and values.size in (stage.width, stage.width * self.last):
            return values.reshape(-1, stage.width)
        shape = " × ".join(str(size) for size in stage.shape(total))
        return Misfit(f"holds {values.size} values, the model has {shape} for {total} tokens")

    def served_as(self, node: Node) -> str:
        """What else than plain logits a captured node holds, in words; empty for all others."""
        return self._served[node].words if self.rows(node) and node in self._served else ""

    def holds(self, node: Node) -> NDArray[np.bool_]:
        """Which values of a captured node are the engine's own: of logits some may be left out."""
        held = np.ones(self.raw(node).shape, np.bool_)  # type: ignore[union-attr]  # a node with rows is no misfit
        return held & ~self._served[node].left_out if self.served_as(node) else held

    def as_held(self, node: Node, values: Array) -> Array:
        """The last rows of a node, `values`, as the capture holds them: of logits some may be left out."""
        return self._served[node].alike(values) if self.served_as(node) else values

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


def _size(found: Array | Misfit) -> int:
    return 0 if isinstance(found, Misfit) else found.size


@dataclass(frozen=True, slots=True)
class Recomputed:
    """A stage from its nearest captured ancestors; `segment` are the nodes evaluated through, in execution order."""

    values: Array
    segment: tuple[Node, ...]


@dataclass(slots=True)
class Recomputer:
    """Recomputes nodes in graph order, always by one `recomputation`; stages evaluated on the way are cached while they
    may be needed again. `read` changes captured values before they are used."""

    model: Model
    stages: CapturedStages
    recomputation: Recomputation
    read: Disturb | None = None
    _cached: dict[Node, Array] = field(default_factory=dict)

    def recompute(self, node: Node, rows: int) -> Recomputed:
        """The last `rows` rows of `node`; of attention maps all."""
        for found in self._missing(node, rows):
            self._cached[found] = self._with_captured_rows(found, self._evaluate(found, self._all_rows(found)))
            self._forget_behind(found)
        return Recomputed(self._evaluate(node, rows), self.segment(node, rows))

    def on_the_way(self, node: Node, rows: int) -> dict[Node, Array]:
        """The stages that are evaluated for the last `rows` rows of `node`, attention maps included."""
        found: dict[Node, Array] = {}
        for source in self.segment(node, rows):
            found[source] = self._with_captured_rows(source, self._evaluate(source, self._all_rows(source)))
            self._cached[source] = found[source]
        return found

    def from_known(self, recomputation: Recomputation, known: Mapping[Node, Array]) -> Recomputer:
        """One that computes otherwise, what is `known` apart."""
        return Recomputer(self.model, self.stages, recomputation, self.read, dict(known))

    def segment(self, node: Node, rows: int) -> tuple[Node, ...]:
        """The nodes that have to be evaluated for the last `rows` rows of `node`, in execution order."""
        return self._before(node, rows, frozenset())

    def forget_before(self, layer: int) -> None:
        """Drop cached stages of layers before `layer`, except the output that enters it."""
        for node in [n for n in self._cached if n.layer is not None and n.layer < layer - 1]:
            del self._cached[node]

    def _missing(self, node: Node, rows: int) -> tuple[Node, ...]:
        return self._before(node, rows, self._cached.keys())

    def _before(self, node: Node, rows: int, known: Collection[Node]) -> tuple[Node, ...]:
        graph, total = self.model.graph, len(self.stages.tokens)
        found: set[Node] = set()
        pending = [(node, rows)]
        while pending:
            current, needed = pending.pop()
            for index, source in enumerate(graph.inputs(current)):
                least = rows_needed(graph[current.stage].op, index, needed, total)
                if least and source not in found and source not in known and not self._can_be_read(source, least):
                    found.add(source)
                    pending.append((source, self._all_rows(source)))
        return tuple(sorted(found, key=lambda source: graph.order[source]))

    def _evaluate(self, node: Node, rows: int) -> Array:
        inputs, position = self.inputs(node, rows), len(self.stages.tokens) - rows
        found = self.recomputation.evaluate(node, inputs, self.stages.tokens[position:], position)
        return self.stages.as_held(node, found)

    def inputs(self, node: Node, rows: int) -> list[Array]:
        """What the last `rows` rows of `node` are computed from, once its `segment` was evaluated."""
        stage, graph, total = self.model.graph[node.stage], self.model.graph, len(self.stages.tokens)
        inputs: list[Array] = []
        for index, (entry, source) in enumerate(zip(graph.entries(node), graph.inputs(node), strict=True)):
            needed = rows_needed(stage.op, index, rows, total)
            columns = self.model.config.graph.part(entry.part)
            if needed:
                inputs.append(_cut(self._input(source, needed), columns, needed))
            else:
                inputs.append(np.empty((0, graph[source.stage].width), np.float32)[:, columns])
        return inputs

    def _all_rows(self, node: Node) -> int:
        """Rows of a node that is evaluated on the way to another one; of a state, that after the last token."""
        return 1 if self.model.graph[node.stage].holds_state else len(self.stages.tokens)

    def _input(self, source: Node, rows: int) -> Array:
        return self._captured(source) if self._can_be_read(source, rows) else self._cached[source]

    def _can_be_read(self, source: Node, rows: int) -> bool:
        return self.stages.rows(source) >= rows and not self.stages.is_saved_as_inf(source)

    def _captured(self, node: Node) -> Array:
        values = self.stages.values(node)
        return values if self.read is None else self.read(node, values)

    def _with_captured_rows(self, node: Node, values: Array) -> Array:
        """`values` of all positions, those that the capture does hold as it holds them."""
        held = self.stages.rows(node)
        if not held or self.model.graph[node.stage].is_attention_map:
            return values
        captured = self._captured(node)
        if self.stages.is_saved_as_inf(node):
            captured = np.where(np.isinf(captured), values[-held:], captured)
        return np.concatenate([values[:-held], captured])

    def _forget_behind(self, node: Node) -> None:
        """Maps are used once and large; of the layers before, only what entered this one is needed."""
        if self.model.graph[node.stage].op is Op.ATTEND:
            for found in [n for n, tensor in self._cached.items() if tensor.ndim == 3 and n.layer == node.layer]:
                del self._cached[found]
        if node.layer is not None:
            self.forget_before(node.layer)


def _are_indices(values: Array, count: int) -> bool:
    """Whether all values are integers from 0 to `count` − 1."""
    return bool(((values >= 0) & (values < count) & (values == np.floor(values))).all())


def _cut(tensor: Array, columns: slice, rows: int) -> Array:
    if tensor.ndim == 3:
        return tensor[:, tensor.shape[1] - rows :]
    return tensor[tensor.shape[0] - rows :, columns]
