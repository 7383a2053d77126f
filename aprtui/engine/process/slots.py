"""Shared memory between an engine process and its app: a ring of the latest token records, the newest wins.

Layout: one `uint64` (records written so far), then `RING` records. Record i lies at i mod RING. Its two counters
`begin` and `end` hold i + 1 when it is whole; while it is written they differ, so a reader that finds them equal before
and after its copy has a record that is not torn (a seqlock). That rests on stores that become visible in program order,
as x86-64 promises. Other processors may reorder them, so there writer and reader lock the file as well.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import platform
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields, replace
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.protocol import Taps
from aprtui.engine.sampling import NO_TOKEN, Candidate, Choice
from aprtui.trace.experts import ROUTER_STAGES, ExpertCounts, counted_experts, router_gives_logits
from aprtui.trace.graph.stage import LAYER_OUTPUT, ROUTER_CHOICE, Node
from aprtui.trace.graph.stage_graph import StageGraph
from aprtui.trace.stats import SUMS, Accumulator

RING = 256
"""Token records in the ring: how far back a screen can go."""

STATS = np.dtype(
    [(name, np.uint32) for name in ("count", "nan", "inf")]
    + [(name, np.float32) for name in ("min", "max", "absmax", "mean", "rms")]
)
"""Statistics of one node; the float fields are NaN where no value is finite, `count` is 0 where nothing was tapped."""

CANDIDATE = np.dtype([("token", np.int32), ("probability", np.float32)])
"""A token and its probability in the model's own distribution; NO_TOKEN stands for none."""


def experts_type(experts: int) -> np.dtype[np.void]:
    """How the experts of one layer were chosen, as `trace.experts.ExpertCounts` counts: all of a generation so far."""
    return np.dtype([("dropped", np.uint32), ("entropy", np.float32), ("counts", np.uint32, (experts,))])


CANDIDATES = 10
"""Likeliest tokens that a record keeps."""

_NOT_COMPUTED = -2

_ORDERED = ("x86_64", "AMD64")
"""Machines, as `platform.machine` names them, that make stores visible to other processors in program order."""

_HEADER_BYTES = 64
_COUNTER_BYTES = 8


@dataclass(frozen=True, slots=True, eq=False)
class TokenRecord:
    """One token, the pass that chose it, and the statistics of every stage in that pass.

    `index` counts the tokens of the generation `run`; `position` is the token's place in the sequence; `evaluated` is
    the number of positions of the pass, which the statistics cover (for the first token what the engine did not hold of
    the prompt). Seconds and tokens/s are the engine's. `token` is NO_TOKEN where the pass gave no usable logits.
    `stats` is `[nodes]` of STATS, in the execution order of the graph; `stage_seconds` `[nodes]` as in `TimedEngine`,
    NaN throughout where the engine takes no times. `candidates` are the likeliest tokens, `[CANDIDATES]` of CANDIDATE;
    `lens` is the likeliest token after each layer, `[layers]` of CANDIDATE, or None where it was not computed. What is
    in use of a GPU is as in `DeviceUse`, NaN where the engine runs on none. `experts` is how the experts of each layer
    were chosen since the generation began, `[layers]` of `experts_type`; None where the model has none.
    """

    run: int
    index: int
    token: int
    position: int
    evaluated: int
    logprob: float
    probability: float
    entropy: float
    margin: float
    seconds: float
    time_to_first_token: float
    prefill_tokens_per_second: float
    tokens_per_second: float
    stats: NDArray[np.void]
    stage_seconds: NDArray[np.float32]
    candidates: NDArray[np.void]
    lens: NDArray[np.void] | None = None
    device_memory_used: float = math.nan
    device_memory: float = math.nan
    device_load: float = math.nan
    experts: NDArray[np.void] | None = None


_FIGURES = [(entry.name, entry.type) for entry in fields(TokenRecord) if entry.type in ("int", "float")]
"""The fields that are one number, with their types, which numpy takes by name as 64-bit ones."""

_FIGURE_NAMES = [name for name, _ in _FIGURES]
_PACKED = struct.Struct("=" + "".join("q" if kind == "int" else "d" for _, kind in _FIGURES))
_figures_of = attrgetter(*_FIGURE_NAMES)

NO_CHOICE = Choice(NO_TOKEN, float("nan"), float("nan"), float("nan"), float("nan"))


def candidates(found: Sequence[Candidate], size: int) -> NDArray[np.void]:
    """`found` as `[size]` of CANDIDATE, filled up with NO_TOKEN."""
    table = np.zeros(size, CANDIDATE)
    table["token"] = NO_TOKEN
    table[: len(found)] = list(found)
    return table


def _arrays(nodes: int, layers: int, experts: int) -> list[tuple[Any, ...]]:
    arrays: list[tuple[Any, ...]] = [
        ("stats", STATS, (nodes,)), ("stage_seconds", np.float32, (nodes,)),
        ("candidates", CANDIDATE, (CANDIDATES,)), ("lens", CANDIDATE, (layers,)),
    ]  # fmt: skip
    return [*arrays, ("experts", experts_type(experts), (layers,))] if experts else arrays


class Slots:
    """The ring in a file descriptor of shared memory: one process writes, another one reads.

    numpy copies arrays of structures one by one and sets fields slowly, 80 µs a record of 80 layers. So arrays are
    copied as words, and the figures are packed in one call: 20 µs.
    """

    def __init__(self, descriptor: int, nodes: int, layers: int, create: bool, experts: int = 0) -> None:
        parts = _arrays(nodes, layers, experts)
        record = np.dtype([("begin", np.uint64), *_FIGURES, *parts, ("end", np.uint64)])
        size = _HEADER_BYTES + RING * record.itemsize
        if create:
            os.ftruncate(descriptor, size)
        self._memory = mmap.mmap(descriptor, size)
        self._descriptor = descriptor
        self._stores_in_order = platform.machine() in _ORDERED
        self._written: NDArray[np.uint64] = np.frombuffer(self._memory, np.uint64, 1)
        self._records: NDArray[np.void] = np.frombuffer(self._memory, record, RING, _HEADER_BYTES)
        self._words = {name: self._records[name].view(np.int32) for name, *_ in parts}
        self._bytes = record.itemsize

    @property
    def written(self) -> int:
        return int(self._written[0])

    def write(self, record: TokenRecord) -> None:
        """Append a record, over the oldest one where the ring is full."""
        with self._locked(fcntl.LOCK_EX):
            number = self.written
            place = number % RING
            slot = self._records[place]
            slot["begin"] = number + 1
            _PACKED.pack_into(self._memory, self._offset(place) + _COUNTER_BYTES, *_figures_of(record))
            for name in self._words:
                values = getattr(record, name)
                if values is None:
                    self._words[name][place, 0] = _NOT_COMPUTED
                else:
                    self._words[name][place] = values.view(np.int32)
            slot["end"] = number + 1
            self._written[0] = number + 1

    def read(self, number: int) -> TokenRecord | None:
        """Record `number` (0 is the first one written), or None where it is not written yet or no longer kept."""
        if not max(0, self.written - RING) <= number < self.written:
            return None
        slot, offset = self._records[number % RING], self._offset(number % RING)
        with self._locked(fcntl.LOCK_SH):
            # The writer sets `begin` first and `end` last: read them the other way round.
            end = int(slot["end"])
            copy = self._memory[offset : offset + self._bytes]
            if end != number + 1 or int(slot["begin"]) != end:
                return None
        arrays = np.frombuffer(copy, slot.dtype)[0]
        figures = _PACKED.unpack_from(copy, _COUNTER_BYTES)
        return TokenRecord(
            **dict(zip(_FIGURE_NAMES, figures, strict=True)),
            stats=arrays["stats"], stage_seconds=arrays["stage_seconds"], candidates=arrays["candidates"],
            lens=None if arrays["lens"]["token"][0] == _NOT_COMPUTED else arrays["lens"],
            experts=arrays["experts"] if "experts" in self._words else None,
        )  # fmt: skip

    def _offset(self, place: int) -> int:
        return _HEADER_BYTES + place * self._bytes

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Hold the file's lock where the order of stores cannot be relied on; a process that dies gives it back."""
        if self._stores_in_order:
            yield
            return
        fcntl.lockf(self._descriptor, how)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def latest(self) -> TokenRecord | None:
        """The newest whole record; None before the first one."""
        for number in range(self.written - 1, max(-1, self.written - 3), -1):
            record = self.read(number)
            if record is not None:
                return record
        return None


class StatsTable:
    """A tap sink that gathers the statistics of every node of a pass, and the last position of some in full.

    Where the model has experts, it counts how they are chosen, from `forget_experts` on.
    """

    def __init__(self, graph: StageGraph) -> None:
        self._experts, self._logits = counted_experts(graph), router_gives_logits(graph)
        routers = (node for node in graph.nodes if node.stage in ROUTER_STAGES and self._experts)
        self.taps = Taps(self, frozenset(routers), frozenset(graph.nodes))
        self._layers = graph.layers
        self._routers: list[tuple[int, bool, NDArray[np.float32]]] = []
        self.forget_experts()
        self._last: dict[Node, NDArray[np.float32]] = {}
        self._order = graph.order
        self._places: list[NDArray[np.int64]] = []
        self._sums: list[NDArray[np.void]] = []
        self.passed: Callable[[int, int], None] | None = None
        """Called with each layer and the number of positions that have left it. What it raises ends the pass."""
        self._outputs = {self._order[Node(layer, LAYER_OUTPUT)]: layer for layer in range(graph.layers)}
        self._width = graph[LAYER_OUTPUT].width

    def put(self, node: Node, position: int, values: NDArray[np.float32] | None, stats: Accumulator | None) -> None:
        """Keep the statistics of a node; pieces of one tensor are merged when the pass ends."""
        if values is not None and node.stage in ROUTER_STAGES and node.layer is not None:
            self._keep_router(node.layer, node.stage == ROUTER_CHOICE, values)
        elif values is not None:
            self._last[node] = values[-1].copy()
        if stats is not None:
            self.put_sums(np.array([self._order[node]]), np.array([astuple(stats)], SUMS))

    def put_sums(self, places: NDArray[np.int64], sums: NDArray[np.void]) -> None:
        self._places.append(places)
        self._sums.append(sums.view(np.int64).copy().view(SUMS))  # as numbers: records are copied one by one
        if self.passed is not None:
            for place, count in zip(places.tolist(), sums["count"].tolist(), strict=True):
                if place in self._outputs:
                    self.passed(self._outputs[place], int(count) // self._width)

    def taps_with(self, nodes: Iterable[Node]) -> Taps:
        """Taps that hand out `nodes` in full as well."""
        return replace(self.taps, full=self.taps.full | frozenset(nodes))

    def forget_experts(self) -> None:
        """Count the choices of experts from zero."""
        self._counts = ExpertCounts(self._layers, self._experts, logits=self._logits)
        self._routers.clear()

    def _keep_router(self, layer: int, is_choice: bool, values: NDArray[np.float32]) -> None:
        """Keep the rows of one layer until `experts` counts them: a layer at a time takes 50 µs each.

        The many rows of a prompt are counted at once, so that they need not be kept.
        """
        self._routers.append((layer, is_choice, values.copy()))
        if len(values) > 1:
            self._count_routers()

    def _count_routers(self) -> None:
        for is_choice, add in ((True, self._counts.add_choices), (False, self._counts.add_routers)):
            kept = [(layer, values) for layer, kind, values in self._routers if kind is is_choice]
            if kept:
                layers = np.repeat([layer for layer, _ in kept], [len(values) for _, values in kept])
                add(layers, np.concatenate([values for _, values in kept]))
        self._routers.clear()

    def experts(self) -> NDArray[np.void] | None:
        """How the experts of each layer were chosen `[layers]`; None where the model has none."""
        if not self._experts:
            return None
        self._count_routers()
        rows = np.empty(self._layers, experts_type(self._experts))
        rows["dropped"], rows["entropy"] = self._counts.dropped, self._counts.entropy
        rows["counts"] = self._counts.counts
        return rows

    def take_last(self, nodes: Sequence[Node]) -> NDArray[np.float32] | None:
        """The last position `[nodes, width]` of `nodes` in the pass; None where they were not tapped in full."""
        last, self._last = self._last, {}
        return np.stack([last[node] for node in nodes]) if last and nodes else None

    def take(self) -> NDArray[np.void]:
        """The statistics `[nodes]` of everything put since the last call."""
        nodes = len(self._order)
        places, sums, self._places, self._sums = self._places, self._sums, [], []
        if len(places) == 1 and np.array_equal(places[0], np.arange(nodes)):
            return finish(sums[0])  # a decoded token: each node once, in order
        return finish(merged(np.concatenate(places), np.concatenate(sums), nodes)) if places else np.zeros(nodes, STATS)


def merged(places: NDArray[np.int64], sums: NDArray[np.void], nodes: int) -> NDArray[np.void]:
    """Records of `SUMS` `[nodes]` from those `[n]` of the nodes at `places` `[n]`: pieces of a tensor are joined."""
    table = np.zeros(nodes, SUMS)
    for name in ("count", "nan", "inf", "total", "squares"):
        table[name] = np.bincount(places, sums[name], nodes)
    table["min"], table["max"] = np.inf, -np.inf
    np.minimum.at(table["min"], places, sums["min"])
    np.maximum.at(table["max"], places, sums["max"])
    return table


def finish(sums: NDArray[np.void]) -> NDArray[np.void]:
    """Statistics `[n]` from records of `SUMS` `[n]`.

    The same figures as `Accumulator.finish`, for all nodes at once: one by one they cost 2 ms a token on a model of 24
    layers.
    """
    low, high, finite = sums["min"], sums["max"], sums["count"] - sums["nan"] - sums["inf"]
    table = np.empty(sums.size, STATS)
    for name in ("count", "nan", "inf", "min", "max"):
        table[name] = sums[name]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        table["absmax"] = np.maximum(-low, high)
        table["mean"], table["rms"] = sums["total"] / finite, np.sqrt(sums["squares"] / finite)
    if not finite.all():
        for name in ("min", "max", "absmax", "mean", "rms"):
            table[name][finite == 0] = np.nan
    return table
