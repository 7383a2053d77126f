"""A recorded graph in exact arithmetic: every value in float64, whatever the engine keeps it in.

Caches of float16 or of blocks keep float64 too, so that what two engines round differently drops out, and what is left
between them is what their graphs mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from aprtui.recordings.element_types import PLAIN, element_type
from aprtui.recordings.format import OpGraph, OpNode, Root, RootKind, TensorView
from aprtui.recordings.memory import Bytes, NamedWeights, Values, four, values_of, view_of
from aprtui.recordings.ops.operands import Operands, operands_of
from aprtui.recordings.ops.table import row_of
from aprtui.recordings.reading import Recording

Array = NDArray[np.float64]

Cut = Callable[[int, Operands], Values | None]
"""What stands in for the output of a node, by its number and operands; None where it is computed."""
Seen = Callable[[int, Values], None]
"""Called for each node with its number and its first output."""


@dataclass(frozen=True, slots=True)
class _Wide:
    """A root as float64: `per` values for each `unit` bytes that it has in the recording."""

    values: Array
    unit: int
    per: int

    def view(self, tensor: TensorView) -> Array | None:
        """The values of a tensor over it; None where the tensor lies between values."""
        steps = [*tensor.strides[:-1]]
        if any(step % self.unit for step in (*steps, tensor.offset)):
            return None
        last = tensor.strides[-1] // self.unit * self.per if self.per == 1 and tensor.strides else 1
        strides = [step // self.unit * self.per * 8 for step in steps]
        strides += [last * 8] if tensor.shape else []
        offset = tensor.offset // self.unit * self.per * 8
        if 0 in tensor.shape:
            return np.zeros(tensor.shape)
        return np.ndarray(tensor.shape, np.float64, self.values.data, offset, strides)


@dataclass(slots=True)
class ExactRun:
    """The graphs of a recording in order; states go on from graph to graph.

    `unmodelled` are ops that no row computes: what was recorded stands in for them, though the engine did not compute
    it from these values, so everything behind is in doubt until `cut` gives values again.
    """

    recording: Recording
    weights: NamedWeights
    unmodelled: list[str] = field(default_factory=list)
    _graph: OpGraph | None = None
    _doubtful: set[int] = field(default_factory=set)
    """Roots that hold values in doubt."""
    _wide: dict[int, _Wide] = field(default_factory=dict)
    _plain: dict[int, Bytes] = field(default_factory=dict)

    def again(self) -> ExactRun:
        """A run that goes on from the states of this one, and leaves them as they are."""
        wide = {index: _Wide(root.values.copy(), root.unit, root.per) for index, root in self._wide.items()}
        plain = {index: data.copy() for index, data in self._plain.items()}
        return ExactRun(self.recording, self.weights, [], self._graph, set(self._doubtful), wide, plain)

    def run(self, graph: OpGraph, cut: Cut, seen: Seen) -> None:
        """Compute a graph; where `cut` gives values, a node has those in place of what it would compute."""
        self._begin(graph)
        last = _last_uses(graph, self._carried_on(graph))
        ops = self.recording.header.ops
        for index, node in enumerate(graph.nodes):
            for place, output in enumerate(node.outputs):
                operands = operands_of(ops, graph, node, self, place, exact=True)
                given = cut(index, operands) if place == 0 else None
                found = self._computed(node, operands) if given is None else given
                if place == 0:
                    seen(index, found)
                self._mark(node, output, cut=given is not None)
                self._store(node, graph.tensors[output], operands, found)
            for root in last.get(index, ()):
                self._wide.pop(root, None)
                self._plain.pop(root, None)

    def _mark(self, node: OpNode, output: int, *, cut: bool) -> None:
        """Whether the root that a node has written holds values in doubt."""
        assert self._graph is not None
        root = self._graph.tensors[output].root
        if not cut and (node.op in self.unmodelled or self.in_doubt(node)):
            self._doubtful.add(root)
        elif not node.rows:
            self._doubtful.discard(root)

    def in_doubt(self, node: OpNode) -> bool:
        """Whether a node reads values in doubt."""
        assert self._graph is not None
        return any(self._graph.tensors[s].root in self._doubtful for s in node.sources if s is not None)

    def _carried_on(self, graph: OpGraph) -> set[int]:
        """The roots that the graph behind goes on from."""
        graphs = self.recording.graphs
        behind = next((after for before, after in pairwise(graphs) if before is graph), None)
        return {root.carried for root in behind.roots if root.carried is not None} if behind else set()

    def _begin(self, graph: OpGraph) -> None:
        before, doubtful, self._graph = (self._wide, self._plain), self._doubtful, graph
        self._doubtful = {index for index, root in enumerate(graph.roots) if root.carried in doubtful}
        self._wide, self._plain = {}, {}
        kinds: dict[int, set[str]] = {}
        for tensor in graph.tensors:
            kinds.setdefault(tensor.root, set()).add(tensor.type)
        for index, root in enumerate(graph.roots):
            if root.kind is RootKind.WEIGHT:
                continue
            if root.carried is not None and root.blob is None:
                if root.carried in before[0]:
                    self._wide[index] = before[0][root.carried]
                else:
                    self._plain[index] = before[1][root.carried]
                continue
            wide = _widened(root, kinds.get(index, set()), self._content(root))
            if wide is None:
                self._plain[index] = np.array(self._content(root))
            else:
                self._wide[index] = wide

    def _content(self, root: Root) -> Bytes:
        return np.zeros(root.bytes, np.uint8) if root.blob is None else self.recording.blob(root.blob)

    def _computed(self, node: OpNode, operands: Operands) -> Values:
        row = row_of(self.recording.header.ops, node.op)
        if row is None:
            return self._recorded(node, operands)
        try:
            found = np.asarray(next(iter(row.compute(operands))).values)
        except (LookupError, TypeError, ValueError, NotImplementedError, ArithmeticError):
            return self._recorded(node, operands)
        if not node.rows and found.shape != operands.shape:
            return self._recorded(node, operands)
        return found

    def _recorded(self, node: OpNode, operands: Operands) -> Values:
        self.unmodelled.append(node.op)
        return recorded_output(self.recording, node, operands)

    def raw(self, tensor: TensorView) -> Values:
        assert self._graph is not None
        root = self._graph.roots[tensor.root]
        if root.kind is RootKind.WEIGHT:
            data = self.recording.blob(root.blob) if root.blob else self.weights.weight_bytes(root.name, root.bytes)
            if data is None:
                raise LookupError(f"weight {root.name} is not there")
            return view_of(data, tensor)
        wide = self._wide.get(tensor.root)
        view = None if wide is None else wide.view(tensor)
        return view_of(self._plain[tensor.root], tensor) if view is None else view

    def values(self, tensor: TensorView) -> Values:
        raw = self.raw(tensor)
        return np.array(raw) if raw.dtype == np.float64 else values_of(raw, tensor)

    def _store(self, node: OpNode, output: TensorView, operands: Operands, found: Values) -> None:
        if node.rows:
            _set_rows(self.raw(operands.output), self.raw(operands.source(1)), found)
        else:
            target = self.raw(output)
            target[...] = found.reshape(target.shape)


def _widened(root: Root, kinds: set[str], content: Bytes) -> _Wide | None:
    """A root of one type of real numbers as float64; None for another."""
    if len(kinds) != 1:
        return None
    (name,) = kinds
    kind = element_type(name)
    if kind is None or (name in PLAIN and PLAIN[name].kind != "f") or root.bytes % kind.block_bytes:
        return None
    count = root.bytes // kind.block_bytes * kind.block_values
    if root.blob is None:
        return _Wide(np.zeros(count), kind.block_bytes, kind.block_values)
    flat = TensorView(0, 0, (count,), (kind.block_bytes,), name)
    return _Wide(np.array(values_of(view_of(content, flat), flat)), kind.block_bytes, kind.block_values)


def _set_rows(target: Values, ids: Values, rows: Values) -> None:
    ids = four(ids)
    for i3 in range(rows.shape[0]):
        for i2 in range(rows.shape[1]):
            target[i3, i2][ids[0, i3 % ids.shape[1], i2 % ids.shape[2]]] = rows[i3, i2]


def _last_uses(graph: OpGraph, kept: set[int]) -> dict[int, list[int]]:
    """The scratch roots that nothing needs after a node, but for those that are `kept`."""
    last: dict[int, int] = {}
    for index, node in enumerate(graph.nodes):
        for tensor in (*node.sources, *node.outputs):
            if tensor is not None:
                last[graph.tensors[tensor].root] = index
    found: dict[int, list[int]] = {}
    for root, index in last.items():
        if graph.roots[root].kind is RootKind.SCRATCH and root not in kept:
            found.setdefault(index, []).append(root)
    return found


def recorded_output(recording: Recording, node: OpNode, operands: Operands) -> Values:
    """What was recorded as the first output of a node. Raises `LookupError` where nothing was."""
    blob = node.blobs[0]
    if blob is None or node.rows:
        raise LookupError(f"{node.op} {node.name} has no output")
    tensor = operands.output
    placed = TensorView(0, 0, tensor.shape, tensor.strides, tensor.type)
    return values_of(view_of(recording.blob(blob), placed), placed)
