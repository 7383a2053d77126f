"""Detection of the bugs of `porting_bugs`, in captures of every kind: what replay says of them, by name.

Whether a capture shows a bug at all is measured: it is replayed under the very arithmetic of its engine, and so are
honest captures of the same kind. A bug that adds no more than three times what those show, at any stage that it
reaches, neither to a token nor to a channel, is beneath the noise and in no rate.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.comparison import Comparison
from aprtui.compare.metrics.measure import token_errors
from aprtui.compare.verdict import Verdict
from aprtui.engine.alternatives.call import AlternativeNodes
from aprtui.engine.evaluation.arithmetics import ARITHMETICS, EngineArithmetic, stage_tensors
from aprtui.engine.evaluation.capture_kinds import CAPTURE_KINDS, Tensors, one_in, write_kind
from aprtui.engine.evaluation.false_alarms import judged
from aprtui.engine.evaluation.fault_detection import REPLAY
from aprtui.engine.evaluation.porting_bugs.bug import PortingBug
from aprtui.engine.evaluation.porting_bugs.table import PORTING_BUGS
from aprtui.engine.protocol import NodeEvaluator
from aprtui.engine.replay.arithmetic import Recomputation
from aprtui.engine.replay.bounds import FLOAT32, MARGIN
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.recompute import CapturedStages, Recomputer
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.engine.replay.spread import differing_by
from aprtui.model.config import RopeAngles
from aprtui.model.model import Model
from aprtui.progress import Progress
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node

Array = NDArray[np.float32]
BUGGY_ENGINES = ("float32", "llama.cpp, f16 K/V", "bfloat16")
"""The arithmetics of the engines that have the bugs."""

_HONEST_SEEDS = (11, 12, 13)
_FAULTY_SEED = 1


class BugOutcome(StrEnum):
    NAMED = "at its stage"
    IN_SEGMENT = "in its segment"
    UNKNOWN = "unknown"
    MISPLACED = "misplaced"
    MISSED = "missed"
    BENEATH = "beneath noise"


FOUND = frozenset({BugOutcome.NAMED, BugOutcome.IN_SEGMENT})


@dataclass(frozen=True, slots=True)
class BugCase:
    """A bug in an engine of an arithmetic, captured as a kind: by name."""

    engine: str
    bug: str
    kind: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.engine}, {self.bug}"


@dataclass(frozen=True, slots=True)
class JudgedBug:
    """What replay says of one bug; `said` is its reason. `times_noise` is the most that the bug adds at a stage, over
    what honest engines show there. `when_stated` is the outcome once `--rounding` states the engine's arithmetic, where
    it is unknown without."""

    case: BugCase
    outcome: BugOutcome
    said: str
    times_noise: float
    when_stated: BugOutcome | None = None

    @property
    def what(self) -> str:
        return str(self.case)


def bug_cases(model: Model, every: int = 1) -> list[BugCase]:
    """Every bug that `model` can have, in each of `BUGGY_ENGINES`, as every kind of capture; one in `every`."""
    bugs = [name for name, bug in PORTING_BUGS.items() if bug.nodes(model)]
    cases = [BugCase(engine, bug, kind) for engine in BUGGY_ENGINES for bug in bugs for kind in CAPTURE_KINDS]
    return one_in(every, cases)


def judge_bugs(
    model: Model, tokens: Sequence[int], evaluators: Evaluators, cases: Sequence[BugCase], progress: Progress
) -> Iterator[JudgedBug]:
    """What replay says of each of `cases`. A capture that holds nothing of what the bug changes is left out."""
    with tempfile.TemporaryDirectory(prefix="aprtui-bugs-") as folder:
        workshop = _Workshop(model, tokens, evaluators, Path(folder))
        for done, case in enumerate(cases):
            progress(f"judging bugs ({case.bug}),", done, len(cases))
            found = workshop.judge(case)
            if found is not None:
                yield found


def buggy_tensors(
    bug: PortingBug, arithmetic: EngineArithmetic, model: Model, tokens: Sequence[int], evaluators: Evaluators
) -> dict[Node, Array]:
    """Every stage of `model` on `tokens` as an engine with the bug computes them."""
    seen: dict[Node, Array] = {}
    nodes = bug.nodes(model)

    def buggy(angles: RopeAngles) -> NodeEvaluator:
        return AlternativeNodes(model, angles, evaluators(angles), bug.compute, nodes, seen)

    def remember(node: Node, values: Array) -> Array:
        seen[node] = values
        return values

    return stage_tensors(arithmetic, model, tokens, buggy, _FAULTY_SEED, remember)


@dataclass(frozen=True, slots=True)
class AddedError:
    """What a captured stage adds to what it is computed from: the relative error of the worst token, and that of the
    worst channel (or head of attention maps) to the root mean square of all; `covered` are the nodes in between."""

    token: float
    channel: float
    covered: frozenset[Node]


def added_errors(
    capture: Capture, arithmetic: EngineArithmetic, model: Model, tokens: Sequence[int], evaluators: Evaluators
) -> dict[Node, AddedError]:
    """The error that each captured stage adds, by a replay under the engine's own arithmetic."""
    stages = CapturedStages(capture, model, tokens)
    run = Recomputer(model, stages, Recomputation(model, arithmetic.rounding, evaluators, arithmetic.outputs))
    errors = {}
    for node in model.graph.nodes:
        rows = stages.rows(node)
        if rows:
            found, values = run.recompute(node, rows), stages.values(node)
            causal = model.graph[node.stage].is_attention_map
            expected = np.ascontiguousarray(found.values)
            worst = token_errors(expected, values, causal=causal)
            errors[node] = AddedError(_largest(worst), _of_channel(expected, values), frozenset({*found.segment, node}))
    return errors


def _of_channel(expected: Array, values: Array) -> float:
    by_channel = (1, 2) if expected.ndim == 3 else 0
    a, b = expected.astype(np.float64), values.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _largest(np.sqrt(((a - b) ** 2).mean(by_channel)) / np.sqrt((a * a).mean()))


def _largest(errors: NDArray[np.float64]) -> float:
    """Inf where one is not a number."""
    return float(np.nan_to_num(errors, nan=np.inf).max(initial=0))


class _Workshop:
    """Makes and judges the captures of one model; what several cases need is kept."""

    def __init__(self, model: Model, tokens: Sequence[int], evaluators: Evaluators, folder: Path) -> None:
        self.model, self.tokens, self.evaluators, self.folder = model, tokens, evaluators, folder
        self._made: tuple[tuple[str, str], Tensors] = ("", ""), {}
        self._runs: dict[str, Sequence[Tensors]] = {}
        self._noises: dict[tuple[str, str], Mapping[Node, Sequence[AddedError]]] = {}

    def judge(self, case: BugCase) -> JudgedBug | None:
        """None where nothing that the bug changes was captured."""
        engine, nodes = case.engine, PORTING_BUGS[case.bug].nodes(self.model)
        noise = self._noise(engine, case.kind)
        with self._written(self._faulty(engine, case.bug), case.kind) as capture:
            added = added_errors(capture, ARITHMETICS[engine], self.model, self.tokens, self.evaluators)
            times = [_times(error, noise[node]) for node, error in added.items() if nodes & error.covered]
            if not times:
                return None
            comparison = replay_capture(capture, self.model, ReplayOptions(), self.evaluators)
            outcome = outcome_of(comparison, nodes)
            if max(times) <= MARGIN and outcome is not BugOutcome.MISPLACED:
                outcome = BugOutcome.BENEATH
            when_stated = None
            if outcome is BugOutcome.UNKNOWN:
                stated = ReplayOptions(rounding=ARITHMETICS[engine].rounding.stated())
                when_stated = outcome_of(replay_capture(capture, self.model, stated, self.evaluators), nodes)
        return JudgedBug(case, outcome, judged(case.bug, REPLAY, comparison).said, max(times), when_stated)

    def _faulty(self, engine: str, name: str) -> Tensors:
        if self._made[0] != (engine, name):
            bug = PORTING_BUGS[name]
            tensors = buggy_tensors(bug, ARITHMETICS[engine], self.model, self.tokens, self.evaluators)
            self._made = (engine, name), tensors
        return self._made[1]

    def _honest(self, engine: str) -> Sequence[Tensors]:
        """Runs without a bug."""
        if engine not in self._runs:
            arithmetic, model, tokens = ARITHMETICS[engine], self.model, self.tokens
            size = differing_by(arithmetic.rounding)
            self._runs = {
                engine: [stage_tensors(arithmetic, model, tokens, self.evaluators, s, size=size) for s in _HONEST_SEEDS]
            }
        return self._runs[engine]

    def _noise(self, engine: str, kind: str) -> Mapping[Node, Sequence[AddedError]]:
        """What honest captures of the kind add at each stage."""
        if (engine, kind) not in self._noises:
            arithmetic, noises = ARITHMETICS[engine], dict[Node, list[AddedError]]()
            for tensors in self._honest(engine):
                with self._written(tensors, kind) as capture:
                    added = added_errors(capture, arithmetic, self.model, self.tokens, self.evaluators)
                for node, error in added.items():
                    noises.setdefault(node, []).append(error)
            self._noises[engine, kind] = noises
        return self._noises[engine, kind]

    @contextmanager
    def _written(self, tensors: Tensors, kind: str) -> Iterator[Capture]:
        path = self.folder / "capture"
        try:
            yield write_kind(CAPTURE_KINDS[kind], tensors, self.model.graph, self.tokens, path)
        finally:
            shutil.rmtree(path)


def _times(error: AddedError, honest: Sequence[AddedError]) -> float:
    """How many times the largest of the `honest` errors an error is, of tokens or of channels."""
    token, channel = (max(found, FLOAT32) for found in (max(e.token for e in honest), max(e.channel for e in honest)))
    return max(error.token / token, error.channel / channel)


def outcome_of(comparison: Comparison, answers: frozenset[Node]) -> BugOutcome:
    """How near a verdict comes to one of the `answers`."""
    divergence = comparison.first_divergence
    if comparison.verdict is Verdict.UNKNOWN:
        return BugOutcome.UNKNOWN
    if divergence is None:
        return BugOutcome.MISSED
    if len(divergence.segment) == 1 and divergence.verdict.node in answers:
        return BugOutcome.NAMED
    return BugOutcome.IN_SEGMENT if answers.intersection(divergence.segment) else BugOutcome.MISPLACED
