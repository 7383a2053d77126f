"""Replay of a recording: each op again in float64 from its recorded sources, and the first that is wrong."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.metrics.measure import Metric
from aprtui.compare.verdict import Verdict
from aprtui.progress import Progress
from aprtui.recordings.format import OpNode, TensorView
from aprtui.recordings.judging import BOUND, Errors, as_stored, at_any_place, beyond, measured
from aprtui.recordings.memory import Memory, NamedWeights, Values, output_values
from aprtui.recordings.ops.operands import LAST_BIT, Operands, OpWay, operands_of
from aprtui.recordings.ops.table import OpRow, row_of
from aprtui.recordings.reading import Recording
from aprtui.recordings.stages import NodeName, NodeNames

_MORE_FLIPS = 4
"""How many times as large, and how often, where results in between flip: a single change sees few."""


@dataclass(frozen=True, slots=True)
class OpResult:
    """What a replay found of one op: `error` and `bound` of `metric`, None where nothing was computed.

    `rounding` is what explains the output best, in words. `place` says where the values differ most.
    """

    graph: int
    index: int
    op: str
    name: NodeName
    verdict: Verdict
    metric: Metric | None
    error: float | None
    bound: float | None
    reason: str
    rounding: str = ""
    place: str = ""
    device: str = ""


@dataclass(frozen=True, slots=True)
class OpReplay:
    """The verdict on a recording, with the result of each op in the order of execution."""

    verdict: Verdict
    results: tuple[OpResult, ...]
    statements: tuple[str, ...]
    reason: str

    @property
    def first(self) -> OpResult | None:
        """The first op that is wrong."""
        return next((result for result in self.results if result.verdict is Verdict.FAIL), None)

    @property
    def unknown(self) -> Counter[str]:
        """Why ops were not judged, and how many."""
        return Counter(result.reason for result in self.results if result.verdict is Verdict.UNKNOWN)


@dataclass(frozen=True, slots=True)
class OpReplayOptions:
    """`bound` of rel_l2; ops whose name is like one of `allowed` need not be judged."""

    bound: float = BOUND
    allowed: Sequence[str] = ()


def replay_recording(
    recording: Recording, weights: NamedWeights, options: OpReplayOptions, progress: Progress
) -> OpReplay:
    """Compute every op of a recording again.

    Raises `UnreadableError` for weights that are nowhere, and for indices beyond a tensor.
    """
    memory, results, statements = Memory(recording, weights), list[OpResult](), list[str]()
    total, done = sum(len(graph.nodes) for graph in recording.graphs), 0
    for number, graph in enumerate(recording.graphs):
        for name in memory.begin(graph):
            statements.append(f"graph {number}: state {name} was changed between the graphs, by no recorded op")
        names = NodeNames(graph, recording.header.stages)
        for index, node in enumerate(graph.nodes):
            if done % 32 == 0:
                progress("replaying ops", done, total)
            done += 1
            for place in range(len(node.outputs)):
                results.append(_Replayed(memory, names, number, index, node, place, options).result())
            memory.store(node)
    return _concluded(recording, results, statements, options)


def _concluded(
    recording: Recording, results: Sequence[OpResult], statements: list[str], options: OpReplayOptions
) -> OpReplay:
    failed = [result for result in results if result.verdict is Verdict.FAIL]
    unknown = [
        result for result in results
        if result.verdict is Verdict.UNKNOWN and not any(fnmatch.fnmatch(result.op, glob) for glob in options.allowed)
    ]  # fmt: skip
    judged = sum(result.verdict is Verdict.PASS for result in results)
    if not recording.header.complete:
        statements.append("the run that was recorded did not finish: its ops end before its tokens do")
    if failed:
        verdict, reason = Verdict.FAIL, f"{len(failed)} of {len(results)} ops are not what their sources give"
    elif unknown or statements:
        verdict, reason = Verdict.UNKNOWN, f"{len(unknown)} of {len(results)} ops could not be judged"
        reason = reason if unknown else statements[0]
    elif not judged:
        verdict, reason = Verdict.UNKNOWN, "no op was judged"
    else:
        verdict, reason = Verdict.PASS, f"{judged} ops are what their sources give"
    return OpReplay(verdict, tuple(results), tuple(statements), reason)


@dataclass(frozen=True, slots=True)
class _Disturbed:
    """`Memory` whose float values are those of another, each changed by up to `size` of itself."""

    memory: Memory
    size: float
    seed: int

    def raw(self, tensor: TensorView) -> Values:
        return self.memory.raw(tensor)

    def values(self, tensor: TensorView) -> Values:
        found = self.memory.values(tensor)
        if found.dtype.kind != "f":
            return found
        random = np.random.default_rng([self.seed, found.size])
        return np.asarray(found * (1 + self.size * random.uniform(-1, 1, found.shape)))


@dataclass(slots=True)
class _Replayed:
    """One output of a node, judged before it is stored."""

    memory: Memory
    names: NodeNames
    number: int
    index: int
    node: OpNode
    place: int
    options: OpReplayOptions
    operands: Operands = field(init=False)

    def result(self) -> OpResult:
        ops = self.memory.recording.header.ops
        row = row_of(ops, self.node.op)
        if row is None:
            return self._unknown(f"op {self.node.op} is not modelled")
        if self.node.blobs[self.place] is None:
            return self._unknown("its output was not recorded")
        self.operands = operands_of(ops, self.names.graph, self.node, self.memory, self.place)
        try:
            with np.errstate(all="ignore"):  # NaN and Inf are among what is judged
                return self._judged(row)
        except (LookupError, TypeError, ValueError, NotImplementedError, ArithmeticError) as error:
            return self._unknown(f"op {self.node.op}: {type(error).__name__}: {error!s:.100}")

    def _result(self, verdict: Verdict, reason: str, **more: object) -> OpResult:
        fields = {"metric": None, "error": None, "bound": None} | more
        return OpResult(
            self.number, self.index, self.node.op, self.names.name(self.node), verdict, reason=reason,
            device=self.node.device, **fields,  # type: ignore[arg-type]
        )  # fmt: skip

    def _unknown(self, reason: str) -> OpResult:
        return self._result(Verdict.UNKNOWN, reason)

    def _judged(self, row: OpRow) -> OpResult:
        found = self._found()
        tried: list[tuple[Errors, OpWay]] = []
        for candidate in row.compute(self.operands):
            expected = np.asarray(candidate.values)
            if expected.shape != found.shape:
                raise ValueError(f"gives {list(expected.shape)}, recorded are {list(found.shape)}")
            stored = as_stored(expected, self.operands.output.type)
            if stored is None:
                return self._unknown(f"values of type {self.operands.output.type} cannot be made here")
            if row.chooses:
                errors = measured(*self._chosen(stored, found), "f32")
            else:
                errors = measured(stored, found, self.operands.output.type)
            tried = sorted([*tried, (errors, candidate)], key=lambda way: way[0].badness)[:2]
            if beyond(errors, self.options.bound) is None:
                break
        assert tried, "each op has a candidate"
        results = [self._verdict(row, *tried[0])]
        if results[0].verdict is Verdict.FAIL:
            results += [self._verdict(row, *other) for other in tried[1:]]
        return next((result for result in results if result.verdict is Verdict.PASS), results[0])

    def _verdict(self, row: OpRow, errors: Errors, way: OpWay) -> OpResult:
        """What is to be said of an op that was computed in that way."""
        if errors.nan and not errors.compared and not errors.mismatches:
            return self._unknown("NaN on both sides, no finite value")
        wrong = beyond(errors, self.options.bound)
        if wrong is not None and wrong.metric is not Metric.NON_FINITE and not row.chooses:
            wrong = beyond(errors, self.options.bound, self._moved(row, way))
        if wrong is None:
            return self._result(
                Verdict.PASS, "within the bound", metric=Metric.REL_L2, error=errors.whole, bound=self.options.bound,
                rounding=way.rounding,
            )  # fmt: skip
        return self._result(
            Verdict.FAIL, wrong.words, metric=wrong.metric, error=wrong.error, bound=wrong.bound,
            rounding=way.rounding, place=self._place(wrong.index),
        )  # fmt: skip

    def _moved(self, row: OpRow, way: OpWay) -> list[Errors]:
        """How far the output moves where all sources change by what such an engine cannot answer for."""
        times, size = 1, way.disturbance
        if way.flips:
            times, size = _MORE_FLIPS, max(_MORE_FLIPS * LAST_BIT, size)
        found = []
        for seed in range(times):
            sources = _Disturbed(self.memory, size, seed)
            disturbed = replace(self.operands, memory=sources)
            ways = (other for other in row.compute(disturbed) if other.rounding == way.rounding)
            moved = measured(way.values, next(ways).values, "f32")
            found.append(at_any_place(moved) if way.flips else moved)
        return found

    def _found(self) -> Values:
        """The recorded output, in the shape that the op gives."""
        found = output_values(self.memory.recording, self.names.graph, self.node, self.place)
        assert found is not None, "an op without an output is not judged"
        return found.reshape(self.operands.source(0).shape if self.node.rows else self.operands.output.shape)

    def _chosen(self, expected: Values, found: Values) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The values at the places to choose and at those chosen: NaN for a place that is none, or chosen twice."""
        values = self.operands.values(0)
        if self.node.op == "ARGMAX":
            values, expected, found = values[0, 0], expected.reshape(-1, 1), found.reshape(-1, 1)
        outside = (found < 0) | (found >= values.shape[-1])
        picked = [
            np.take_along_axis(values, np.clip(places, 0, values.shape[-1] - 1).astype(np.int64), -1)
            for places in (expected, found)
        ]
        twice = (np.diff(np.sort(found, -1), axis=-1) == 0).any(-1, keepdims=True)
        picked[1] = np.where(outside | twice, np.nan, picked[1])
        if self.node.op == "TOP_K":
            picked = [np.sort(part, -1) for part in picked]
        return picked[0], picked[1]

    def _place(self, index: int) -> str:
        """Where a value of the output is, in words."""
        shape = self.operands.source(0).shape if self.node.rows else self.operands.output.shape
        place = [int(i) for i in np.unravel_index(index, shape)]
        shape, place = (1,) * (4 - len(shape)) + shape, [0] * (4 - len(shape)) + place
        if shape[:2] == (1, 1):
            row = "token" if shape[2] == self.names.graph.count else "row"
            return f"{row} {place[2]}, channel {place[3]}"
        if shape[1] == self.names.graph.count:
            return f"token {place[1]}, head {place[2]}, channel {place[3]}"
        if shape[2] == self.names.graph.count:
            return f"head {place[1]}, token {place[2]}, channel {place[3]}"
        return f"place {place}"


def by_op(results: Sequence[OpResult]) -> Iterator[tuple[str, list[OpResult]]]:
    """The results of each kind of op, in the order of their first."""
    for name in dict.fromkeys(result.op for result in results):
        yield name, [result for result in results if result.op == name]
