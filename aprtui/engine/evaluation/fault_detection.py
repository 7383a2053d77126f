"""Detection: how often a planted fault is named at its own stage. The other half is `false_alarms`.

Every fault of the matrix is planted in a run, captured, and judged in two ways: by a replay of the faulty capture
alone, and by a diff of a faulty `q8` capture against an honest `exact` one with the measured floor. A plant whose
change at its own stage is below the bound of the signal is counted apart: that signal cannot see it.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.captures import Criteria, DiffOptions, compare_captures
from aprtui.compare.comparison import Comparison
from aprtui.compare.metrics.measure import token_errors
from aprtui.compare.verdict import Verdict
from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.faults.faults import Fault, FaultInjector
from aprtui.engine.faults.kinds import KINDS, applies
from aprtui.engine.floors.criteria import criteria_by_model
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import Mode, NodeCall
from aprtui.engine.replay.arithmetic import KnownArithmetic
from aprtui.engine.replay.bounds import replay_tolerance
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model.model import Model
from aprtui.progress import Progress
from aprtui.trace.capture import Capture
from aprtui.trace.graph.ops import Scope
from aprtui.trace.graph.stage import Node

PROMPT = "def fibonacci(n):\n    if n < 2:\n        return n\n    return fib"
REPLAY, DIFF = "replay", "diff"
SIGNALS = (REPLAY, DIFF)

MULTIPLES = (2, 10, 100)
"""Of the bound: what kinds with a magnitude change their stage by."""

OVERFLOW_SHARE = 0.9
"""The limit of `fp16-overflow`, as a share of the largest magnitude that the stage has in an honest run."""


def accepted_answers(fault: Fault) -> frozenset[Node]:
    """The stages that are right answers: the one where the fault is, whatever the kind; nothing before it is wrong."""
    return frozenset({fault.node})


def fault_matrix(model: Model, bound_of: Callable[[Node], float], largest: Mapping[Node, float]) -> Iterator[Fault]:
    """Every kind at every stage that it applies to, in the first, the middle and the last layer, and one of each kind.

    `bound_of` gives the bound of the judged signal at a node, `largest` the absmax of each stage in an honest run.
    """
    for kind, found in KINDS.items():
        for node in _nodes(model):
            if not applies(kind, model, node):
                continue
            if found.scales:
                for multiple in MULTIPLES:
                    yield Fault(kind, node, {"magnitude": multiple * bound_of(node)})
            elif "limit" in found.parameters:
                yield Fault(kind, node, {"limit": OVERFLOW_SHARE * largest[node]})
            else:
                yield Fault(kind, node)


def _nodes(model: Model) -> Iterator[Node]:
    layers, kinds = model.graph.layers, model.graph.layer_kinds
    chosen = {0, layers // 2, layers - 1} | {kinds.index(kind) for kind in kinds}
    for node in model.graph.nodes:
        if model.graph[node.stage].scope is not Scope.LAYER or node.layer in chosen:
            yield node


class MeteredFault:
    """`Intervention` that makes one fault and measures what it changes at its stage."""

    def __init__(self, model: Model, mode: Mode, fault: Fault) -> None:
        self.nodes = frozenset({fault.node})
        self._injector = FaultInjector(model, mode, [fault])
        self._graph = model.graph
        self.change = 0.0
        """The largest change of a token so far (`token_rel_l2`); inf where NaN or Inf appeared."""

    def __call__(self, call: NodeCall) -> NDArray[np.float32]:
        faulty = self._injector(call)
        before, after = call.output, faulty
        if self._graph[call.node.stage].is_attention_map:
            # A call sees its own queries only; above the diagonal both are zero, so all of it can be measured.
            before, after = (np.ascontiguousarray(maps.swapaxes(0, 1)) for maps in (before, after))
            before, after = before.reshape(len(before), -1), after.reshape(len(after), -1)
        tokens = token_errors(before, after)
        self.change = max(self.change, float(np.nanmax(tokens, initial=0.0)))
        return faulty


class DetectionOutcome(StrEnum):
    """What came of a planted fault. `BELOW`: it changes its stage by less than the bound of the signal; `UNCHANGED`: by
    no bit."""

    NAMED = "named"
    MISSED = "missed"
    BELOW = "below"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class DetectionCase:
    """A fault to plant, and the signal to judge it by."""

    signal: str
    fault: Fault

    def __str__(self) -> str:
        return f"{self.signal}: {self.fault}"


@dataclass(frozen=True, slots=True)
class JudgedFault:
    """What came of the case called `what`, and what the verdict named in place of the fault's stage."""

    what: str
    kind: str
    signal: str
    outcome: DetectionOutcome
    said: str = ""


@dataclass(frozen=True, slots=True)
class Tally:
    """Of one kind and signal: plants above the bound, those named at their own stage, and those below."""

    kind: str
    signal: str
    planted: int = 0
    named: int = 0
    below: int = 0
    unchanged: int = 0
    missed: Sequence[str] = ()


def tallies(judged: Sequence[JudgedFault], signals: Sequence[str] = SIGNALS) -> Iterator[Tally]:
    """A tally for each kind and signal."""
    for kind in KINDS:
        for signal in signals:
            found = [one for one in judged if (one.kind, one.signal) == (kind, signal)]
            counts = Counter(one.outcome for one in found)
            named, missed = counts[DetectionOutcome.NAMED], counts[DetectionOutcome.MISSED]
            yield Tally(
                kind, signal, named + missed, named, counts[DetectionOutcome.BELOW], counts[DetectionOutcome.UNCHANGED],
                [one.said for one in found if one.outcome is DetectionOutcome.MISSED],
            )  # fmt: skip


def run_detection(
    model: Model, progress: Progress | None = None, *, every: int = 1, signals: Sequence[str] = SIGNALS
) -> Iterator[Tally]:
    """A tally for each kind and signal, on every `every`-th case of the matrix."""
    with detection_on(model) as detection:
        yield from tallies(list(detection.judge(detection.cases(every, signals), progress)), signals)


@contextmanager
def detection_on(model: Model) -> Iterator[FaultDetection]:
    """Plants faults in `model` while the block lasts."""
    with tempfile.TemporaryDirectory(prefix="aprtui-verdicts-") as folder, Evaluators(model) as evaluators:
        yield FaultDetection(model, Path(folder), evaluators)


class FaultDetection:
    """The honest captures and floors of one model, and a folder for the faulty ones."""

    def __init__(self, model: Model, folder: Path, evaluators: Evaluators) -> None:
        self.model, self._folder, self._evaluators = model, folder, evaluators
        self.tokens = tuple(model.tokenizer.encode(PROMPT, special=True))
        self._exact = self._capture("exact", Mode.EXACT)
        assert self._exact.manifest is not None
        self.largest = {
            info.node: (info.stats.absmax or 0.0) if info.stats else 0.0 for info in self._exact.manifest.files.values()
        }

    def cases(self, every: int = 1, signals: Sequence[str] = SIGNALS) -> list[DetectionCase]:
        """Every `every`-th case of the matrix, by each signal."""
        found: list[DetectionCase] = []
        for signal in signals:
            planned = list(fault_matrix(self.model, self._signal(signal)[2], self.largest))
            found += [DetectionCase(signal, fault) for fault in planned[::every]]
        return found

    def judge(self, cases: Sequence[DetectionCase], progress: Progress | None = None) -> Iterator[JudgedFault]:
        """Plants the faults one after the other and judges each by its signal."""
        for done, case in enumerate(cases):
            if progress:
                progress(f"planting faults, judged by {case.signal},", done, len(cases))
            yield self._judged(case)

    def _judged(self, case: DetectionCase) -> JudgedFault:
        fault = case.fault
        judge, mode, bound_of = self._signal(case.signal)
        capture, change = self._plant(fault, mode)
        found = partial(JudgedFault, str(case), fault.kind, case.signal)
        if change == 0:
            return found(DetectionOutcome.UNCHANGED)
        if change < bound_of(fault.node):
            return found(DetectionOutcome.BELOW)
        comparison = judge(capture)
        divergence = comparison.first_divergence
        if comparison.verdict is Verdict.FAIL and divergence and divergence.verdict.node in accepted_answers(fault):
            return found(DetectionOutcome.NAMED)
        named = divergence.verdict.node if divergence else "; ".join(comparison.reasons) or "nothing"
        return found(DetectionOutcome.MISSED, f"{fault}: {comparison.verdict.value}, {named}")

    @cached_property
    def _criteria(self) -> Criteria:
        """The measured floor between an honest `q8` and an honest `exact` capture."""
        honest = self._capture("q8", Mode.Q8)
        return criteria_by_model(self._exact, honest, self.model, self.tokens, self._evaluators)

    def _signal(self, name: str) -> tuple[Callable[[Capture], Comparison], Mode, Callable[[Node], float]]:
        """The judge of a signal, the mode of the faulty run, and the signal's bound at a node."""

        def injected(node: Node) -> float:
            return replay_tolerance(self.model, node, (), KnownArithmetic(), len(self.tokens)).bound

        def difference(node: Node) -> float:
            assert self._criteria.bounds is not None
            return self._criteria.bounds(node)[0].bound

        if name == REPLAY:
            return self._replayed, Mode.EXACT, injected
        return self._compared, Mode.Q8, difference

    def _replayed(self, capture: Capture) -> Comparison:
        return replay_capture(capture, self.model, ReplayOptions(), self._evaluators)

    def _compared(self, capture: Capture) -> Comparison:
        criteria = criteria_by_model(self._exact, capture, self.model, self.tokens, self._evaluators)
        return compare_captures(self._exact, capture, DiffOptions(), None, criteria)

    def _plant(self, fault: Fault, mode: Mode) -> tuple[Capture, float]:
        """A capture of a run with the fault, and how much the fault changed its stage."""
        meter = MeteredFault(self.model, mode, fault)
        return self._capture("faulty", mode, meter), meter.change

    def _capture(self, name: str, mode: Mode, meter: MeteredFault | None = None) -> Capture:
        engine = open_engine(self.model, mode=mode, context=len(self.tokens), intervention=meter)
        with closing(engine):
            request = CaptureRequest(self.tokens, None, frozenset(self.model.graph.nodes))
            write_capture(engine, self.model, request, self._folder / name, overwrite=True)
        return Capture.open(self._folder / name)
