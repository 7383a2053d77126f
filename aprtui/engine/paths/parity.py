"""Whether all paths of an engine give the same numbers, and which one parts from the others, at which stage and token.

Paths that must agree to the bit are held to that by checksums of all rows, so a long context takes no more memory than
a few bytes a stage and token; the one row at which a path parts is then computed again by both. Which of them is wrong
is a matter of numbers: the reference is a path of the largest group that agrees.

An engine that adds in another order along each path (see `Backend.same_bits`) is held to the floor that runs with other
last bits leave, and another type of the K/V cache to a replay: its keys and values are rounded, and nothing else is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.metrics.logits import measure_logits
from aprtui.compare.metrics.measure import measure, token_errors
from aprtui.compare.verdict import Verdict
from aprtui.compare.wording import number_text
from aprtui.engine.backends.registry import named_backend
from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.faults.faults import Fault, FaultInjector
from aprtui.engine.floors.measure import arithmetic_floor
from aprtui.engine.kv_types import fitting_kv_types
from aprtui.engine.opening import open_engine
from aprtui.engine.paths.sinks import KeptRows, PathLogits, RowDigests
from aprtui.engine.paths.table import MAPS, PREFILL, SHORT, EvaluationPath, decoded_from, paths_for
from aprtui.engine.protocol import Engine, Intervention, KvType, Logits, Mode, Taps, TapSink
from aprtui.engine.replay.bounds import bound_of
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.errors import UsageError
from aprtui.model.model import Model
from aprtui.progress import Progress
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node

Array = NDArray[np.float32]

JUDGED = 64
"""Tokens of a sequence that are judged by values rather than checksums: a replay of more takes long, and rows of all
stages are in memory."""

_LOGIT_BYTES = 256 << 20
"""Logits of all positions may take as much; of longer sequences there are those of the last one."""


@dataclass(frozen=True, slots=True)
class PathRequest:
    """The tokens, the engine that evaluates them, and faults to be made in the paths whose names match (`*`, `?`)."""

    tokens: Sequence[int]
    backend: str
    mode: Mode = Mode.EXACT
    threads: int | None = None
    faults: Sequence[tuple[str, Fault]] = ()


@dataclass(frozen=True, slots=True)
class Parting:
    """Where a path parts from the others: the first stage in execution order, its first token, the channel that is
    farthest off there with both values, and the relative L2 of the row (None where it did not part a second time)."""

    node: Node
    token: int
    error: float | None = None
    channel: int = 0
    expected: float = 0.0
    found: float = 0.0


@dataclass(frozen=True, slots=True)
class PathFinding:
    """One path: what it was held to, and how it came out. `stages` were compared, `tokens` each."""

    name: str
    says: str
    held_to: str
    verdict: Verdict
    reason: str
    stages: int = 0
    tokens: int = 0
    parting: Parting | None = None
    logits: PathLogits | None = None


@dataclass(frozen=True, slots=True)
class PathParity:
    """All paths. `reference` is the one that the others are held against."""

    verdict: Verdict
    reference: str
    findings: tuple[PathFinding, ...]
    first: PathFinding | None
    """Of those that part at a stage, the one that does first in execution order, then by token."""


@dataclass(slots=True)
class _Run:
    path: EvaluationPath
    digests: RowDigests
    logits: Array


def measure_parity(model: Model, request: PathRequest, progress: Progress) -> PathParity:
    """Evaluate `request` by every path of its engine, and hold them against each other.

    Raises `UsageError` for faults that match no path, and for fewer than two tokens.
    """
    if len(request.tokens) < 2:
        raise UsageError(f"{len(request.tokens)} tokens have one path only: give at least two")
    walk = _Walk(model, request, progress)
    with walk.opened(PREFILL, KvType.F32, faults=False) as engine:
        backend, threads = named_backend(engine.backend), engine.threads
    paths = paths_for(len(request.tokens), threads)
    types = [kv for kv in fitting_kv_types(model.config.graph) if backend.kv_types is None or kv in backend.kv_types]
    others = [kv for kv in types if kv is not KvType.F32]
    walk.begin(len(paths) + 3 * len(others))
    _require_matches(request, [*(path.name for path in paths), *map(_kv_name, others)])
    if backend.same_bits:
        reference, findings, logits = walk.to_the_bit(paths, KvType.F32)
    else:
        reference, findings, logits = walk.to_the_floor(paths)
    findings += [walk.kv_type(kv, logits) for kv in others]
    order = model.graph.order
    parted = [found for found in findings if found.parting is not None]
    first = min(parted, key=lambda found: (order[found.parting.node], found.parting.token), default=None)  # type: ignore[union-attr]
    verdicts = {found.verdict for found in findings}
    verdict = next((kind for kind in (Verdict.FAIL, Verdict.UNKNOWN) if kind in verdicts), Verdict.PASS)
    return PathParity(verdict, reference, tuple(findings), first)


def _kv_name(kv: KvType) -> str:
    return f"kv-{kv}"


def _require_matches(request: PathRequest, names: Sequence[str]) -> None:
    for pattern, _ in request.faults:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"--inject: path={pattern}: there are {', '.join(names)}")


@dataclass(slots=True)
class _Walk:
    model: Model
    request: PathRequest
    progress: Progress
    _done: int = field(default=0)
    _total: int = field(default=1)

    def begin(self, total: int) -> None:
        self._total = total

    def _step(self, name: str) -> None:
        self.progress(f"path {name},", self._done, self._total)
        self._done += 1

    @contextmanager
    def opened(
        self, path: EvaluationPath, kv: KvType, *, name: str = "", faults: bool = True, tokens: int = 0
    ) -> Iterator[Engine]:
        """An engine set up for `path`, with the faults that are asked for under its name."""
        request = self.request
        matching = [fault for pattern, fault in request.faults if fnmatchcase(name or path.name, pattern)]
        intervention: Intervention | None = None
        if faults and matching:
            intervention = FaultInjector(self.model, request.mode, matching)
        room = path.room * (tokens or len(request.tokens))
        engine = open_engine(
            self.model, backend=request.backend, mode=request.mode, kv=kv, threads=path.threads or request.threads,
            context=room, intervention=intervention, progress=self.progress,
        )  # fmt: skip
        with closing(engine):
            yield engine

    def _nodes(self, path: EvaluationPath) -> frozenset[Node]:
        graph = self.model.graph
        return frozenset(node for node in graph.nodes if path.maps or not graph[node.stage].is_attention_map)

    @property
    def _logits(self) -> Logits:
        row = 4 * self.model.config.graph.vocabulary
        return Logits.ALL if row * len(self.request.tokens) <= _LOGIT_BYTES else Logits.LAST

    def _run(self, path: EvaluationPath, kv: KvType, sink: TapSink, nodes: frozenset[Node], name: str = "") -> Array:
        with self.opened(path, kv, name=name) as engine:
            return path.evaluate(engine, self.request.tokens, Taps(sink, full=nodes), self._logits)

    def to_the_bit(
        self, paths: Sequence[EvaluationPath], kv: KvType, name: str = ""
    ) -> tuple[str, list[PathFinding], Array]:
        """The reference, how each other path came out against it, and the logits of the reference."""
        runs = []
        for path in paths:
            self._step(name or path.name)
            digests = RowDigests(len(self.request.tokens))
            runs.append(_Run(path, digests, self._run(path, kv, digests, self._nodes(path), name)))
        reference = self._most_agreed(runs)
        findings = [self._held_against(run, reference, kv, name) for run in runs if run is not reference]
        return reference.path.name, findings, reference.logits

    def _most_agreed(self, runs: Sequence[_Run]) -> _Run:
        """The first run that as many others agree with as with any."""
        graph = self.model.graph
        agreeing = [sum(run.digests.parted(other.digests, graph) is None for other in runs) for run in runs]
        return runs[agreeing.index(max(agreeing))]

    def _held_against(self, run: _Run, reference: _Run, kv: KvType, name: str) -> PathFinding:
        parted = run.digests.parted(reference.digests, self.model.graph)
        stages = len(run.digests.by_node.keys() & reference.digests.by_node.keys())
        shared = (run.path.name, run.path.says, "the bit")
        logits = logits_apart(reference.logits, run.logits)
        if parted is None:
            return PathFinding(*shared, Verdict.PASS, "the same bits", stages, len(self.request.tokens), logits=logits)
        parting = self._looked_at(*parted, run.path, reference.path, kv, name)
        reason = parting_text(parting, self.model)
        return PathFinding(*shared, Verdict.FAIL, reason, stages, len(self.request.tokens), parting, logits)

    def _looked_at(
        self, node: Node, token: int, path: EvaluationPath, reference: EvaluationPath, kv: KvType, name: str
    ) -> Parting:
        """The row at which `path` parts, by both paths once more."""
        kept = []
        for one in (reference, path):
            rows = KeptRows()
            self._run(one, kv, rows, frozenset({node}), name)
            kept.append(rows.row(node, token))
        return _parting(node, token, *kept)

    def to_the_floor(self, paths: Sequence[EvaluationPath]) -> tuple[str, list[PathFinding], Array]:
        """As `to_the_bit`, of the first tokens, for an engine whose paths add in orders of their own."""
        walk = _Walk(self.model, _cut(self.request), self.progress, self._done, self._total)
        tokens, floors, findings = walk.request.tokens, walk._floors(), []
        runs: dict[str, tuple[KeptRows, Array]] = {}
        for path in paths:
            walk._step(path.name)
            rows = KeptRows()
            runs[path.name] = rows, walk._run(path, KvType.F32, rows, walk._nodes(path))
        reference, expected = runs[PREFILL.name]
        for path in paths[1:]:
            rows, logits = runs[path.name]
            parting = None
            compared = list(reference.shared(rows, self.model.graph.nodes))
            for node, positions, mine, theirs in compared:
                bound = bound_of(floors[node], "what runs with other last bits differ by").bound
                errors = token_errors(mine, theirs)
                beyond = np.flatnonzero(~(errors <= bound))
                if beyond.size:
                    at = int(beyond[0])
                    parting = _parting(node, positions[at], mine[at], theirs[at])
                    break
            verdict = Verdict.PASS if parting is None else Verdict.FAIL
            reason = "within the floor" if parting is None else parting_text(parting, self.model)
            findings.append(
                PathFinding(path.name, path.says, "a floor", verdict, reason, len(compared), len(tokens), parting,
                            logits_apart(expected, logits))
            )  # fmt: skip
        self._done = walk._done
        return PREFILL.name, findings, expected

    def _floors(self) -> Mapping[Node, float]:
        with self.opened(PREFILL, KvType.F32, faults=False) as engine:
            rounding = engine.rounding
        with Evaluators(self.model, threads=self.request.threads, progress=self.progress) as evaluators:
            return arithmetic_floor(
                self.model, self.request.tokens, (rounding, rounding), evaluators, self.progress,
                all_logits=self._logits is Logits.ALL,
            )  # fmt: skip

    def kv_type(self, kv: KvType, plain: Array) -> PathFinding:
        """Another type of the K/V cache: to the bit decoded as prefilled, and each stage as its inputs and the rounded
        keys and values make it. `plain` are the logits that float32 gives."""
        name, says = _kv_name(kv), f"keys and values kept in {kv}"
        if not self._same_bits(kv):
            self._step(name)
            logits = self._run(PREFILL, kv, KeptRows(), frozenset(), name)
            return PathFinding(name, says, "a replay", *self._replayed(kv, name), logits_apart(plain, logits))
        first = max(len(self.request.tokens) // 2, len(self.request.tokens) - JUDGED)
        paths = [PREFILL, EvaluationPath(f"decode-{first}", "", decoded_from(first))]
        if len(self.request.tokens) <= SHORT:
            # What is replayed has maps, so that scores and attention are judged from what they were given.
            paths.append(MAPS)
        _, ways, logits = self.to_the_bit(paths, kv, name)
        found = next((way for way in ways if way.verdict is not Verdict.PASS), None)
        if found is None:
            verdict, reason, stages, tokens, parting = self._replayed(kv, name)
        else:
            verdict, stages, tokens, parting = found.verdict, found.stages, found.tokens, found.parting
            reason = f"{found.name} with this type {found.reason}"
        return PathFinding(
            name, says, "the bit, a replay", verdict, reason, stages, tokens, parting, logits_apart(plain, logits)
        )

    def _same_bits(self, kv: KvType) -> bool:
        with self.opened(PREFILL, kv, faults=False, tokens=1) as engine:
            return named_backend(engine.backend).same_bits

    def _replayed(self, kv: KvType, name: str) -> tuple[Verdict, str, int, int, Parting | None]:
        """A replay of the first tokens, half of them decoded: verdict, reason, stages, tokens and where it parts."""
        tokens = self.request.tokens[:JUDGED]
        request = CaptureRequest(tokens, None, self._nodes(MAPS), Logits.ALL, prefill=max(1, len(tokens) // 2))
        with tempfile.TemporaryDirectory(prefix="aprtui-parity-") as folder:
            target = Path(folder) / "capture"
            with self.opened(PREFILL, kv, name=name, tokens=len(tokens)) as engine:
                write_capture(engine, self.model, request, target)
            with Evaluators(self.model, threads=self.request.threads, progress=self.progress) as evaluators:
                found = replay_capture(Capture.open(target), self.model, ReplayOptions(), evaluators, self.progress)
        counts = len(found.stages), len(tokens)
        if found.verdict is Verdict.PASS:
            return Verdict.PASS, "each stage is what its inputs and the rounded keys and values make it", *counts, None
        first = found.first_divergence
        if first is None:
            return Verdict.UNKNOWN, f"cannot be judged: {'; '.join(found.reasons)}", *counts, None
        place = first.place.get("token", first.place.get("query", 0))
        parting = Parting(first.verdict.node, place, first.verdict.error)
        size = f"{first.verdict.metric} {number_text(first.verdict.error)}"
        reason = f"{first.verdict.node}, token {place}, adds an error of its own ({size}): {first.verdict.reason}"
        return Verdict.FAIL, reason, *counts, parting


def _cut(request: PathRequest) -> PathRequest:
    return PathRequest(request.tokens[:JUDGED], request.backend, request.mode, request.threads, request.faults)


def _parting(node: Node, token: int, expected: Array, found: Array) -> Parting:
    if expected.tobytes() == found.tobytes():
        return Parting(node, token)
    apart = np.abs(found.astype(np.float64) - expected)
    channel = int(np.nan_to_num(apart, nan=np.inf).argmax())
    error = measure(expected[None], found[None], causal=False).metrics.token_rel_l2
    return Parting(node, token, error, channel, float(expected[channel]), float(found[channel]))


def parting_text(parting: Parting, model: Model) -> str:
    """Where and by how much, in words."""
    where = f"parts at {parting.node}, token {parting.token}"
    if parting.error is None:
        return f"{where}; not so when it was run again: it is not the same from run to run"
    values = f"channel {parting.channel} is {parting.found:.6g} for {parting.expected:.6g}"
    return f"{where}: relative L2 {number_text(parting.error)}, {values}"


def logits_apart(expected: Array, found: Array) -> PathLogits:
    """How the logits `found` of a token come out against those `expected` `[V]`."""
    metrics = measure_logits(expected[None], found[None])
    return PathLogits(metrics.kl_ab_mean, (int(np.argmax(expected)), int(np.argmax(found))))
