"""How one set of taps is served: the program that computes the statistics, and what is handed out after which layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.cpu.lowering import KernelProgram
from aprtui.engine.protocol import Taps
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph
from aprtui.trace.stats import SUMS, Accumulator


@dataclass(frozen=True, slots=True)
class Delivery:
    """A tapped node: whether its values are wanted, and its row of the statistics table (-1: no statistics)."""

    node: Node
    place: int
    """Of the node in execution order."""
    full: bool
    row: int
    logits: bool
    """Whether the node is handed out only with logits."""
    state: bool = False
    """Whether it has values for the last token only."""


@dataclass(frozen=True, slots=True)
class ProgramSegment:
    """Instructions up to `end`, run without a break, after which `deliveries` are handed out.

    With `cut`, they end with this node.
    """

    end: int
    deliveries: tuple[Delivery, ...]
    cut: Node | None
    full: tuple[Delivery, ...]
    """Those whose values are wanted."""
    places: NDArray[np.int64]
    """Of those with statistics `[n]`, in execution order: their places in it."""
    rows: NDArray[np.int64]
    """Of the same `[n]`: their rows of the table."""
    logits: NDArray[np.bool_]
    """Of the same `[n]`: whether they are handed out only with logits."""
    together: slice | None
    """The rows, where they are neighbours."""

    @classmethod
    def of(cls, end: int, deliveries: Sequence[Delivery], cut: Node | None = None) -> ProgramSegment:
        counted = [one for one in deliveries if one.row >= 0]
        full = tuple(one for one in deliveries if one.full)
        rows = np.array([one.row for one in counted], np.int64)
        return cls(
            end, tuple(deliveries), cut, full,
            np.array([one.place for one in counted], np.int64), rows, np.array([one.logits for one in counted], bool),
            slice(int(rows[0]), int(rows[-1]) + 1) if rows.size and np.all(np.diff(rows) == 1) else None,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class TapPlan:
    """One set of taps: its program, cut into segments. `table` takes a `SUMS` record for each node with statistics."""

    program: KernelProgram
    counters: NDArray[np.int64]
    """Two an instruction, see `CONTROL`."""
    durations: NDArray[np.int64]
    """Nanoseconds that each instruction took since `clear_durations`."""
    table: NDArray[np.void]
    layers: tuple[ProgramSegment, ...]
    """A segment a layer, so that a prompt can be interrupted, one for the stages of the model, one up to each cut."""
    steps: tuple[ProgramSegment, ...]
    """The same with fewer breaks: only where full tensors have to be handed out before a buffer is used again."""
    owned: NDArray[np.int64]
    """The instructions that compute nodes."""
    unowned: NDArray[np.bool_]
    """Which nodes `[nodes]` share the instructions of one before them."""

    def clear_durations(self) -> None:
        self.durations[:] = 0

    def node_seconds(self) -> NDArray[np.float32]:
        """Seconds `[nodes]` that the instructions of each node took; NaN where a node shares those of one before it."""
        owners, nodes = self.program.owners[self.owned], self.unowned.size
        sums = np.bincount(owners, weights=self.durations[self.owned], minlength=nodes) * 1e-9
        sums[self.unowned] = np.nan
        return sums.astype(np.float32)

    def sums(self, segment: ProgramSegment, *, logits: bool) -> tuple[NDArray[np.int64], NDArray[np.void]]:
        """Places in execution order and records of `SUMS` of what `segment` counts; logits only with `logits`.

        They are valid until the table is written again.
        """
        if logits and segment.together is not None:
            return segment.places, self.table[segment.together]
        taken = logits | ~segment.logits
        # As plain numbers: numpy takes records one by one, 0.3 ms for 80 layers.
        records = self.table.view(np.int64).reshape(self.table.size, -1)[segment.rows[taken]]
        return segment.places[taken], records.view(SUMS).reshape(-1)

    def accumulators(self, segment: ProgramSegment) -> list[Accumulator | None]:
        counted = [delivery.row for delivery in segment.deliveries if delivery.row >= 0]
        if not counted:
            return [None] * len(segment.deliveries)
        first = counted[0]
        rows = self.table[first : counted[-1] + 1].tolist()
        return [
            Accumulator(*rows[delivery.row - first]) if delivery.row >= 0 else None for delivery in segment.deliveries
        ]


def plan_for(program: KernelProgram, graph: StageGraph, taps: Taps) -> TapPlan:
    """The plan for `taps`, whose statistics `program` computes in the order of the graph."""
    rows = {node: row for row, node in enumerate(node for node in graph.nodes if node in taps.stats)}
    layers: list[ProgramSegment] = []
    for layer, end in program.ends.items():
        layers += [ProgramSegment.of(cut, (), node) for node, cut in program.cuts.items() if node.layer == layer]
        deliveries = tuple(
            Delivery(
                node,
                graph.order[node],
                node in taps.full,
                rows.get(node, -1),
                graph[node.stage].of_last_position,
                graph[node.stage].holds_state,
            )
            for node in graph.nodes
            if node.layer == layer and (node in taps.full or node in taps.stats)
        )
        layers.append(ProgramSegment.of(end, deliveries))
    table, count = np.zeros(len(rows), SUMS), len(program.instructions)
    counters, durations = np.zeros(2 * count, np.int64), np.zeros(count, np.int64)
    owned = np.flatnonzero(program.owners >= 0)
    unowned = np.bincount(program.owners[owned], minlength=len(graph.nodes)) == 0
    return TapPlan(program, counters, durations, table, tuple(layers), _joined(layers), owned, unowned)


def _joined(layers: Sequence[ProgramSegment]) -> tuple[ProgramSegment, ...]:
    segments: list[ProgramSegment] = []
    waiting: list[Delivery] = []
    for segment in layers:
        waiting += segment.deliveries
        if segment.cut or segment is layers[-1] or any(delivery.full for delivery in segment.deliveries):
            segments.append(ProgramSegment.of(segment.end, waiting, segment.cut))
            waiting = []
    return tuple(segments)
