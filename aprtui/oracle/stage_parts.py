"""Stages put together from what the tensors of llama.cpp's graphs hold: rows of tokens, parts side by side, maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import SupportsFloat

import numpy as np
from numpy.typing import NDArray

from aprtui.oracle.llamacpp_stages import StagePlace
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node, Stage
from aprtui.trace.graph.stage_graph import StageGraph

Floats = NDArray[np.float32]


@dataclass(slots=True)
class StageParts:
    """Gives each stage of the `graph` to `put` when all of it is there; scores wait for the softmax, whose op begins
    with their scale."""

    graph: StageGraph
    put: Callable[[Node, Floats], None]
    _passed: dict[Node, list[Node]] = field(default_factory=dict)
    """Nodes that are another one as it is."""
    _parts: dict[Node, dict[int, Floats]] = field(default_factory=dict)
    _scores: Floats | None = None

    def __post_init__(self) -> None:
        for node in filter(self.graph.passes_through, self.graph.nodes):
            self._passed.setdefault(self.graph.inputs(node)[0], []).append(node)

    def passed(self, node: Node) -> list[Node]:
        """The nodes that are `node` as it is."""
        return self._passed.get(node, [])

    def take(
        self, place: StagePlace, values: Floats, count: int, keys: int, scale: Callable[[], SupportsFloat]
    ) -> None:
        """Take what the tensor at `place` holds, `[ne3, ne2, ne1, ne0]`, of `count` tokens that see `keys` positions.

        `scale` is the first parameter of its op. Raises `ValueError` where the values are no rows of tokens.
        """
        node, stage = place.node, self.graph[place.node.stage]
        if not stage.is_attention_map:
            values = values.swapaxes(1, 2) if place.heads_first else values
            rows = values.reshape(1 if stage.holds_state else count, -1)
            self._put_part(place, np.asarray(self._without_repeats(rows, stage, values.shape[-1]), np.float32))
            return
        maps = np.ascontiguousarray(values[0, :, :, :keys], np.float32)
        if node.stage == "attn_scores":
            self._scores = maps
            return
        if stage.op is Op.SOFTMAX and self._scores is not None:
            self._put(Node(node.layer, "attn_scores"), self._scores * np.float32(float(scale())))
            self._scores = None
        self._put(node, maps)

    def _without_repeats(self, rows: NDArray[np.generic], stage: Stage, head_size: int) -> NDArray[np.generic]:
        """Heads of keys and queries of a recurrence once, which may be there for each of their value heads."""
        config = self.graph.config
        if config is not None and config.grouped_value_heads and stage.op is Op.HEAD_L2_NORM:
            heads = rows.reshape(len(rows), -1, head_size)
            found = heads.reshape(len(rows), config.linear_key_heads or _different(heads), -1, head_size)
            return found[:, :, 0].reshape(len(rows), -1)
        return rows[:, : stage.width or None]

    def _put_part(self, place: StagePlace, rows: Floats) -> None:
        if place.parts == 1:
            self._put(place.node, rows)
            return
        parts = self._parts.setdefault(place.node, {})
        parts[place.part] = rows
        if len(parts) == place.parts:
            del self._parts[place.node]
            self._put(place.node, np.concatenate([parts[index] for index in range(place.parts)], 1))

    def _put(self, node: Node, values: Floats) -> None:
        self.put(node, np.ascontiguousarray(values))
        for passed in self.passed(node):
            assert self.graph.config is not None
            part = self.graph.entries(passed)[0].part
            self.put(passed, np.ascontiguousarray(values[:, self.graph.config.part(part)]))


def _different(heads: NDArray[np.generic]) -> int:
    """How many heads of `[tokens, heads, channels]` there are where each stands there several times in a row."""
    is_new = (heads[:, 1:] != heads[:, :-1]).any(axis=(0, 2))
    count = 1 + int(np.count_nonzero(is_new))
    return count if heads.shape[1] % count == 0 else heads.shape[1]
