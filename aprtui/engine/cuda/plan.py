"""What one pass queues, cut where its results are handed out: launches, copies to the host, statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.cuda.driver import Driver, Launch
from aprtui.engine.cuda.lowering import Lowering, Pass, Places
from aprtui.engine.cuda.statistics import CountedNodes, Counting, StatisticsTable
from aprtui.engine.protocol import Taps
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph

_GAP = 1 << 14  # unneeded bytes that cost less to copy than a second copy
_ALIGNED = 16  # values at which tensors begin in the host's memory


@dataclass(frozen=True, slots=True)
class Tensor:
    """A stage tensor to be handed out, `shape` values at `offset` of the host's copy."""

    node: Node
    offset: int
    shape: tuple[int, ...]

    def view(self, staging: NDArray[np.float32]) -> NDArray[np.float32]:
        return staging[self.offset : self.offset + prod(self.shape)].reshape(self.shape)


@dataclass(frozen=True, slots=True)
class Copy:
    """`count` float32 values from `address` on the device to `offset` of the host's memory."""

    offset: int
    count: int
    address: int


@dataclass(frozen=True, slots=True)
class PassSegment:
    """Part of a pass after which its tapped stages are handed out, in the order of `nodes`."""

    launches: tuple[Launch, ...]
    nodes: tuple[Node, ...]
    counts: tuple[CountedNodes, ...]
    tensors: tuple[Tensor, ...]
    copies: tuple[Copy, ...]
    staged: int
    """Values of the host's memory that the copies need."""

    def queue(
        self, driver: Driver, table: StatisticsTable, staging: NDArray[np.float32], sums: NDArray[np.void]
    ) -> None:
        """Queue launches and copies; results go to `staging` and `sums`."""
        for launch in self.launches:
            driver.launch(launch)
        for copy in self.copies:
            driver.copy_out(staging[copy.offset : copy.offset + copy.count], copy.address)
        for count in self.counts:
            table.fetch(count, sums)


@dataclass(frozen=True, slots=True)
class PassPlan:
    """A pass in segments, and the records of all statistics in it."""

    segments: tuple[PassSegment, ...]
    records: NDArray[np.void]


def plan_for(lowering: Lowering, table: StatisticsTable, run: Pass, taps: Taps) -> PassPlan:
    """The plan of a pass: in one segment, or one a layer where stages are tapped that layers compute in turn."""
    graph, layers = lowering.graph, [*range(lowering.graph.layers), None]
    places = Places(graph, lowering.storage, run)
    counting = Counting(graph, places)

    def segment(of: Sequence[int | None]) -> PassSegment:
        launches = [launch for layer in of for launch in lowering.layer(layer, run)]
        launches += lowering.softmax_maps(of, run)
        has_logits = bool(run.wanted)
        nodes = [
            node for node in graph.nodes if node.layer in of and (has_logits or not graph[node.stage].holds_logits)
        ]
        counts = counting.add([node for node in nodes if node in taps.stats])
        launches += [table.launch(count) for count in counts]
        tensors, copies = _copies(graph, places, [node for node in nodes if node in taps.full])
        tapped = tuple(node for node in nodes if node in taps.full or node in taps.stats)
        staged = max((copy.offset + copy.count for copy in copies), default=0)
        return PassSegment(tuple(launches), tapped, counts, tuple(tensors), tuple(copies), staged)

    at_once = run.decode or not run.tapped
    segments = (segment(layers),) if at_once else tuple(segment((layer,)) for layer in layers)
    return PassPlan(segments, counting.records())


def _copies(graph: StageGraph, places: Places, nodes: Sequence[Node]) -> tuple[list[Tensor], list[Copy]]:
    """Tensors, and the copies that fetch them: those of one token lie side by side, and neighbours share a copy."""
    tensors, copies = list[Tensor](), list[Copy]()
    together = False
    for node in nodes:
        shape, address, side_by_side = _shape(graph, node, places.run), places.of(node), places.side_by_side(node)
        last = copies[-1] if copies else Copy(0, 0, 0)
        gap = address - last.address - 4 * last.count
        if together and side_by_side and 0 <= gap <= _GAP:
            copies[-1] = Copy(last.offset, (address - last.address) // 4 + prod(shape), last.address)
        else:
            copies.append(Copy(-(-(last.offset + last.count) // _ALIGNED) * _ALIGNED, prod(shape), address))
        together = side_by_side
        tensors.append(Tensor(node, copies[-1].offset + (address - copies[-1].address) // 4, shape))
    return tensors, copies


def _shape(graph: StageGraph, node: Node, run: Pass) -> tuple[int, ...]:
    stage = graph[node.stage]
    if stage.is_attention_map:
        return stage.width, run.tokens, run.map_stride
    return (run.wanted if stage.holds_logits else run.tokens), stage.width
