"""What a check says of a falsifier: PASS, FAIL or UNKNOWN, with its number, its bound and the cells it is about."""

from __future__ import annotations

from dataclasses import dataclass

from aprtui.compare.verdict import Verdict
from aprtui.trace.graph import Node

NOT_CAPTURED = "not testable: stage not captured"
NO_DEVICE = "not testable: no CUDA device"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict on one falsifier.

    `number` is what `metric` came to and `bound` what it was held against; both None where nothing was measured.
    `nodes` are the stage tensors that the result is about: those at fault of a FAIL, else those that were judged.
    `testable` is False where the verdict is UNKNOWN because the capture lacks what the falsifier speaks of. `output` is
    what a command printed.
    """

    verdict: Verdict
    reason: str
    metric: str = ""
    number: float | None = None
    bound: float | None = None
    nodes: tuple[Node, ...] = ()
    testable: bool = True
    output: str = ""


def unknown(reason: str) -> Judgement:
    """Nothing can be said, for a `reason` that is not the capture's lack of a stage."""
    return Judgement(Verdict.UNKNOWN, reason)


def not_testable(what: str) -> Judgement:
    """The capture lacks what the falsifier speaks of: `what` names it."""
    return Judgement(Verdict.UNKNOWN, f"{NOT_CAPTURED}: {what}", testable=False)


def no_device(problem: str) -> Judgement:
    """The claim is about a CUDA device, and there is none: `problem` says why."""
    return Judgement(Verdict.UNKNOWN, f"{NO_DEVICE}: {problem}", testable=False)


def counted_wrong(metric: str, wrong: tuple[Node, ...], judged: tuple[Node, ...], reason: str) -> Judgement:
    """PASS where none of the `judged` is `wrong`, else FAIL; the number is how many are."""
    verdict = Verdict.FAIL if wrong else Verdict.PASS
    return Judgement(verdict, reason, metric, float(len(wrong)), 0.0, wrong or judged)
