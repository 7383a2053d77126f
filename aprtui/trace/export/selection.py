"""What of a capture is exported: stages, layers, positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.errors import UsageError
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from aprtui.trace.select import ALL, parse_layers, parse_positions, select_nodes, select_stages


@dataclass(frozen=True, slots=True)
class ExportSelection:
    """The nodes of a capture that are exported, in execution order, and the positions; None for all."""

    capture: Capture
    nodes: tuple[Node, ...]
    positions: tuple[int, ...] | None

    @property
    def tokens(self) -> tuple[int, ...] | None:
        """The ids of the positions, where the capture has them."""
        ids = self.capture.tokens
        return ids if ids is None or self.positions is None else tuple(ids[at] for at in self.positions)

    def shape(self, node: Node) -> tuple[int, ...]:
        """The shape of what `values` gives."""
        shape = self._whole_shape(node)
        count = len(self.rows(node))
        return (shape[0], count, shape[2]) if self._is_map(node) else (count, *shape[1:])

    def rows(self, node: Node) -> tuple[int, ...]:
        """The positions of a node's rows (of an attention map: its queries): the selected ones that it has."""
        total, rows = self.capture.token_count, self._whole_shape(node)[1 if self._is_map(node) else 0]
        # Logits and states may be of the last position alone.
        first = total - 1 if rows == 1 and total else 0
        found = range(first, first + rows)
        return tuple(found if self.positions is None else (at for at in self.positions if at in found))

    def values(self, node: Node) -> NDArray[np.float32]:
        """The selected rows of a node. Raises `UnreadableError` for a broken file."""
        whole = self.capture.values(node).reshape(self._whole_shape(node))
        if self.positions is None:
            return whole
        total, is_map = self.capture.token_count, self._is_map(node)
        rows = whole.shape[1] if is_map else whole.shape[0]
        first = total - 1 if rows == 1 and total else 0
        at = [position - first for position in self.rows(node)]
        return whole[:, at] if is_map else whole[at]

    def _is_map(self, node: Node) -> bool:
        return self.capture.graph[node.stage].is_attention_map and self.capture.files[node].shape is not None

    def _whole_shape(self, node: Node) -> tuple[int, ...]:
        shape = self.capture.files[node].shape
        return (1, self.capture.values(node).size) if shape is None else shape


def select(capture: Capture, stages: str | None, layers: str | None, tokens: str | None) -> ExportSelection:
    """What `stages`, `layers` and `tokens` (all by default) mean in `capture`.

    Raises `UsageError` for a selection that selects nothing that is there.
    """
    graph = capture.graph
    names = select_stages(ALL if stages is None else stages, graph)
    chosen = select_nodes(graph, names, parse_layers(ALL if layers is None else layers, graph.layers))
    nodes = tuple(node for node in graph.nodes if node in chosen and node in capture.files)
    if not nodes:
        raise UsageError(f"{capture.path}: has none of the stages that are selected: see aprtui stats")
    if tokens is None:
        return ExportSelection(capture, nodes, None)
    if capture.token_count is None:
        raise UsageError(f"--tokens: {capture.path} does not say how many tokens it has")
    return ExportSelection(capture, nodes, tuple(sorted(parse_positions(tokens, capture.token_count))))


def tensor_names(selection: ExportSelection) -> Iterator[tuple[str, Node]]:
    """The name of each node as a path without suffix: `layer-0/attn_norm`, `final_norm`."""
    for node in selection.nodes:
        yield node.stage if node.layer is None else f"layer-{node.layer}/{node.stage}", node
