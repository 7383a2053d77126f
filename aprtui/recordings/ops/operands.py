"""What an op is given: its sources as values, its parameters, and the shape of what it makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aprtui.model.weights import Weight
from aprtui.recordings.element_types import weight_type
from aprtui.recordings.format import OpGraph, OpNode, OpSet, TensorView
from aprtui.recordings.memory import Values, four
from aprtui.trace.json_value import json_number

Array = NDArray[Any]


LAST_BIT = 2.0**-23
"""What no float32 engine can answer for, relative to a value."""


@dataclass(frozen=True, slots=True)
class OpWay:
    """One way that an honest engine may compute an op: `rounding` in words, empty where there is but one.

    `flips`: results in between are rounded to short floats, so that a last bit of float32 moves some of them by a step,
    in another engine others than here. `disturbance` is the relative size of a change of all sources for whose effect
    such an engine cannot answer.
    """

    values: Values
    rounding: str = ""
    flips: bool = False
    disturbance: float = LAST_BIT


OpWays = Iterator[OpWay]


class SourceValues(Protocol):
    """Where an op's sources are read: `Memory`, or values that stand in for it."""

    def raw(self, tensor: TensorView) -> Values:
        """A view as it lies in memory."""

    def values(self, tensor: TensorView) -> Values:
        """The values of a tensor: float64, or integers as they are."""


@dataclass(frozen=True, slots=True)
class Operands:
    """A node's sources as they are just before it runs; of ggml's ops all shapes have four dimensions."""

    node: OpNode
    sources: tuple[TensorView | None, ...]
    output: TensorView
    memory: SourceValues
    place: int = 0
    """Which of the node's outputs it is."""
    exact: bool = False
    """Whether the op is asked for without any rounding."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.output.shape)

    def has(self, index: int) -> bool:
        return index < len(self.sources) and self.sources[index] is not None

    def source(self, index: int) -> TensorView:
        """A source. Raises `LookupError` where the node has none of that number."""
        found = self.sources[index]
        if found is None:
            raise LookupError(f"source {index} is missing")
        return found

    def values(self, index: int) -> Values:
        """The values of a source: float64, or integers as they are."""
        return self.memory.values(self.source(index))

    def raw(self, index: int) -> Values:
        return self.memory.raw(self.source(index))

    def number(self, name: str) -> float:
        """A parameter that is a number. Raises `LookupError` or `TypeError` where it is missing, or is none."""
        value = json_number(self.node.params[name])
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"parameter {name} is {value!r:.40}, expected a number")
        return float(value)

    def whole(self, name: str) -> int:
        value = self.number(name)
        if not value.is_integer():
            raise ValueError(f"parameter {name} is {value}, expected a whole number")
        return int(value)

    def text(self, name: str) -> str:
        return str(self.node.params[name])

    def weight(self, index: int, i3: int, i2: int) -> Weight | None:
        """A matrix of a source as a quantised weight; None where it is of another type, or its rows lie apart."""
        tensor = self.source(index)
        kind = weight_type(tensor.type)
        if kind is None or not kind.format.is_quantised:
            return None
        raw = self.raw(index)[i3, i2]
        data = np.ascontiguousarray(raw).reshape(raw.shape[0], -1)
        return Weight(tensor.name, kind, data.shape[0], tensor.shape[3], data)


def operands_of(
    ops: OpSet, graph: OpGraph, node: OpNode, memory: SourceValues, place: int = 0, *, exact: bool = False
) -> Operands:
    """The operands of a node for one of its outputs."""
    shaped = four if ops is OpSet.GGML else lambda tensor: tensor
    sources = tuple(None if source is None else shaped(graph.tensors[source]) for source in node.sources)
    return Operands(node, sources, shaped(graph.tensors[node.outputs[place]]), memory, place, exact)
