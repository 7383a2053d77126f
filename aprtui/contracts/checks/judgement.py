"""The result of a check: PASS, FAIL or UNKNOWN, with its number, its bound and the cells that it is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from aprtui.compare.verdict import Verdict
from aprtui.trace.graph.stage import Node

NO_DEVICE = "not testable: no CUDA device"


class Relation(StrEnum):
    """How the number of a claim that holds stands to its bound."""

    AT_MOST = "<="
    AT_LEAST = ">="
    BELOW = "<"
    EXACTLY = "=="

    def holds(self, number: float, bound: float) -> bool:
        """Whether `number` is so; NaN never is."""
        if self is Relation.AT_MOST:
            return number <= bound
        if self is Relation.AT_LEAST:
            return number >= bound
        return number < bound if self is Relation.BELOW else number == bound


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict on one falsifier.

    `number` is the value of `metric` and `bound` what it was compared with; both None where nothing was measured.
    Where the claim holds, `number` stands to `bound` in `relation`.
    `nodes` are the stage tensors that the result is about: those at fault in a FAIL, else those that were judged.
    `testable` is False where the verdict is UNKNOWN because the capture, or the machine, lacks what the falsifier is
    about. `output` is what a command printed.
    """

    verdict: Verdict
    reason: str
    metric: str = ""
    number: float | None = None
    bound: float | None = None
    nodes: tuple[Node, ...] = ()
    testable: bool = True
    output: str = ""
    relation: Relation = Relation.AT_MOST


def unknown(reason: str) -> Judgement:
    """UNKNOWN for a `reason` other than a stage that was not captured or a missing device."""
    return Judgement(Verdict.UNKNOWN, reason)


def not_testable(what: str) -> Judgement:
    """UNKNOWN because the capture lacks `what`, which the falsifier is about."""
    return Judgement(Verdict.UNKNOWN, f"not testable: stage not captured: {what}", testable=False)


def no_device(problem: str) -> Judgement:
    """UNKNOWN because the claim is about a CUDA device and there is none: `problem` says why."""
    return Judgement(Verdict.UNKNOWN, f"{NO_DEVICE}: {problem}", testable=False)


def passed_if(
    holds: bool, reason: str, metric: str, number: float, bound: float, nodes: tuple[Node, ...] = (),
    relation: Relation = Relation.AT_MOST,
) -> Judgement:  # fmt: skip
    """PASS where the claim `holds`, else FAIL."""
    verdict = Verdict.PASS if holds else Verdict.FAIL
    return Judgement(verdict, reason, metric, float(number), float(bound), nodes, relation=relation)


def counted_wrong(metric: str, wrong: tuple[Node, ...], judged: tuple[Node, ...], reason: str) -> Judgement:
    """PASS where none of the `judged` nodes is `wrong`, else FAIL; the number is the count of wrong ones."""
    return passed_if(not wrong, reason, metric, len(wrong), 0, wrong or judged)


def judged_by_node(metric: str, problems: Mapping[Node, str], reason: str) -> Judgement:
    """`counted_wrong` of nodes with their problem, empty for a sound one: the first problem takes `reason`'s place."""
    wrong = tuple(node for node, problem in problems.items() if problem)
    return counted_wrong(metric, wrong, tuple(problems), f"{wrong[0]}: {problems[wrong[0]]}" if wrong else reason)
