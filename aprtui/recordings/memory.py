"""The memory of a recorded engine as its nodes find it: roots as bytes, tensors as views of them."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aprtui.errors import UnreadableError
from aprtui.model.weights import dequantized
from aprtui.recordings.element_types import BF16, PLAIN, element_type
from aprtui.recordings.format import OpGraph, OpNode, RootKind, TensorView
from aprtui.recordings.reading import Recording

Bytes = NDArray[np.uint8]
Values = NDArray[Any]


class NamedWeights(Protocol):
    """Where the weights of a recording are that it has by name only."""

    def weight_bytes(self, name: str, size: int) -> Bytes | None:
        """The bytes of a weight, at least `size` of them; None where there is none of that name and size."""


class Memory:
    """Walks the graphs of a recording in their order: `begin` a graph, then `store` what each of its nodes wrote."""

    def __init__(self, recording: Recording, weights: NamedWeights) -> None:
        self.recording, self._weights = recording, weights
        self.graph: OpGraph | None = None
        self._roots: dict[int, Bytes] = {}

    def begin(self, graph: OpGraph) -> list[str]:
        """Go on to `graph`; the names of states that the engine had changed since the graph before.

        Raises `UnreadableError` for a weight that is nowhere.
        """
        before, self._roots, self.graph, changed = self._roots, {}, graph, []
        for index, root in enumerate(graph.roots):
            if root.blob is not None:
                found = self.recording.blob(root.blob)
                self._roots[index] = np.array(found) if root.kind is not RootKind.WEIGHT else found
            elif root.kind is RootKind.WEIGHT:
                self._roots[index] = self._weight(root.name, root.bytes)
            elif root.kind is RootKind.STATE:
                assert root.carried is not None, "reading has checked it"
                self._roots[index] = before[root.carried]
                if root.digest and root.digest != state_digest(before[root.carried]):
                    changed.append(root.name or f"root {index}")
        return changed

    def _weight(self, name: str, size: int) -> Bytes:
        found = self._weights.weight_bytes(name, size)
        if found is None:
            raise UnreadableError(
                f"{self.recording.path}: weight {name} of {size} bytes is not in the model: give the recorded one with "
                "--model"
            )
        return found

    def root(self, index: int) -> Bytes:
        """A root as it is now; scratch is zero until it is written."""
        assert self.graph is not None
        if index not in self._roots:
            self._roots[index] = np.zeros(self.graph.roots[index].bytes, np.uint8)
        return self._roots[index]

    def raw(self, tensor: TensorView) -> Values:
        """A view as it lies: values of a plain type, uint16 of bfloat16, or the blocks `[…, blocks, block_bytes]`."""
        return view_of(self.root(tensor.root), tensor)

    def values(self, tensor: TensorView) -> Values:
        """The values of a tensor: float64, or integers as they are."""
        return values_of(self.raw(tensor), tensor)

    def store(self, node: OpNode) -> None:
        """Write what the node left behind."""
        assert self.graph is not None
        for output, blob in zip(node.outputs, node.blobs, strict=True):
            if blob is None:
                continue
            tensor, data = self.graph.tensors[output], self.recording.blob(blob)
            target = self._writable(tensor.root)
            if node.rows:
                for row, place in zip(data.reshape(len(rows := self.set_rows(node)), -1), rows, strict=True):
                    target[place : place + len(row)] = row
            else:
                target[tensor.offset : tensor.offset + len(data)] = data

    def _writable(self, index: int) -> Bytes:
        root = self.root(index)
        if not root.flags.writeable:
            root = self._roots[index] = np.array(root)
        return root

    def set_rows(self, node: OpNode) -> list[int]:
        """Where each row of the first source of a node goes that sets rows: offsets in the root of its output.

        Raises `UnreadableError` for an index beyond the rows there are.
        """
        assert self.graph is not None
        tensors = self.graph.tensors
        target, source, indices = tensors[node.outputs[0]], tensors[node.sources[0] or 0], tensors[node.sources[1] or 0]
        rows, places = four(self.raw(indices)), four(source)
        shape, strides = four(target).shape, four(target).strides
        found = []
        for i3, i2, i1 in np.ndindex(*places.shape[:3]):
            row = int(rows[0, i3 % rows.shape[1], i2 % rows.shape[2], i1])
            if not 0 <= row < shape[2]:
                raise UnreadableError(f"{self.recording.path}: {node.op} {node.name} sets row {row} of {shape[2]}")
            found.append(target.offset + i3 * strides[0] + i2 * strides[1] + row * strides[2])
        return found


def state_digest(data: Bytes | bytes) -> str:
    """What `Root.digest` holds of these bytes."""
    plain = data if isinstance(data, bytes) else data.tobytes()
    return hashlib.blake2b(plain, digest_size=16).hexdigest()


def four(of: Any) -> Any:
    """An array or a tensor with four dimensions, as ggml has them: leading ones where it has fewer."""
    missing = 4 - len(of.shape)
    if isinstance(of, np.ndarray):
        return of.reshape((1,) * missing + of.shape) if missing > 0 else of
    return replace(of, shape=(1,) * missing + of.shape, strides=(0,) * missing + of.strides) if missing > 0 else of


def view_of(root: Bytes, tensor: TensorView) -> Values:
    """A read-only view of the bytes of a root."""
    kind = element_type(tensor.type)
    assert kind is not None, "reading has checked it"
    shape, strides = tensor.shape, tensor.strides
    if kind.is_quantised:
        shape, strides = (*shape[:-1], shape[-1] // kind.block_values, kind.block_bytes), (*strides, 1)
        plain = np.dtype(np.uint8)
    else:
        plain = PLAIN.get(tensor.type, np.dtype("<u2"))
    if 0 in shape:
        return np.zeros(shape, plain)
    return np.ndarray(shape, plain, root.data, tensor.offset, strides)


def output_values(recording: Recording, graph: OpGraph, node: OpNode, place: int = 0) -> Values | None:
    """What was recorded as an output of a node, in its shape: the rows of a node that sets rows. None for nothing."""
    blob = node.blobs[place]
    if blob is None:
        return None
    tensor = graph.tensors[node.outputs[place]]
    if node.rows:
        tensor = packed(replace(tensor, shape=graph.tensors[node.sources[0] or 0].shape))
    placed = replace(tensor, root=0, offset=0)
    return values_of(view_of(recording.blob(blob), placed), placed)


def packed(tensor: TensorView) -> TensorView:
    """The tensor with its values side by side."""
    kind = element_type(tensor.type)
    assert kind is not None, "reading has checked it"
    sizes, strides = [*tensor.shape[:-1], tensor.shape[-1] // kind.block_values], [kind.block_bytes]
    for size in reversed(sizes[1:]):
        strides.insert(0, strides[0] * size)
    return replace(tensor, strides=tuple(strides))


def values_of(raw: Values, tensor: TensorView) -> Values:
    """The values that `raw` (see `view_of`) stands for: float64, or integers as they are."""
    if tensor.type in PLAIN:
        return raw.astype(np.float64) if raw.dtype.kind == "f" else raw
    if tensor.type == BF16:
        return (raw.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    columns = tensor.shape[-1]
    rows = np.ascontiguousarray(raw).reshape(math.prod(raw.shape[:-2]), -1)
    return dequantized(tensor.type.upper(), rows, columns).astype(np.float64).reshape(tensor.shape)
