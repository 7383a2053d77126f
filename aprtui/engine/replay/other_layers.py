"""Segments that err by more than runs of their rounding part by: whether those of other layers do so too.

Between two honest engines a flipped level may make more flips, so the bound of a segment admits more than any run of
ours shows. But what chance does to one layer it does to others: where none of these needs that much, and none errs by a
third of it, it is a fault. One that errs by no more than another one, whose runs do part so, stands out by nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from aprtui.compare.comparison import StageComparison
from aprtui.compare.everywhere import FEWEST
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.verdict import StageVerdict, Tolerance, Verdict
from aprtui.compare.wording import counted
from aprtui.engine.replay.bounds import MARGIN
from aprtui.engine.replay.recompute import Recomputed
from aprtui.engine.replay.spread import Spreads
from aprtui.trace.graph.stage import Node

GROWN = "more than runs of this rounding part by, within what flips of its levels may grow to"
"""Why a segment that passes its bound by far more than our own runs need is UNKNOWN."""


@dataclass(slots=True)
class OtherLayers:
    """The segments of one capture that err by more than runs of the known arithmetic part by, with that bound."""

    spreads: Spreads
    beyond: dict[Node, Tolerance] = field(default_factory=dict)

    def look_at(self, found: Recomputed, verdict: StageVerdict) -> None:
        """Remember a stage that passes, but not by what runs part by."""
        node, error = verdict.node, verdict.error
        is_judged = verdict.verdict is Verdict.PASS and verdict.metric is Metric.TOKEN_REL_L2 and error is not None
        if not is_judged or not found.segment or self.spreads.lacks_tokens(node):
            return
        if (error or 0.0) <= (self.spreads.close_bound(node, found.segment).floor or 0.0):
            return
        bound = self.spreads.runs_bound(node, found)
        if bound is not None:
            self.beyond[node] = bound

    def judged(self, compared: Sequence[StageComparison]) -> list[StageComparison]:
        """`compared`, with a FAIL where no segment of another layer errs so, and UNKNOWN where others nearly do, or too
        few are there to tell."""
        return [self._judged(stage, compared) if stage.node in self.beyond else stage for stage in compared]

    def _judged(self, stage: StageComparison, compared: Sequence[StageComparison]) -> StageComparison:
        others = [
            other
            for other in compared
            if other.node.stage == stage.node.stage and other.node != stage.node
            and len(other.segment) == len(stage.segment)
        ]  # fmt: skip
        alike = [other for other in others if other.node in self.beyond or other.verdict.verdict is not Verdict.PASS]
        bound, error = self.beyond[stage.node], stage.verdict.error or 0.0
        most = max((other.verdict.error or 0.0 for other in others), default=0.0)
        if len(others) >= FEWEST - 1 and not alike and error <= most:
            return stage
        if len(others) < FEWEST - 1 or alike or error <= MARGIN * most:
            return replace(stage, verdict=replace(stage.verdict, verdict=Verdict.UNKNOWN, reason=GROWN))
        reason = f"above {bound.basis}; {counted(len(others), 'other layer')} within it"
        return replace(
            stage,
            verdict=replace(stage.verdict, verdict=Verdict.FAIL, floor=bound.floor, bound=bound.bound, reason=reason),
        )
