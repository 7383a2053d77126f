"""A comparison as its records tell it (docs/diff-json.md), and judged anew by a bound that the user moves.

Nothing is measured here: the records hold every metric of every stage, and the judge of the headless command judges
them again. So what a moved bound says is what `--tolerance` says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from aprtui.compare.conclusion import overall, unknown_reasons
from aprtui.compare.explain.ancestors import nearest
from aprtui.compare.explain.classify import ErrorState
from aprtui.compare.metrics.measure import Metric, PairMetrics
from aprtui.compare.verdict import ROUNDING_REL_L2, StageVerdict, Tolerance, Verdict, judge, smallest_tolerance
from aprtui.trace.graph import Node, StageGraph, graph_from_names

Fields = Mapping[str, Any]

METRICS = (
    Metric.TOKEN_REL_L2, Metric.REL_L2, Metric.REL_LINF, Metric.MAX_ABS, Metric.MEAN_ABS, Metric.RMS, Metric.COSINE
)  # fmt: skip
"""Those that a bound can be put on, in the order in which they are gone through."""

BOUND_STEP = 10**0.25
"""A step of the bound: four of them are a factor of 10."""

_NUMBERS = frozenset(field.name for field in fields(PairMetrics))
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@dataclass(frozen=True, slots=True)
class Stage:
    """What is said of one stage: the verdict on it, and what a replay of A and of B found it to add itself.

    `metrics` are None for a stage that was not compared; `reason` then says why, and `side` is the only one that has
    it. `steps` before it were evaluated through by a replay, since the capture lacks them.
    """

    node: Node
    verdict: StageVerdict | None
    state: ErrorState
    reason: str
    metrics: PairMetrics | None = None
    injected: tuple[StageVerdict | None, StageVerdict | None] = (None, None)
    side: str | None = None
    shape: tuple[int, ...] = ()
    matched: str = ""

    @property
    def beyond(self) -> bool:
        """Whether it is beyond its bound."""
        return self.verdict is not None and self.verdict.verdict is Verdict.FAIL

    @property
    def alike(self) -> bool:
        """Whether it was compared and is within its bound."""
        return self.verdict is not None and self.verdict.verdict is Verdict.PASS


@dataclass(frozen=True, slots=True)
class Element:
    """One of the values that differ most, at `place` (token and channel; head, query and key)."""

    place: Mapping[str, int]
    a: float
    b: float


@dataclass(frozen=True, slots=True)
class Flip:
    """A token after which the sides would say different tokens, by which lead of A's (in logits)."""

    token: int
    id_a: int
    id_b: int
    margin_a: float


@dataclass(frozen=True, slots=True)
class Told:
    """A whole comparison. `stages` are in the order of execution, `focus` is the one that `elements` are of.

    `flips` are None where a side has no logits of all tokens to tell them from.
    """

    header: Fields
    summary: Fields
    stages: Mapping[Node, Stage]
    graph: StageGraph
    hypotheses: tuple[Fields, ...]
    hints: tuple[Fields, ...]
    focus: Node | None
    elements: tuple[Element, ...]
    flips: tuple[Flip, ...] | None

    @property
    def compared(self) -> Iterator[tuple[Stage, StageVerdict, PairMetrics]]:
        """The stages that were compared, with their verdict and their numbers."""
        for stage in self.stages.values():
            if stage.verdict is not None and stage.metrics is not None:
                yield stage, stage.verdict, stage.metrics


def told(records: Iterable[Fields]) -> Told:
    """What the records of one comparison tell. Raises `KeyError` where one is missing or lacks a field."""
    by_kind: dict[str, list[Fields]] = {}
    for record in records:
        by_kind.setdefault(record["record"], []).append(_finite(record))
    compared = [_compared(record) for record in by_kind.get("comparison", [])]
    skipped = [_skipped(record) for record in by_kind.get("skip", [])]
    found = {stage.node: stage for stage in (*compared, *skipped)}
    layers = 1 + max((node.layer for node in found if node.layer is not None), default=-1)
    graph = graph_from_names({node.stage for node in found}, layers)
    # What the graph does not know (single stage files) comes last.
    order = {node: index for index, node in enumerate(graph.nodes)}
    stages = {node: found[node] for node in sorted(found, key=lambda node: order.get(node, len(order)))}
    focus = next((record for record in by_kind.get("comparison", []) if record["top"]), None)
    summary = by_kind["summary"][0]
    return Told(
        by_kind["header"][0], summary, stages, graph,
        tuple(by_kind.get("hypothesis", ())), tuple(by_kind.get("hint", ())),
        None if focus is None else _node(focus),
        () if focus is None else tuple(map(_element, focus["top"])),
        _flips(by_kind.get("comparison", []), summary),
    )  # fmt: skip


def _node(record: Fields) -> Node:
    return Node(record["layer"], record["stage"])


def _finite(record: Fields) -> Fields:
    """The record with numbers for `"nan"`, `"inf"` and `"-inf"`, which JSON has no numbers for."""

    def number(value: Any) -> Any:
        return _NOT_FINITE.get(value, value) if isinstance(value, str) else value

    top = [{name: number(value) for name, value in element.items()} for element in record.get("top", ())]
    injected = {
        side: None if record.get(side) is None else {name: number(value) for name, value in record[side].items()}
        for side in ("injected_a", "injected_b")
    }
    return {**{name: number(value) for name, value in record.items()}, **injected, "top": top}


def _compared(record: Fields) -> Stage:
    node, metric = _node(record), Metric(record["metric"])
    verdict = StageVerdict(
        node, Verdict(record["verdict"]), metric, record["error"], record["floor"], record["bound"], record["reason"]
    )

    def injected(side: str) -> StageVerdict | None:
        found = record[side]
        if found is None:
            return None
        judged = Verdict(found["verdict"])
        return StageVerdict(node, judged, Metric.TOKEN_REL_L2, found["error"], found["floor"], found["bound"], "")

    numbers: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in record.items() if name in _NUMBERS
    }
    metrics = PairMetrics(**numbers)
    return Stage(
        node, verdict, ErrorState(record["state"]), record["reason"], metrics,
        (injected("injected_a"), injected("injected_b")), shape=tuple(record["shape"]), matched=record["matched"],
    )  # fmt: skip


def _skipped(record: Fields) -> Stage:
    return Stage(_node(record), None, ErrorState.UNKNOWN, record["reason"], side=record["side"])


def _element(top: Fields) -> Element:
    return Element({name: value for name, value in top.items() if name not in ("a", "b")}, top["a"], top["b"])


def _flips(compared: Sequence[Fields], summary: Fields) -> tuple[Flip, ...] | None:
    logits = next((record["logits"] for record in compared if record["logits"] is not None), None)
    tokens = summary["aligned_tokens"]
    if logits is None or (logits["rows"] == 1 and tokens != 1):
        return None
    return tuple(
        Flip(flip["row"], flip["token_a"], flip["token_b"], float(flip["margin_a"])) for flip in logits["flips"]
    )


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict of a comparison, as told or by a bound of the user's own (`bound`).

    `first` is the stage to blame, `place` where in it; `certainty` says how sure that is.
    """

    told: Told
    stages: Mapping[Node, Stage]
    verdict: Verdict
    reasons: tuple[str, ...]
    first: Node | None
    place: Mapping[str, int]
    certainty: str
    metric: Metric
    smallest: str | None
    bound: Tolerance | None = None

    @property
    def divergent(self) -> tuple[Node, ...]:
        """The stages beyond their bound, in the order of execution."""
        return tuple(node for node, stage in self.stages.items() if stage.beyond)


def as_told(told: Told) -> Judgement:
    """The judgement of the headless command."""
    summary, first = told.summary, told.summary["first_divergence"]
    judged = [verdict for _, verdict, metrics in told.compared if not metrics.mismatches]
    metric = next((verdict.metric for verdict in judged if verdict.metric in METRICS), Metric.REL_L2)
    place = {} if first is None else {name: first[name] for name in ("token", "channel") if name in first}
    return Judgement(
        told, told.stages, Verdict(summary["verdict"]), tuple(summary["reasons"]),
        None if first is None else _node(first), place if first is None else first.get("index", place),
        "" if first is None else first["certainty"], metric, summary["smallest_tolerance"],
    )  # fmt: skip


def by_bound(told: Told, bound: Tolerance) -> Judgement:
    """The judgement by one bound on the difference of all stages, as `--tolerance` makes it."""
    verdicts: dict[Node, StageVerdict] = {}
    for stage, verdict, metrics in told.compared:
        own = verdict.metric is Metric.INDICES
        verdicts[stage.node] = verdict if own else judge(stage.node, metrics, (bound,))
    stages = {
        node: _rejudged(stage, verdicts[node], _state(told.graph, node, verdicts)) if node in verdicts else stage
        for node, stage in told.stages.items()
    }
    header, summary = told.header, told.summary
    reasons = unknown_reasons(
        header["token_problem"], (), header["unfinished"], summary["expected"],
        [(verdicts[stage.node].verdict, metrics.compared > 0) for stage, _, metrics in told.compared],
    )  # fmt: skip
    whole = overall([found.verdict for found in verdicts.values()], header["tokens_differ"], reasons)
    failed = [stage for stage in stages.values() if stage.beyond]
    first = next((stage for stage in failed if stage.state is ErrorState.INJECTED), failed[0] if failed else None)
    smallest = smallest_tolerance((metrics for _, _, metrics in told.compared), bound.metric)
    blamed = first if whole is Verdict.FAIL else None
    return Judgement(
        told, stages, whole, () if whole is Verdict.FAIL else reasons, None if blamed is None else blamed.node, {},
        "" if blamed is None else "likely: judged here by whole stages; r judges each token", bound.metric,
        None if smallest is None else str(smallest), bound,
    )  # fmt: skip


def _rejudged(stage: Stage, verdict: StageVerdict, state: ErrorState) -> Stage:
    return replace(stage, verdict=verdict, state=state, reason=verdict.reason, injected=(None, None))


def _state(graph: StageGraph, node: Node, verdicts: Mapping[Node, StageVerdict]) -> ErrorState:
    """Whether a stage is to blame itself, told from whole stages: records do not hold the error of each token."""
    own = verdicts[node].verdict
    if own is not Verdict.FAIL:
        return ErrorState.CLEAN if own is Verdict.PASS else ErrorState.UNKNOWN
    sources = [verdicts[source].verdict for source in nearest(graph, node, verdicts)] if node.stage in graph else []
    if Verdict.UNKNOWN in sources:
        return ErrorState.UNKNOWN
    return ErrorState.INHERITED if Verdict.FAIL in sources else ErrorState.INJECTED


def moved_bound(judgement: Judgement, metric: Metric, steps: int) -> Tolerance | None:
    """A bound on `metric`, so many steps wider (narrower where negative); None where no stage has that number.

    It begins at the smallest bound that every stage passes.
    """
    bound = judgement.bound
    if bound is None or bound.metric is not metric:
        bound = smallest_tolerance((metrics for _, _, metrics in judgement.told.compared), metric)
        if bound is None:
            return Tolerance(metric, 0.99 if metric.is_similarity else 0.1)
        steps = min(steps, 0)
    factor = BOUND_STEP**steps
    if metric.is_similarity:
        return Tolerance(metric, max(float(f"{1 - (1 - bound.bound) * factor:.6g}"), -1.0))
    return Tolerance(metric, float(f"{(bound.bound or ROUNDING_REL_L2) * factor:.3g}"))
