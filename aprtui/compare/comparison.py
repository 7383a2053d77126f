"""What a comparison says, as records: `explain` and `conclusion` make them, a report writes them down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.align.pairing import Unpaired
from aprtui.compare.align.tokens import TokenAlignment
from aprtui.compare.metrics.extras import UlpHistogram
from aprtui.compare.metrics.logits import Flip, LogitMetrics
from aprtui.compare.metrics.measure import Metric, PairMetrics
from aprtui.compare.verdict import Signal, StageVerdict, Tolerance, Verdict, is_plausible
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph


class ErrorState(StrEnum):
    CLEAN = "clean"
    INHERITED = "inherited"
    INJECTED = "injected"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class StageComparison:
    """One compared stage: its numbers, its verdict, how the sides were matched and in which shape.

    `tokens` is rel_l2 of each token from `first_token` on (one number where no shape is known); it is empty in a
    comparison that was read back from its records, which do not hold it. `injected` are the verdicts on the error that
    A and B add at this stage themselves, None without a replay. `segment` are the stages before it that a replay had to
    evaluate because the capture lacks them. `logits` is None for every stage but the logits. `place` names the value
    that differs most, NaN or Inf on one side only before any other; it is empty where none differs.
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
    place: Mapping[str, int] = field(default_factory=dict)

    @property
    def reordered(self) -> str:
        """How B's values were put into A's order before they were compared; empty where they lie as A's do."""
        return self.matched.partition("; ")[2]


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first divergent stage and where in it; `place` is empty where the values were not at hand.

    `segment` are the stages that could be to blame: itself, and on the way to it those that a capture lacks.
    `not_selected` are stages before it that both captures hold and the selection left out. `state` says how it was
    found: an injected error is the stage's own. `certainty` says in words how sure that is, `settled_by` what would
    settle it, None where nothing is left to settle.
    """

    verdict: StageVerdict
    place: Mapping[str, int]
    segment: tuple[Node, ...]
    not_selected: tuple[Node, ...] = ()
    state: ErrorState = ErrorState.UNKNOWN
    certainty: str = ""
    settled_by: str | None = None


class FocusKind(StrEnum):
    """Why a stage is the one to look at first: of a FAIL, of what nothing judges, of a PASS."""

    DIVERGENCE = "the first divergent stage"
    JUMP = "a stage with 10 times the error of its inputs"
    WORST = "the stage that differs most"
    NEAREST = "the stage nearest to its bound"


@dataclass(frozen=True, slots=True)
class Focus:
    node: Node
    kind: FocusKind


@dataclass(frozen=True, slots=True)
class Element:
    """One pair of values; `place` names the coordinates (token and channel; head, query and key)."""

    place: Mapping[str, int]
    a: float
    b: float


class Support(StrEnum):
    SUPPORTED = "supported"
    REFUTED = "refuted"
    UNTESTED = "untested"


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A signature of a common bug held against the values: its name, the numbers that decide, its usual cause.

    `looks_like` is what was found in a few words, to stand in a sentence: "× 1.99993".
    """

    name: str
    support: Support
    evidence: str
    cause: str
    looks_like: str


@dataclass(frozen=True, slots=True)
class Cause:
    """Why stages err: computed in another way, which `words` say, all `nodes` come out as captured, and the model's own
    way is far off.

    `error` is what the model's own way errs by at the worst of them, `residue` the most that the other one leaves,
    which is within `bound`. `everywhere` is whether these are all layers that have such a stage. `alike` are further
    ways that come out as captured, in words; `settled_by` says what would tell them apart, `apart` which stages of the
    same run do that. `side` names the capture in a comparison of two. `places` names, for the stages that show it, the
    value that the model's own way misses by most; a stage whose values lie in another order has none. `untold` are the
    layers beside those of `nodes` in which both ways come out as captured: it may be so there as well.
    """

    name: str
    words: str
    advice: str
    nodes: tuple[Node, ...]
    everywhere: bool
    error: float
    residue: float
    bound: float
    alike: tuple[str, ...] = ()
    settled_by: str = ""
    side: str = ""
    apart: tuple[Node, ...] = ()
    places: tuple[tuple[Node, Mapping[str, int]], ...] = ()
    untold: tuple[int, ...] = ()

    def place(self, node: Node) -> Mapping[str, int]:
        """The value of a stage that the cause is about; empty where none is known."""
        return dict(self.places).get(node, {})


@dataclass(frozen=True, slots=True)
class TriedAlternative:
    """Another way of computing `node`, held against what was captured of the stage `at` that fails: itself, or one
    behind it where what is between was not captured. What it leaves, and why that is no proof; empty where it is one.
    `side` names the capture in a comparison of two."""

    node: Node
    at: Node
    name: str
    words: str
    residue: float
    refuted: str
    side: str = ""

    @property
    def is_proved(self) -> bool:
        return not self.refuted


@dataclass(frozen=True, slots=True)
class Hint:
    """A pattern in the numbers that has a known cause: the stages that show it, and a description."""

    nodes: tuple[Node, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Everywhere:
    """An error that the stages of one kind of op (`what`, "matrix products") have in common.

    `nodes` err so, of `total` that were looked at; `error` is their median relative L2. `looks_like` says what errs so
    ("weights in fp8 …"), None where nothing that is known does. `may_be_meant` is False where no engine means it, or
    the capture's own manifest states otherwise: then it is a fault. `settled_by` says how to state that it is meant.
    `side` names the capture in a comparison of two.
    """

    what: str
    nodes: tuple[Node, ...]
    total: int
    error: float
    looks_like: str | None
    may_be_meant: bool
    settled_by: str = ""
    side: str = ""


@dataclass(frozen=True, slots=True)
class FloatSteps:
    """How many float32 numbers lie between the sides of the stage in focus, and how long the counting took."""

    histogram: UlpHistogram
    seconds: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that a comparison says; a report is a way to write it down.

    `graph` has the stages of both sides; `stages` and `skipped` are in its order. `metric` is the one that stages are
    ranked by, `smallest` the smallest tolerance of it that would pass all of them. `elements` are of the stage in
    `focus`. `reasons` say why the verdict is UNKNOWN, `unfinished` names the sides (A, B) whose run did not finish.
    `expected` stages must not be missing; `allowed_missing` more are, by permission. `statements` say what was found
    out before judging: what differs between the sides, which rounding was found, where the floor comes from.
    `hypotheses` are about the stage in `focus` where it diverges, those supported first. `steps` is None unless the
    user asked for it. `everywhere` is what no single stage is to blame for. `causes` are those that a replay proved, in
    execution order; `alternatives` all that were tried, stage by stage, the nearest first. Of a comparison that is not
    `judgeable`, a reason says what has to be given otherwise: no bound and no further capture settles it.
    """

    graph: StageGraph
    verdict: Verdict
    reasons: tuple[str, ...]
    alignment: TokenAlignment
    stages: tuple[StageComparison, ...]
    compared: int
    expected: int
    first_divergence: Divergence | None
    focus: Focus | None
    elements: tuple[Element, ...]
    metric: Metric
    smallest: Tolerance | None
    skipped: tuple[Unpaired, ...] = ()
    allowed_missing: int = 0
    unfinished: tuple[str, ...] = ()
    hints: tuple[Hint, ...] = ()
    statements: tuple[str, ...] = ()
    hypotheses: tuple[Hypothesis, ...] = ()
    steps: FloatSteps | None = None
    everywhere: tuple[Everywhere, ...] = ()
    causes: tuple[Cause, ...] = ()
    alternatives: tuple[TriedAlternative, ...] = ()
    judgeable: bool = True

    @property
    def by_node(self) -> dict[Node, StageComparison | Unpaired]:
        """Every stage, compared or not, in execution order; those that the graph does not know come last."""
        order = self.graph.order
        entries: list[StageComparison | Unpaired] = [*self.stages, *self.skipped]
        entries.sort(key=lambda entry: order.get(entry.node, len(order)))
        return {entry.node: entry for entry in entries}

    @property
    def flips(self) -> tuple[Flip, ...] | None:
        """The tokens after which the sides would say different tokens; None without logits of all tokens."""
        logits = next((stage.logits for stage in self.stages if stage.logits is not None), None)
        if logits is None or (logits.rows == 1 and self.alignment.aligned != 1):
            return None
        return logits.flips

    @property
    def divergent(self) -> tuple[StageComparison, ...]:
        """The stages beyond their bound, in execution order."""
        return tuple(stage for stage in self.stages if stage.verdict.verdict is Verdict.FAIL)

    @property
    def differing(self) -> tuple[StageComparison, ...]:
        """The stages of which some value differs, in execution order."""
        return tuple(stage for stage in self.stages if stage.metrics.max_abs or stage.metrics.mismatches)

    @property
    def adding(self) -> frozenset[Node]:
        """The stages that add error beyond their bound: those that a replay found, and those where NaN or Inf begins.

        Without a replay the first divergence alone: what comes after it can be inherited, also where all inputs of a
        stage are within their bounds, as behind a residual whose few largest channels hide the error of the others.
        """
        first = None if self.first_divergence is None else self.first_divergence.verdict.node
        return frozenset(
            stage.node
            for stage in self.divergent
            if stage.state is ErrorState.INJECTED
            and (
                stage.node == first
                or stage.verdict.signal is Signal.INJECTED
                or stage.verdict.metric is Metric.NON_FINITE
            )
        )

    @property
    def alike(self) -> tuple[StageComparison, ...]:
        """The stages that hold NaN or Inf alike on both sides, in execution order."""
        return tuple(stage for stage in self.stages if stage.metrics.excluded)

    @property
    def implausible(self) -> tuple[StageComparison, ...]:
        """The stages that differ by more than rounding and 4-bit weights explain, in execution order."""
        return tuple(stage for stage in self.stages if not is_plausible(stage.metrics))
