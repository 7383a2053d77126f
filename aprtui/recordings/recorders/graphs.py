"""Taking down the graph that llama.cpp executes, op by op, as its scheduler hands them out."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from aprtui.oracle.ggml import BufferUsage, Ggml, GgmlTensorPointer
from aprtui.recordings.element_types import element_type
from aprtui.recordings.format import OpGraph, OpNode, Root, RootKind, TensorView
from aprtui.recordings.memory import state_digest, view_of
from aprtui.recordings.ops.table import named_params
from aprtui.recordings.reading import extent
from aprtui.recordings.writing import RecordingWriter

_VIEWS = frozenset({"NONE", "RESHAPE", "VIEW", "PERMUTE", "TRANSPOSE"})
"""Ops that compute nothing."""
_SETS_ROWS = "SET_ROWS"
_INPUT_FLAG = 1

StateKey = tuple[str, int]
"""A state by name and address: a model with two caches has two of one name."""


@dataclass(slots=True)
class GraphTaker:
    """The graph of one pass. `weights` are the names that the model file has; `carried` the states of the graph before
    by where they lie, which this one leaves behind in `states`."""

    ggml: Ggml
    writer: RecordingWriter
    weights: frozenset[str]
    carried: dict[StateKey, int]
    states: dict[StateKey, int] = field(default_factory=dict)
    _roots: list[Root] = field(default_factory=list)
    _tensors: list[TensorView] = field(default_factory=list)
    _nodes: list[OpNode] = field(default_factory=list)
    _root_ids: dict[int, int] = field(default_factory=dict)
    _tensor_ids: dict[int, int] = field(default_factory=dict)

    def graph(self, label: str, position: int, count: int) -> OpGraph:
        return OpGraph(label, position, count, tuple(self._roots), tuple(self._tensors), tuple(self._nodes))

    def before(self, address: int) -> bool:
        """A tensor is about to be computed: take down its sources. Whether it computes anything."""
        tensor = _at(address).contents
        op = self.ggml.op(tensor)
        if op in _VIEWS:
            return False
        sources = [self._view(found) if (found := _address(source)) else None for source in tensor.src]
        while sources and sources[-1] is None:
            sources.pop()
        params = named_params(op, bytes(tensor.op_params))
        if "function" in params:
            params["function"] = self.ggml.function_name(op, params["function"])
        output, device = self._view(address, computed=True), self.ggml.buffer(tensor)[0]
        self._nodes.append(
            OpNode(op, tuple(sources), (output,), (None,), _name(tensor), params, device, op == _SETS_ROWS)
        )
        return True

    def after(self, address: int) -> None:
        """The tensor is computed: write what it holds."""
        node, pointer = self._nodes[-1], _at(address)
        size = extent(self._tensors[node.outputs[0]])
        data = self._set_rows(pointer, node) if node.rows else self.ggml.read(pointer, 0, size)
        self._nodes[-1] = replace(node, blobs=(self.writer.blob(data),))

    def _view(self, address: int, computed: bool = False) -> int:
        if address in self._tensor_ids:
            return self._tensor_ids[address]
        tensor = _at(address).contents
        storage = _address(tensor.view_src)
        root = self._root(storage or address, computed and not storage)
        number = self._tensor_ids[address] = len(self._tensors)
        self._tensors.append(self._as_view(tensor, root, tensor.view_offs if storage else 0))
        return number

    def _as_view(self, tensor: Any, root: int, offset: int) -> TensorView:
        kind = self.ggml.type_name(tensor.type)
        return TensorView(root, offset, tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1], kind, _name(tensor))

    def _root(self, address: int, computed: bool) -> int:
        """The storage of a tensor that is no view. One that no op has computed is a leaf: taken down as it is."""
        if address in self._root_ids:
            return self._root_ids[address]
        pointer, number = _at(address), len(self._roots)
        self._root_ids[address] = number
        view = self._as_view(pointer.contents, number, 0)
        root = Root(RootKind.SCRATCH, extent(view) if element_type(view.type) else 0, view.name)
        self._roots.append(root if computed else self._leaf(pointer, root, number))
        return number

    def _leaf(self, pointer: Any, root: Root, number: int) -> Root:
        tensor = pointer.contents
        usage = self.ggml.buffer(tensor)[1]
        if usage is BufferUsage.WEIGHTS and root.name in self.weights:
            return replace(root, kind=RootKind.WEIGHT)
        data = self.ggml.read(pointer, 0, root.bytes)
        if usage is BufferUsage.WEIGHTS:
            return replace(root, kind=RootKind.WEIGHT, blob=self.writer.blob(data))
        if usage is BufferUsage.COMPUTE or tensor.flags & _INPUT_FLAG:
            return replace(root, kind=RootKind.INPUT, blob=self.writer.blob(data))
        key = root.name, int(tensor.data)
        self.states[key] = number
        state = replace(root, kind=RootKind.STATE)
        if key in self.carried:
            return replace(state, carried=self.carried[key], digest=state_digest(data))
        return replace(state, blob=self.writer.blob(data))

    def _set_rows(self, pointer: Any, node: OpNode) -> bytes:
        """The rows that were written, in the order of the source; the rest of the cache is as it was."""
        target, source = self._tensors[node.outputs[0]], self._tensors[node.sources[0] or 0]
        indices = self._tensors[node.sources[1] or 0]
        data = np.frombuffer(self.ggml.read(pointer.contents.src[1], 0, extent(indices)), np.uint8)
        rows = view_of(data, replace(indices, offset=0))
        size, written = extent(replace(target, shape=(1, 1, 1, target.shape[3]))), []
        for i3, i2, i1 in np.ndindex(*source.shape[:3]):
            row = int(rows[0, i3 % rows.shape[1], i2 % rows.shape[2], i1])
            offset = i3 * target.strides[0] + i2 * target.strides[1] + row * target.strides[2]
            written.append(self.ggml.read(pointer, offset, size))
        return b"".join(written)


def _at(address: int) -> Any:
    return ctypes.cast(address, GgmlTensorPointer)


def _address(pointer: Any) -> int:
    """Where a pointer leads to; 0 for none."""
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0


def _name(tensor: Any) -> str:
    return str(tensor.name.decode(errors="replace"))
