"""Criteria for a comparison of two captures from replays: each side against its own model, stage by stage."""

from __future__ import annotations

from dataclasses import replace

from aprtui.compare.captures import Criteria
from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import StageVerdict, Verdict
from aprtui.trace.graph import Node


def criteria_by_replay(a: Comparison | None, b: Comparison | None) -> Criteria:
    """The results of the replays of A and B; None for a side without a model, whose stages stay unjudged.

    A side whose replay cannot be judged makes the comparison UNKNOWN.
    """
    sides = {"A": a, "B": b}
    statements = [
        f"{name}: {statement}" for name, side in sides.items() if side is not None for statement in side.statements
    ]
    doubts = [
        f"the replay of {name}: {reason}"
        for name, side in sides.items()
        if side is not None and side.verdict is Verdict.UNKNOWN
        for reason in side.reasons
    ]
    doubts += [f"{name} was not replayed: give its model" for name, side in sides.items() if side is None]
    found_a, found_b = _verdicts("A", a), _verdicts("B", b)
    injected = {node: (found_a.get(node), found_b.get(node)) for node in {**found_a, **found_b}}
    return Criteria(injected=injected, statements=tuple(statements), doubts=tuple(doubts), unjudgeable=False)


def _verdicts(name: str, side: Comparison | None) -> dict[Node, StageVerdict]:
    """The verdict on each stage of one side; the reason of a failure names the side."""
    if side is None or side.verdict is Verdict.UNKNOWN:
        return {}
    return {stage.node: _of_side(name, stage.verdict) for stage in side.stages}


def _of_side(name: str, verdict: StageVerdict) -> StageVerdict:
    failed = verdict.verdict is Verdict.FAIL
    return replace(verdict, reason=f"injected in {name}, {verdict.reason}") if failed else verdict
