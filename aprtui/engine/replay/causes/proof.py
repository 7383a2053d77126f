"""When an alternative is proved.

A proof needs all of this: the alternative leaves no more than honest engines do, at every token and at every place; the
model's own way leaves at least five times as much; and at least four times as many values are off as numbers were
solved for. What falls short of it is never called a cause.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.align.pairing import StagePair
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.verdict import Signal, StageVerdict, Verdict
from aprtui.compare.wording import counted
from aprtui.engine.alternatives.alternative import Alternative, Attempt
from aprtui.engine.replay.causes.failing import Failing, SearchedRun
from aprtui.engine.replay.errors_by_place import ErrorsByPlace
from aprtui.trace.graph.stage import Node

Array = NDArray[np.float32]

FAR = 5.0
"""What the model's own way must leave, times what the alternative leaves."""
_VALUES_A_NUMBER = 4
_AS_NEAR = 4.0
"""An alternative that leaves up to so many times what the nearest leaves is no worse than that."""
_FLOAT32 = 4e-7
"""The same for those that leave next to nothing."""
_MORE_NUMBERS = 2
"""An alternative that needs more numbers than another contains it, and says less."""
LACKING = (KeyError, IndexError, ValueError, ArithmeticError)
"""What an alternative raises that needs stages, or tokens, that a capture lacks, or for numbers that are no numbers."""


@dataclass(frozen=True, slots=True)
class ChangedNodes:
    """Nodes that are computed in another way."""

    at: frozenset[Node]
    alternative: Alternative
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class TriedAttempt:
    """What comes of a stage that fails where `nodes` are computed in another way; `parts` are the alternatives that it
    is made of, and `change` is the last of them. `refuted` says why it is no proof."""

    node: Node
    alternative: Alternative
    attempt: Attempt
    residue: float
    refuted: str
    nodes: tuple[Node, ...]
    parts: tuple[Alternative, ...]
    change: ChangedNodes

    @property
    def is_proved(self) -> bool:
        return not self.refuted


@dataclass(frozen=True, slots=True)
class Proof:
    """The alternative that explains a stage that fails, and those that cannot be told from it; `also` are further
    stages that fail for it."""

    failing: Failing
    best: TriedAttempt
    alike: tuple[TriedAttempt, ...] = ()
    also: tuple[Failing, ...] = ()


def is_as_near(left: float, nearest: float) -> bool:
    """Whether what an alternative leaves is no worse than what the `nearest` leaves."""
    return left <= max(_AS_NEAR * nearest, _FLOAT32)


def nearest_proof(failing: Failing, outcomes: Sequence[TriedAttempt]) -> Proof | None:
    """The first of the alternatives that come nearest, in the order of their table, and the others of them."""
    proved = [outcome for outcome in outcomes if outcome.is_proved]
    if not proved:
        return None
    nearest = min(outcome.residue for outcome in proved)
    near = [one for one in proved if is_as_near(one.residue, nearest)]
    fewest = min(one.attempt.fitted for one in near)
    best, *others = [one for one in near if one.attempt.fitted <= fewest + _MORE_NUMBERS]
    return Proof(failing, best, tuple({one.attempt.words: one for one in others}.values()))


def _nothing() -> None:
    """What a judge calls whose caller shows no progress."""


@dataclass(slots=True)
class Judge:
    """Judges what an alternative leaves of a stage that fails; calls `tick` each time, which may end the search."""

    run: SearchedRun
    places: ErrorsByPlace
    tick: Callable[[], None] = _nothing

    def outcome(self, failing: Failing, alternative: Alternative, attempt: Attempt, values: Array) -> TriedAttempt:
        """What is left where the stage comes out as `values`."""
        self.tick()
        values = self.run.stages.as_held(failing.node, values)
        left = self.run.left(failing, values)
        refuted = self._refuted(failing, attempt, values, left)
        node = failing.node
        change = ChangedNodes(frozenset({node}), alternative, attempt)
        return TriedAttempt(node, alternative, attempt, left, refuted, (node,), (alternative,), change)

    def _refuted(self, failing: Failing, attempt: Attempt, values: Array, left: float) -> str:
        """Why what an attempt leaves is no proof; empty where it is one."""
        own, by_place = failing.error, failing.comparison.verdict.metric is Metric.PLACE
        if left == float("inf"):
            return "has NaN or Inf where the capture has none, or lacks them"
        if left > 0 and self.run.model.graph[failing.node.stage].holds_indices:
            return "chooses otherwise"
        if left > failing.bound:
            return f"more than honest engines leave, {failing.bound:.2g}"
        if not by_place and left * FAR > own:
            return f"the model's own way leaves {own:.2g}, which is not {FAR:g} times as much"
        if by_place and _squared(values, failing.found) >= _squared(failing.own, failing.found):
            return "the model's own way leaves no more"
        affected, enough = _affected(failing), _VALUES_A_NUMBER * attempt.fitted
        if affected < enough:
            solved = f"{counted(attempt.fitted, 'number')} that {'is' if attempt.fitted == 1 else 'are'} solved for"
            return f"{counted(affected, 'value')} off, of {enough} at least that would prove {solved}"
        place = self._standing_out(failing, values)
        return f"a place stands out in it: {place}" if place else ""

    def _standing_out(self, failing: Failing, values: Array) -> str:
        """The place that stands out in what an alternative leaves; empty where none does."""
        node, run = failing.node, self.run
        first = len(run.stages.tokens) - failing.found.shape[-2]
        pair = StagePair(node, values, failing.found, run.model.graph[node.stage].axes, first, "")
        passed = StageVerdict(node, Verdict.PASS, Metric.TOKEN_REL_L2, 0.0, 0.0, failing.bound, "", Signal.INJECTED)
        judged = self.places.judged(pair, passed)
        return "" if judged.verdict is Verdict.PASS else judged.reason


def _affected(failing: Failing) -> int:
    """How many values are off by more than rounding."""
    own, found = failing.own.astype(np.float64), failing.found.astype(np.float64)
    finite = np.isfinite(own) & np.isfinite(found)
    typical = np.sqrt(np.mean(own[finite] ** 2)) if finite.any() else 0.0
    off = np.abs(own - found)[finite] > failing.bound * typical
    return int(off.sum() + (np.isfinite(own) != np.isfinite(found)).sum())


def _squared(values: Array, found: Array) -> float:
    difference = values.astype(np.float64) - found
    return float((difference[np.isfinite(difference)] ** 2).sum())
