"""The stages of a capture as the model shapes them: rows, columns and channel order are the model's.

T = tokens of the capture. A stage that holds the last position only has one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.align.layout import Layout
from aprtui.compare.survey import NOT_WRITTEN, written_values
from aprtui.model.model import Model
from aprtui.trace.capture import Capture
from aprtui.trace.graph import Node

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
