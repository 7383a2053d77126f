"""What is kept of a pass: a checksum of each row, a few bytes a stage and token, or the rows themselves."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph
from aprtui.trace.stats import Accumulator

Array = NDArray[np.float32]

_NOT_SEEN = -1


class RowDigests:
    """`TapSink` that keeps a CRC32 of each row of each node; of a row that comes twice, the later one."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self.by_node: dict[Node, NDArray[np.int64]] = {}

    def put(self, node: Node, position: int, values: Array | None, stats: Accumulator | None) -> None:
        if values is None or values.ndim != 2:
            return
        rows = self.by_node.setdefault(node, np.full(self._tokens, _NOT_SEEN, np.int64))
        for at, row in enumerate(values, position):
            rows[at] = zlib.crc32(row)

    def parted(self, other: RowDigests, graph: StageGraph) -> tuple[Node, int] | None:
        """The first node in execution order with a row that differs from `other`'s, and the first such token.

        Rows that one of the two lacks count for nothing.
        """
        for node in graph.nodes:
            mine, theirs = self.by_node.get(node), other.by_node.get(node)
            if mine is None or theirs is None:
                continue
            differing = np.flatnonzero((mine != theirs) & (mine != _NOT_SEEN) & (theirs != _NOT_SEEN))
            if differing.size:
                return node, int(differing[0])
        return None


class KeptRows:
    """`TapSink` that keeps the rows of the nodes it gets, by position."""

    def __init__(self) -> None:
        self._rows: defaultdict[Node, dict[int, Array]] = defaultdict(dict)

    def put(self, node: Node, position: int, values: Array | None, stats: Accumulator | None) -> None:
        if values is not None and values.ndim == 2:
            self._rows[node].update(enumerate(np.array(values), position))

    def row(self, node: Node, position: int) -> Array:
        """The row of `node` at `position`."""
        return self._rows[node][position]

    def shared(self, other: KeptRows, nodes: Sequence[Node]) -> Iterator[tuple[Node, list[int], Array, Array]]:
        """Of each node that both keep: the positions, and the rows of both there `[n, width]`."""
        for node in nodes:
            positions = sorted(self._rows[node].keys() & other._rows[node].keys())
            if positions:
                mine, theirs = (np.stack([kept.row(node, at) for at in positions]) for kept in (self, other))
                yield node, positions, mine, theirs


@dataclass(frozen=True, slots=True)
class PathLogits:
    """How the logits of the last token come out by another path: Kullback-Leibler divergence in nats (None where one
    side has no softmax), and the tokens that the two put first."""

    kl: float | None
    first: tuple[int, int]

    @property
    def flips(self) -> bool:
        """Whether another token comes first."""
        return self.first[0] != self.first[1]
