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

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.protocol import Taps
from aprtui.engine.sampling import NO_TOKEN, Candidate, Choice
from aprtui.trace.graph import LAYER_OUTPUT, Node, StageGraph
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
    in use of a GPU is as in `DeviceUse`, NaN where the engine runs on none.
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


def _record_type(nodes: int, layers: int) -> np.dtype[np.void]:
    arrays = [
        ("stats", STATS, (nodes,)), ("stage_seconds", np.float32, (nodes,)),
        ("candidates", CANDIDATE, (CANDIDATES,)), ("lens", CANDIDATE, (layers,)),
    ]  # fmt: skip
    return np.dtype([("begin", np.uint64), *_FIGURES, *arrays, ("end", np.uint64)])


_ARRAYS = ("stats", "stage_seconds", "candidates", "lens")


class Slots:
    """The ring in a file descriptor of shared memory: one process writes, another one reads.

    numpy copies arrays of structures one by one and sets fields slowly, 80 µs a record of 80 layers. So arrays are
    copied as words, and the figures are packed in one call: 20 µs.
    """

    def __init__(self, descriptor: int, nodes: int, layers: int, create: bool) -> None:
        record = _record_type(nodes, layers)
        size = _HEADER_BYTES + RING * record.itemsize
        if create:
            os.ftruncate(descriptor, size)
        self._memory = mmap.mmap(descriptor, size)
        self._descriptor = descriptor
        self._stores_in_order = platform.machine() in _ORDERED
        self._written: NDArray[np.uint64] = np.frombuffer(self._memory, np.uint64, 1)
        self._records: NDArray[np.void] = np.frombuffer(self._memory, record, RING, _HEADER_BYTES)
        self._words = {name: self._records[name].view(np.int32) for name in _ARRAYS}
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
            for name in _ARRAYS:
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
    """A tap sink that gathers the statistics of every node of a pass, and the last position of some in full."""

    def __init__(self, graph: StageGraph) -> None:
        self.taps = Taps(self, stats=frozenset(graph.nodes))
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
        if values is not None:
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
        return replace(self.taps, full=frozenset(nodes))

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
