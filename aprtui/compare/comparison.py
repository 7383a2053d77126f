"""What a comparison says: records that a report writes down in its own form."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.align.pairing import Unpaired
from aprtui.compare.align.tokens import TokenAlignment
from aprtui.compare.explain.classify import ErrorState
from aprtui.compare.explain.hypotheses import Hypothesis
from aprtui.compare.explain.locate import Element
from aprtui.compare.metrics.extras import UlpHistogram
from aprtui.compare.metrics.logits import LogitMetrics
from aprtui.compare.metrics.measure import Metric, PairMetrics
from aprtui.compare.verdict import StageVerdict, Tolerance, Verdict, is_plausible
from aprtui.trace.graph import Node


@dataclass(frozen=True, slots=True)
class StageComparison:
    """One compared stage: its numbers, its verdict, how the sides were matched and in which shape.

    `tokens` is rel_l2 of each token from `first_token` on (one number where no shape is known). `injected` are the
    verdicts on the error that A and B add at this stage themselves, None where no replay found it. `segment` are the
    stages before it that were evaluated through because the capture lacks them. `logits` say what differs in what the
    model says next, where the stage is that.
    """

    node: Node
    metrics: PairMetrics
    tokens: NDArray[np.float64]
    verdict: StageVerdict
    matched: str
    shape: tuple[int, ...]
    first_token: int = 0
    state: ErrorState = ErrorState.UNKNOWN
    injected: tuple[StageVerdict | None, StageVerdict | None] = (None, None)
    segment: tuple[Node, ...] = ()
    logits: LogitMetrics | None = None


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first divergent stage and where in it.

    `segment` are the stages that could be to blame for it: itself, and on the way to it those that a capture lacks.
    `not_selected` are stages before it that both captures hold and the selection left out. `state` says how it was
    found: an injected error is the stage's own. `certainty` says in words how sure that is, `settled_by` what would
    settle it, None where nothing is left to settle.
    """

    verdict: StageVerdict
    place: dict[str, int]
    segment: tuple[Node, ...]
    not_selected: tuple[Node, ...] = ()
    state: ErrorState = ErrorState.UNKNOWN
    certainty: str = ""
    settled_by: str | None = None


class FocusKind(StrEnum):
    """Why a stage is the one to look at first."""

    DIVERGENCE = "the first divergent stage"
    JUMP = "the first stage with 10 times the error of its inputs"
    WORST = "the stage that differs most"


@dataclass(frozen=True, slots=True)
class Focus:
    """The stage to look at first, and why it is that one."""

    node: Node
    kind: FocusKind


@dataclass(frozen=True, slots=True)
class Hint:
    """A pattern in the numbers that has a common cause: the stages that show it, and what it looks like."""

    nodes: tuple[Node, ...]
    text: str


@dataclass(frozen=True, slots=True)
class FloatSteps:
    """How many float32 numbers lie between the sides of the stage in focus, and what it took to count them."""

    histogram: UlpHistogram
    seconds: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that a comparison says; a report is a way to write it down.

    `metric` is the one that stages are ranked by, `smallest` the smallest tolerance of it that would pass all of them.
    `elements` are of the stage in `focus`. `reasons` say why the verdict is UNKNOWN, `unfinished` names the sides (A,
    B) whose run did not finish. `expected` stages must not be missing; `allowed_missing` more are, by permission.
    `statements` say what was found out before judging: what differs between the sides, which rounding was found, where
    the floor comes from. `hypotheses` are about the stage in `focus` where it diverges, those supported first. `steps`
    are there where they were asked for.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    alignment: TokenAlignment
    stages: tuple[StageComparison, ...]
    skipped: tuple[Unpaired, ...]
    compared: int
    expected: int
    allowed_missing: int
    unfinished: tuple[str, ...]
    first_divergence: Divergence | None
    focus: Focus | None
    elements: tuple[Element, ...]
    hints: tuple[Hint, ...]
    metric: Metric
    smallest: Tolerance | None
    statements: tuple[str, ...] = ()
    hypotheses: tuple[Hypothesis, ...] = ()
    steps: FloatSteps | None = None

    @property
    def alike(self) -> tuple[StageComparison, ...]:
        """The stages that hold NaN or Inf alike on both sides, in execution order."""
        return tuple(stage for stage in self.stages if stage.metrics.excluded)

    @property
    def implausible(self) -> tuple[StageComparison, ...]:
        """The stages that differ by more than rounding and 4-bit weights explain, in execution order."""
        return tuple(stage for stage in self.stages if not is_plausible(stage.metrics))
