"""Taking down the graph that llama.cpp executes, op by op, as its scheduler hands them out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from aprtui.recordings.element_types import element_type
from aprtui.recordings.format import OpGraph, OpNode, Root, RootKind, TensorView
from aprtui.recordings.memory import state_digest, view_of
from aprtui.recordings.ops.table import named_params
from aprtui.recordings.reading import extent
from aprtui.recordings.recorders.ggml import COMPUTE_USAGE, VIEWS, WEIGHTS_USAGE, GgmlLibrary, GgmlTensor
from aprtui.recordings.writing import RecordingWriter

_SETS_ROWS = "SET_ROWS"


@dataclass(slots=True)
class GraphTaker:
    """The graph of one pass. `weights` are the names that the model file has; `carried` the states of the graph before
    by where they lie, which this one leaves behind in `states`."""

    ggml: GgmlLibrary
    writer: RecordingWriter
    weights: frozenset[str]
    carried: dict[tuple[str, int], int]
    states: dict[tuple[str, int], int] = field(default_factory=dict)
    _roots: list[Root] = field(default_factory=list)
    _tensors: list[TensorView] = field(default_factory=list)
    _nodes: list[OpNode] = field(default_factory=list)
    _seen: dict[int, GgmlTensor] = field(default_factory=dict)
    _root_ids: dict[int, int] = field(default_factory=dict)
    _tensor_ids: dict[int, int] = field(default_factory=dict)

    def graph(self, label: str, position: int, count: int) -> OpGraph:
        return OpGraph(label, position, count, tuple(self._roots), tuple(self._tensors), tuple(self._nodes))

    def before(self, pointer: int) -> bool:
        """A tensor is about to be computed: take down its sources. Whether it computes anything."""
        tensor = self._tensor(pointer)
        if tensor.op in VIEWS:
            return False
        sources = [self._view(source) if source else None for source in tensor.sources]
        while sources and sources[-1] is None:
            sources.pop()
        params = named_params(tensor.op, tensor.params)
        if "function" in params:
            name = self.ggml.glu_name if tensor.op == "GLU" else self.ggml.unary_name
            params["function"] = name(params["function"])
        output = self._view(pointer, computed=True)
        device = self.ggml.device(tensor)
        self._nodes.append(
            OpNode(tensor.op, tuple(sources), (output,), (None,), tensor.name, params, device, tensor.op == _SETS_ROWS)
        )
        return True

    def after(self, pointer: int) -> None:
        """The tensor is computed: write what it holds."""
        tensor, node = self._tensor(pointer), self._nodes[-1]
        view = self._tensors[node.outputs[0]]
        data = self._set_rows(tensor, node) if node.rows else self.ggml.read(tensor, 0, extent(view))
        self._nodes[-1] = replace(node, blobs=(self.writer.blob(data),))

    def _tensor(self, pointer: int) -> GgmlTensor:
        if pointer not in self._seen:
            self._seen[pointer] = self.ggml.tensor(pointer)
        return self._seen[pointer]

    def _view(self, pointer: int, computed: bool = False) -> int:
        if pointer in self._tensor_ids:
            return self._tensor_ids[pointer]
        tensor = self._tensor(pointer)
        root = self._root(tensor.view_of or pointer, computed and not tensor.view_of)
        offset = tensor.view_offset if tensor.view_of else 0
        view = TensorView(root, offset, tensor.dimensions[::-1], tensor.strides[::-1], tensor.type, tensor.name)
        number = self._tensor_ids[pointer] = len(self._tensors)
        self._tensors.append(view)
        return number

    def _root(self, pointer: int, computed: bool) -> int:
        """The storage of a tensor that is no view. One that no op has computed is a leaf: taken down as it is."""
        if pointer in self._root_ids:
            return self._root_ids[pointer]
        tensor = self._tensor(pointer)
        number = self._root_ids[pointer] = len(self._roots)
        view = TensorView(0, 0, tensor.dimensions[::-1], tensor.strides[::-1], tensor.type)
        size = extent(view) if element_type(tensor.type) else 0
        root = Root(RootKind.SCRATCH, size, tensor.name)
        self._roots.append(root if computed and tensor.op != "NONE" else self._leaf(tensor, root, number))
        return number

    def _leaf(self, tensor: GgmlTensor, root: Root, number: int) -> Root:
        usage = self.ggml.usage(tensor)
        if usage == WEIGHTS_USAGE and tensor.name in self.weights:
            return replace(root, kind=RootKind.WEIGHT)
        data = self.ggml.read(tensor, 0, root.bytes)
        if usage == WEIGHTS_USAGE:
            return replace(root, kind=RootKind.WEIGHT, blob=self.writer.blob(data))
        if usage == COMPUTE_USAGE or tensor.is_input:
            return replace(root, kind=RootKind.INPUT, blob=self.writer.blob(data))
        key = tensor.name, tensor.data  # names are not unique: a model with two caches has two of one name
        self.states[key] = number
        state = replace(root, kind=RootKind.STATE)
        if key in self.carried:
            return replace(state, carried=self.carried[key], digest=state_digest(data))
        return replace(state, blob=self.writer.blob(data))

    def _set_rows(self, tensor: GgmlTensor, node: OpNode) -> bytes:
        """The rows that were written, in the order of the source; the rest of the cache is as it was."""
        target, source = self._tensors[node.outputs[0]], self._tensors[node.sources[0] or 0]
        indices = self._tensor(tensor.sources[1])
        view = self._tensors[node.sources[1] or 0]
        rows = view_of(np.frombuffer(self.ggml.read(indices, 0, extent(view)), np.uint8), replace(view, offset=0))
        last = replace(target, shape=(1, 1, 1, target.shape[3]))
        size, written = extent(last), []
        for i3, i2, i1 in np.ndindex(*source.shape[:3]):
            row = int(rows[0, i3 % rows.shape[1], i2 % rows.shape[2], i1])
            offset = i3 * target.strides[0] + i2 * target.strides[1] + row * target.strides[2]
            written.append(self.ggml.read(tensor, offset, size))
        return b"".join(written)
