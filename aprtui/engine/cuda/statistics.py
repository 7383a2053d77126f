"""Statistics of stages: a table on the device of what is to be counted, and the sums.

Small tensors are counted by a block each, large ones by several whose sums are merged here. The table is the engine's,
not a pass's: a pass that differs from the one before puts its own records there first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.cuda.arguments import StageStatistics
from aprtui.engine.cuda.driver import Driver, Launch
from aprtui.engine.cuda.launches import Launches
from aprtui.engine.cuda.lowering import Places
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph
from aprtui.trace.stats import SUMS, Accumulator

RECORD = np.dtype(
    [("values", np.uint64), ("rows", np.int32), ("width", np.int32), ("stride", np.int32), ("queries", np.int32)]
)
"""`StageRecord` of statistics.cu."""

BLOCK_SUMS = np.dtype(
    [("total", np.float64), ("squares", np.float64), ("min", np.float32), ("max", np.float32)]
    + [(name, np.uint32) for name in ("count", "nan", "inf", "reserved")]
)
"""`StageSums` of statistics.cu."""

_PARTS = 16
_LARGE = 32768  # values; below that a second block costs more than it saves
_MERGE = {"min": np.minimum, "max": np.maximum}


@dataclass(frozen=True, slots=True)
class CountedNodes:
    """Nodes that one launch counts, `parts` blocks each."""

    nodes: tuple[Node, ...]
    places: NDArray[np.int64]
    """Of the nodes in execution order."""
    first_record: int
    first_sum: int
    parts: int

    def merged(self, sums: NDArray[np.void]) -> NDArray[np.void]:
        """Records of `SUMS` `[nodes]`, from those of the blocks."""
        count = len(self.nodes)
        blocks = sums[self.first_sum : self.first_sum + count * self.parts].reshape(count, self.parts)
        found = np.empty(count, SUMS)
        for name in SUMS.names or ():
            values = blocks[name]
            found[name] = values[:, 0] if self.parts == 1 else _MERGE.get(name, np.add).reduce(values, axis=1)
        return found

    def accumulators(self, sums: NDArray[np.void]) -> dict[Node, Accumulator]:
        return {node: Accumulator(*row) for node, row in zip(self.nodes, self.merged(sums).tolist(), strict=True)}


class StatisticsTable:
    """The records on the device, and the sums on both sides."""

    def __init__(self, driver: Driver, launches: Launches, graph: StageGraph, step: int) -> None:
        self._driver, self._launches, self._step = driver, launches, step
        nodes = len(graph.nodes)
        self._records = driver.allocate(nodes * RECORD.itemsize)
        self._sums = driver.allocate(nodes * _PARTS * BLOCK_SUMS.itemsize)
        self.sums: list[NDArray[np.void]] = [driver.pinned(nodes * _PARTS, BLOCK_SUMS) for _ in range(2)]
        """On the host, in two halves: one is read while the other is filled."""

    def install(self, records: NDArray[np.void]) -> None:
        """Put the records of a pass on the device."""
        if records.size:
            self._driver.upload(self._records, records)

    def launch(self, count: CountedNodes) -> Launch:
        arguments = StageStatistics(
            self._records + count.first_record * RECORD.itemsize, self._step, self._address(count)
        )
        return self._launches.stage_statistics(arguments, len(count.nodes), count.parts)

    def fetch(self, count: CountedNodes, sums: NDArray[np.void]) -> None:
        """Queue the copy of the sums of `count` to their place in `sums`."""
        region = sums[count.first_sum : count.first_sum + len(count.nodes) * count.parts]
        self._driver.copy_out(region, self._address(count))

    def _address(self, count: CountedNodes) -> int:
        return self._sums + count.first_sum * BLOCK_SUMS.itemsize


class Counting:
    """Collects the records of a pass, segment by segment."""

    def __init__(self, graph: StageGraph, places: Places) -> None:
        self._graph, self._places = graph, places
        self._records: list[tuple[int, int, int, int, int]] = []
        self._sums = 0

    def add(self, nodes: Sequence[Node]) -> tuple[CountedNodes, ...]:
        records = {node: self._record(node) for node in nodes}
        is_large = {node: rows * width > _LARGE for node, (_, rows, width, _, _) in records.items()}
        small, large = ([node for node in nodes if is_large[node] is wanted] for wanted in (False, True))
        return tuple(self._count(group, parts, records) for group, parts in ((small, 1), (large, _PARTS)) if group)

    def records(self) -> NDArray[np.void]:
        return np.array(self._records, RECORD)

    def _count(
        self, nodes: Sequence[Node], parts: int, records: dict[Node, tuple[int, int, int, int, int]]
    ) -> CountedNodes:  # fmt: skip
        places = np.array([self._graph.order[node] for node in nodes], np.int64)
        count = CountedNodes(tuple(nodes), places, len(self._records), self._sums, parts)
        self._records += [records[node] for node in nodes]
        self._sums += parts * len(nodes)
        return count

    def _record(self, node: Node) -> tuple[int, int, int, int, int]:
        stage, run = self._graph[node.stage], self._places.run
        if stage.is_attention_map:
            return self._places.of(node), stage.width * run.tokens, run.map_stride, run.map_stride, run.tokens
        rows = run.wanted if stage.holds_logits else run.tokens
        return self._places.of(node), rows, stage.width, stage.width, 0
