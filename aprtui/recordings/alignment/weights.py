"""Which weights of two recordings are the same, told by their values: names differ, and so may types and orders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.cpu.matmul import decoded_rows
from aprtui.model.weights import Weight
from aprtui.recordings.element_types import weight_type
from aprtui.recordings.format import OpGraph, RootKind, TensorView
from aprtui.recordings.memory import NamedWeights, values_of, view_of
from aprtui.recordings.reading import Recording

Array = NDArray[np.float64]

SAME = 0.2
"""The most that signatures of one weight in two types differ by: 4-bit types err by 0.08, other weights by 1.4."""
_EXACT = 1e-4
"""The same of rows that stand in another order, whose sorted signatures alone are compared."""
_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class WeightMatch:
    """A weight of A and its counterpart in B. `error` is how far their signatures are apart.

    Row `rows_a[i]` of A's is row `rows_b[i]` of B's; None where they stand in the same order.
    """

    a: str
    b: str
    error: float
    rows_a: NDArray[np.intp] | None = None
    rows_b: NDArray[np.intp] | None = None


def matrices(graph: OpGraph) -> dict[str, TensorView]:
    """The matrices of weights `[rows, columns]` that a graph has, whole and row after row, by name."""
    found: dict[str, TensorView] = {}
    for tensor in graph.tensors:
        root = graph.roots[tensor.root]
        if root.kind is not RootKind.WEIGHT or tensor.offset:
            continue
        shape, strides = tensor.shape, tensor.strides
        while len(shape) > 2 and shape[0] == 1:
            shape, strides = shape[1:], strides[1:]
        if len(shape) == 2 and strides[0] < strides[1]:
            shape, strides = shape[::-1], strides[::-1]  # a transposed view, as PyTorch multiplies by
        if len(shape) == 2 and min(shape) > 1 and shape[0] * strides[0] == root.bytes:
            found.setdefault(root.name, TensorView(tensor.root, 0, shape, strides, tensor.type, root.name))
    return found


def signature(recording: Recording, graph: OpGraph, weights: NamedWeights, matrix: TensorView) -> Array:
    """A number for each row: its product with one random vector, the same for all matrices of that many columns."""
    rows, columns = matrix.shape
    direction = np.random.default_rng(columns).standard_normal(columns)
    out = np.empty(rows)
    for start, values in _rows(recording, graph, weights, matrix):
        out[start : start + len(values)] = values @ direction
    return out


def _rows(
    recording: Recording, graph: OpGraph, weights: NamedWeights, matrix: TensorView
) -> Iterator[tuple[int, Array]]:
    root = graph.roots[matrix.root]
    data = recording.blob(root.blob) if root.blob else weights.weight_bytes(root.name, root.bytes)
    if data is None:
        raise LookupError(f"weight {root.name} is not there")
    rows, columns = matrix.shape
    kind, step = weight_type(matrix.type), max(1, _CHUNK // columns)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        if kind is not None and kind.format.is_quantised:
            weight = Weight(matrix.name, kind, rows, columns, data.reshape(rows, -1))
            yield start, decoded_rows(weight, start, stop).astype(np.float64)
        else:
            part = TensorView(0, start * matrix.strides[0], (stop - start, columns), matrix.strides, matrix.type)
            yield start, values_of(view_of(data, part), part)


def matched_weights(a: Mapping[str, Array], b: Mapping[str, Array], columns: Mapping[str, int]) -> list[WeightMatch]:
    """Each weight of A with its counterpart among those of B, by signatures; `columns` of the names of either side.

    None for a weight that has none, or several.
    """
    found = []
    for name, mine in a.items():
        others = {
            other: theirs for other, theirs in b.items()
            if theirs.shape == mine.shape and columns[f"a:{name}"] == columns[f"b:{other}"]
        }  # fmt: skip
        match = _nearest(name, mine, others)
        if match is not None:
            found.append(match)
    return found


def _nearest(name: str, mine: Array, others: Mapping[str, Array]) -> WeightMatch | None:
    plain = [(error, other) for other, theirs in others.items() if (error := _apart(mine, theirs)) <= SAME]
    if plain:
        error, other = min(plain)
        near = [entry for entry in plain if entry[0] <= 2 * error + 1e-9]
        return WeightMatch(name, other, error) if len(near) == 1 else None
    order = np.argsort(mine, kind="stable")
    turned = [
        (error, other, np.argsort(theirs, kind="stable")) for other, theirs in others.items()
        if (error := _apart(mine[order], np.sort(theirs))) <= _EXACT
    ]  # fmt: skip
    if len(turned) != 1:
        return None
    return WeightMatch(name, turned[0][1], turned[0][0], order, turned[0][2])


def _apart(mine: Array, theirs: Array) -> float:
    norm = float(np.linalg.norm(theirs))
    return float(np.linalg.norm(mine - theirs)) / norm if norm else float(np.linalg.norm(mine) > 0)
