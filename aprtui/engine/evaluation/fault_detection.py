"""Detection: how often a planted fault is named at its own stage. The other half is `false_alarms`.

Every fault of the matrix is planted in a run, captured, and judged in two ways: by a replay of the faulty capture
alone, and by a diff of a faulty `q8` capture against an honest `exact` one with the measured floor. A plant whose
change at its own stage is below the bound of the signal is counted apart: that signal cannot see it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from aprtui.compare.captures import Criteria, DiffOptions, compare_captures
from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import Verdict
from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.evaluation.fault_matrix import Case, MeteredFault, cases
from aprtui.engine.faults.kinds import KINDS
from aprtui.engine.floors.criteria import criteria_by_model
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import Mode, Rounding
from aprtui.engine.replay.bounds import replay_tolerance
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model.model import Model
from aprtui.progress import Progress
from aprtui.trace.capture import Capture
from aprtui.trace.graph import Node

PROMPT = "def fibonacci(n):\n    if n < 2:\n        return n\n    return fib"
REPLAY, DIFF = "replay", "diff"
SIGNALS = (REPLAY, DIFF)


@dataclass(slots=True)
class Tally:
    """Of one kind and signal: plants above the bound, those named at their own stage, and those below."""

    kind: str
    signal: str
    planted: int = 0
    named: int = 0
    below: int = 0
    unchanged: int = 0
    missed: list[str] = field(default_factory=list)


def run_detection(
    model: Model, progress: Progress | None = None, *, every: int = 1, signals: Sequence[str] = SIGNALS
) -> Iterator[Tally]:
    """A tally for each kind and signal, on every `every`-th case of the matrix."""
    with tempfile.TemporaryDirectory(prefix="aprtui-verdicts-") as folder, Evaluators(model) as evaluators:
        place = _Workplace(model, Path(folder), evaluators)
        tallies = {(kind, signal): Tally(kind, signal) for kind in KINDS for signal in signals}
        for signal in signals:
            judge, mode, bound_of = place.signal(signal)
            planned = list(cases(model, bound_of, place.largest))[::every]
            for done, case in enumerate(planned):
                if progress:
                    progress(f"planting faults, judged by {signal},", done, len(planned))
                capture, change = place.plant(case, mode)
                _count(tallies[case.fault.kind, signal], case, capture, change, judge, bound_of(case.fault.node))
        yield from tallies.values()


def _count(
    tally: Tally, case: Case, capture: Capture, change: float, judge: Callable[[Capture], Comparison], bound: float
) -> None:
    if change == 0:
        tally.unchanged += 1
    elif change < bound:
        tally.below += 1
    else:
        tally.planted += 1
        comparison = judge(capture)
        divergence = comparison.first_divergence
        if comparison.verdict is Verdict.FAIL and divergence and divergence.verdict.node in case.accepted:
            tally.named += 1
        else:
            named = divergence.verdict.node if divergence else "; ".join(comparison.reasons) or "nothing"
            tally.missed.append(f"{case.fault}: {comparison.verdict.value}, {named}")


class _Workplace:
    """The honest captures and floors of one model, and a folder for the faulty ones."""

    def __init__(self, model: Model, folder: Path, evaluators: Evaluators) -> None:
        self.model, self._folder, self._evaluators = model, folder, evaluators
        self.tokens = tuple(model.tokenizer.encode(PROMPT, special=True))
        self._exact = self.capture("exact", Mode.EXACT)
        assert self._exact.manifest is not None
        self.largest = {
            info.node: (info.stats.absmax or 0.0) if info.stats else 0.0 for info in self._exact.manifest.files.values()
        }

    @cached_property
    def _criteria(self) -> Criteria:
        """The measured floor between an honest `q8` and an honest `exact` capture."""
        honest = self.capture("q8", Mode.Q8)
        return criteria_by_model(self._exact, honest, self.model, self.tokens, self._evaluators)

    def signal(self, name: str) -> tuple[Callable[[Capture], Comparison], Mode, Callable[[Node], float]]:
        """The judge of a signal, the mode of the faulty run, and the signal's bound at a node."""
        rounding = Rounding("none", "f32", "f64")

        def injected(node: Node) -> float:
            return replay_tolerance(self.model, node, (), rounding, len(self.tokens)).bound

        def difference(node: Node) -> float:
            assert self._criteria.bounds is not None
            return self._criteria.bounds(node)[0].bound

        if name == REPLAY:
            return self.replayed, Mode.EXACT, injected
        return self.compared, Mode.Q8, difference

    def replayed(self, capture: Capture) -> Comparison:
        """The replay of one capture."""
        return replay_capture(capture, self.model, ReplayOptions(), self._evaluators)

    def compared(self, capture: Capture) -> Comparison:
        """The diff of one capture against the honest exact one."""
        return compare_captures(self._exact, capture, DiffOptions(), None, self._criteria)

    def plant(self, case: Case, mode: Mode) -> tuple[Capture, float]:
        """A capture of a run with the fault, and how much the fault changed its stage."""
        meter = MeteredFault(self.model, mode, case.fault)
        return self.capture("faulty", mode, meter), meter.change

    def capture(self, name: str, mode: Mode, meter: MeteredFault | None = None) -> Capture:
        """A capture of every stage, written to the folder under `name`."""
        engine = open_engine(self.model, mode=mode, context=len(self.tokens), intervention=meter)
        with closing(engine):
            request = CaptureRequest(self.tokens, None, frozenset(self.model.graph.nodes))
            write_capture(engine, self.model, request, self._folder / name, overwrite=True)
        return Capture.open(self._folder / name)
