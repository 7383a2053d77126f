"""A comparison as records for programs, and back: `header`, a `comparison` or `skip` for each stage, `hint` and
`hypothesis`, `cause` and `alternative` records, a last `summary`.

The comparison of the stage in focus carries its `top` elements. Numbers are plain Python numbers, non-finite ones
included: the caller that prints them decides how. docs/diff-json.md says what each field means.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from aprtui.compare.align.pairing import Unpaired
from aprtui.compare.align.tokens import TokenAlignment
from aprtui.compare.causes import cause_sentence
from aprtui.compare.comparison import (
    Cause,
    Comparison,
    Divergence,
    Element,
    ErrorState,
    Everywhere,
    FloatSteps,
    Focus,
    FocusKind,
    Hint,
    Hypothesis,
    StageComparison,
    Support,
    TriedAlternative,
)
from aprtui.compare.everywhere import sentence
from aprtui.compare.explain.focus import choose_focus
from aprtui.compare.manifests import ManifestDifferences
from aprtui.compare.metrics.extras import UlpHistogram
from aprtui.compare.metrics.logits import Flip, LogitMetrics
from aprtui.compare.metrics.measure import Metric, PairMetrics
from aprtui.compare.report.headline import headline
from aprtui.compare.verdict import DEFAULT_METRIC, TOLERABLE, Signal, StageVerdict, Verdict, parse_tolerance
from aprtui.trace.graph.names import graph_from_names
from aprtui.trace.graph.stage import Node

Record = dict[str, Any]

SCHEMA = "aprtui-diff-v1"
"""Fields are added under this name, never changed or taken away."""

# By name: records of a later version have further fields.
_METRICS = frozenset(field.name for field in fields(PairMetrics))
_LOGITS = frozenset(field.name for field in fields(LogitMetrics)) - {"flips"}
_EVERYWHERE = frozenset(field.name for field in fields(Everywhere))
_CAUSE = frozenset(field.name for field in fields(Cause))
_NUMBERS = frozenset({"error", "residue", "bound"})
_FLIPS = frozenset(field.name for field in fields(Flip))


def comparison_records(
    a: Path | str, b: Path | str, manifests: ManifestDifferences | None, comparison: Comparison,
    commands: Sequence[str] = (),
) -> Iterator[Record]:  # fmt: skip
    """All records of a comparison of `a` and `b`, the summary last; `manifests` is None for stage files, `commands`
    are those to go on with."""
    alignment = comparison.alignment
    yield {
        "record": "header",
        "schema": SCHEMA,
        "path_a": str(a),
        "path_b": str(b),
        "differences": [asdict(difference) for difference in manifests.differences] if manifests else [],
        "without_manifest": list(manifests.without_manifest) if manifests else [],
        "token_source_a": alignment.sources[0],
        "token_source_b": alignment.sources[1],
        "token_problem": alignment.problem,
        "tokens_differ": alignment.proven_different,
        "unfinished": list(comparison.unfinished),
        "statements": list(comparison.statements),
    }
    focus = comparison.focus.node if comparison.focus else None
    for stage in comparison.stages:
        yield _stage_record(stage, comparison.elements if stage.node == focus else ())
    for skipped in comparison.skipped:
        yield {"record": "skip", **_node(skipped.node), "side": skipped.side, "reason": skipped.reason}
    for hint in comparison.hints:
        yield {"record": "hint", "nodes": [_node(node) for node in hint.nodes], "text": hint.text}
    for hypothesis in comparison.hypotheses:
        yield {
            "record": "hypothesis",
            "name": hypothesis.name,
            "state": hypothesis.support.value,
            "evidence": hypothesis.evidence,
            "cause": hypothesis.cause,
            "looks_like": hypothesis.looks_like,
        }
    for cause in comparison.causes:
        nodes = {"nodes": _nodes(cause.nodes), "apart": _nodes(cause.apart)}
        places = [{**_node(node), "place": dict(place)} for node, place in cause.places]
        yield {**asdict(cause), "record": "cause", "sentence": cause_sentence(cause), **nodes, "places": places}
    for tried in comparison.alternatives:
        yield {
            "record": "alternative",
            **_node(tried.node),
            "at": _node(tried.at),
            "name": tried.name,
            "words": tried.words,
            "residue": tried.residue,
            "is_proved": tried.is_proved,
            "refuted": tried.refuted,
            "side": tried.side,
        }
    if comparison.steps is not None and focus is not None:
        yield {
            "record": "extras",
            **_node(focus),
            "ulp_counts": list(comparison.steps.histogram.counts),
            "ulp_excluded": comparison.steps.histogram.excluded,
            "ulp_largest": comparison.steps.histogram.largest,
            "seconds": comparison.steps.seconds,
        }
    yield _summary(comparison, commands)


def _node(node: Node) -> Record:
    return {"layer": node.layer, "stage": node.stage}


def _nodes(nodes: Iterable[Node]) -> list[Record]:
    return [_node(node) for node in nodes]


def _stage_record(stage: StageComparison, elements: Sequence[Element]) -> Record:
    verdict = stage.verdict
    return {
        "record": "comparison",
        **_node(stage.node),
        "verdict": verdict.verdict.value,
        "metric": verdict.metric.value,
        "error": verdict.error,
        "floor": verdict.floor,
        "bound": verdict.bound,
        "reason": verdict.reason,
        "signal": verdict.signal.value,
        "state": stage.state.value,
        "injected_a": _injected(stage.injected[0]),
        "injected_b": _injected(stage.injected[1]),
        "segment": [_node(node) for node in stage.segment],
        "matched": stage.matched,
        "shape": list(stage.shape),
        **asdict(stage.metrics),
        "logits": None if stage.logits is None else asdict(stage.logits),
        "excluded": stage.metrics.excluded,
        "place": dict(stage.place),
        "top": [{**element.place, "a": element.a, "b": element.b} for element in elements],
    }


def _injected(verdict: StageVerdict | None) -> Record | None:
    if verdict is None:
        return None
    return {"verdict": verdict.verdict.value, "error": verdict.error, "floor": verdict.floor, "bound": verdict.bound}


def _summary(comparison: Comparison, commands: Sequence[str]) -> Record:
    divergence = comparison.first_divergence
    return {
        "record": "summary",
        "verdict": comparison.verdict.value,
        "headline": headline(comparison),
        "reasons": list(comparison.reasons),
        "judgeable": comparison.judgeable,
        "first_divergence": None if divergence is None else _divergence_record(divergence),
        "everywhere": [_everywhere_record(found) for found in comparison.everywhere],
        "compared": comparison.compared,
        "expected": comparison.expected,
        "allowed_missing": comparison.allowed_missing,
        "aligned_tokens": comparison.alignment.aligned,
        "next": list(commands),
        "smallest_tolerance": None if comparison.smallest is None else str(comparison.smallest),
    }


def _everywhere_record(found: Everywhere) -> Record:
    return {**asdict(found), "sentence": sentence(found), "nodes": [_node(node) for node in found.nodes]}


def _divergence_record(divergence: Divergence) -> Record:
    place, verdict = divergence.place, divergence.verdict
    record = {
        **_node(verdict.node),
        **(place if "token" in place else {"index": place}),
        "metric": verdict.metric.value,
        "error": verdict.error,
        "floor": verdict.floor,
        "bound": verdict.bound,
        "state": divergence.state.value,
        "certainty": divergence.certainty,
        "settled_by": divergence.settled_by,
    }
    if len(divergence.segment) > 1:
        record["segment"] = [_node(node) for node in divergence.segment]
    if divergence.not_selected:
        record["not_selected"] = [_node(node) for node in divergence.not_selected]
    return record


def read_comparison(records: Iterable[Mapping[str, Any]]) -> Comparison:
    """The comparison that was written as `records`; their non-finite numbers may be strings, as JSON has them.

    What the records do not hold is left out: the errors of single tokens, the token counts of the sides, the reason of
    an injected verdict. Raises `KeyError` where a record or a field is missing.
    """
    by_kind: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        by_kind.setdefault(record["record"], []).append(record)
    header, summary = by_kind["header"][0], by_kind["summary"][0]
    compared = by_kind.get("comparison", [])
    stages = tuple(_read_stage(record) for record in compared)
    skipped = tuple(Unpaired(_read_node(entry), entry["side"], entry["reason"]) for entry in by_kind.get("skip", []))
    nodes = [*(stage.node for stage in stages), *(unpaired.node for unpaired in skipped)]
    layers = 1 + max((node.layer for node in nodes if node.layer is not None), default=-1)
    graph = graph_from_names({node.stage for node in nodes}, layers)
    verdict = Verdict(summary["verdict"])
    everywhere = tuple(_read_everywhere(found) for found in summary.get("everywhere", []))
    alike = {node for found in everywhere for node in found.nodes}
    listed = next((record for record in compared if record["top"]), None)
    smallest = summary["smallest_tolerance"]
    ranked = (stage.verdict.metric for stage in stages if not stage.metrics.mismatches)
    return Comparison(
        graph=graph,
        verdict=verdict,
        reasons=tuple(summary["reasons"]),
        alignment=TokenAlignment(
            summary["aligned_tokens"], (None, None), (header["token_source_a"], header["token_source_b"]),
            header["token_problem"], header["tokens_differ"],
        ),
        stages=stages,
        skipped=skipped,
        compared=summary["compared"],
        expected=summary["expected"],
        allowed_missing=summary["allowed_missing"],
        unfinished=tuple(header["unfinished"]),
        first_divergence=_read_divergence(summary["first_divergence"], stages),
        focus=None if listed is None else _focus_at(_read_node(listed), choose_focus(graph, stages, verdict, alike)),
        elements=() if listed is None else tuple(_read_element(element) for element in listed["top"]),
        hints=tuple(Hint(tuple(map(_read_node, hint["nodes"])), hint["text"]) for hint in by_kind.get("hint", [])),
        metric=next((metric for metric in ranked if metric in TOLERABLE), DEFAULT_METRIC),
        smallest=None if smallest is None else parse_tolerance(smallest),
        statements=tuple(header["statements"]),
        hypotheses=tuple(
            Hypothesis(
                entry["name"], Support(entry["state"]), entry["evidence"], entry["cause"], entry["looks_like"]
            )
            for entry in by_kind.get("hypothesis", [])
        ),
        steps=next((_read_steps(record) for record in by_kind.get("extras", [])), None),
        everywhere=everywhere,
        causes=tuple(map(_read_cause, by_kind.get("cause", []))),
        alternatives=tuple(
            _read_alternative(one) for one in by_kind.get("alternative", [])
        ),
        judgeable=summary.get("judgeable", True),
    )  # fmt: skip


def _read_cause(record: Mapping[str, Any]) -> Cause:
    known = {key: _number(value) if key in _NUMBERS else value for key, value in record.items() if key in _CAUSE}
    nodes = {name: tuple(map(_read_node, record.get(name, ()))) for name in ("nodes", "apart")}
    places = tuple((_read_node(one), one["place"]) for one in record.get("places", ()))
    return Cause(
        **{
            **known,
            **nodes,
            "alike": tuple(record["alike"]),
            "places": places,
            "untold": tuple(record.get("untold", ())),
        }
    )


def _read_alternative(record: Mapping[str, Any]) -> TriedAlternative:
    refuted = record.get("refuted", "" if record["is_proved"] else "not proved")
    return TriedAlternative(
        _read_node(record), _read_node(record.get("at", record)), record["name"], record["words"],
        _number(record["residue"]), refuted, record.get("side", ""),
    )  # fmt: skip


def _read_everywhere(record: Mapping[str, Any]) -> Everywhere:
    known = {key: value for key, value in record.items() if key in _EVERYWHERE}
    return Everywhere(**{**known, "nodes": tuple(_read_node(node) for node in record["nodes"])})


def _read_node(record: Mapping[str, Any]) -> Node:
    return Node(record["layer"], record["stage"])


def _number(value: Any) -> Any:
    """The number that JSON has no number for, `"nan"`, `"inf"` or `"-inf"`; any other value as it is."""
    return float(value) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _read_stage(record: Mapping[str, Any]) -> StageComparison:
    node = _read_node(record)
    metric, signal = Metric(record["metric"]), Signal(record["signal"])
    sides = tuple(
        None if side is None else _read_verdict(node, side, Metric.TOKEN_REL_L2, Signal.INJECTED, "")
        for side in (record["injected_a"], record["injected_b"])
    )
    return StageComparison(
        node,
        PairMetrics(**{name: _number(record[name]) for name in _METRICS}),
        np.empty(0),
        _read_verdict(node, record, metric, signal, record["reason"]),
        record["matched"],
        tuple(record["shape"]),
        state=ErrorState(record["state"]),
        injected=(sides[0], sides[1]),
        segment=tuple(map(_read_node, record["segment"])),
        logits=None if record["logits"] is None else _read_logits(record["logits"]),
        place=record["place"],
    )


def _read_verdict(node: Node, record: Mapping[str, Any], metric: Metric, signal: Signal, reason: str) -> StageVerdict:
    error, floor, bound = (_number(record[name]) for name in ("error", "floor", "bound"))
    return StageVerdict(node, Verdict(record["verdict"]), metric, error, floor, bound, reason, signal)


def _read_logits(record: Mapping[str, Any]) -> LogitMetrics:
    flips = tuple(Flip(**{name: _number(flip[name]) for name in _FLIPS}) for flip in record["flips"])
    return LogitMetrics(**{name: _number(record[name]) for name in _LOGITS}, flips=flips)


def _read_element(record: Mapping[str, Any]) -> Element:
    place = {name: value for name, value in record.items() if name not in ("a", "b")}
    return Element(place, _number(record["a"]), _number(record["b"]))


def _read_divergence(record: Mapping[str, Any] | None, stages: Iterable[StageComparison]) -> Divergence | None:
    if record is None:
        return None
    node = _read_node(record)
    place = {name: record[name] for name in ("token", "channel", "choice", "expert") if name in record}
    return Divergence(
        next(stage.verdict for stage in stages if stage.node == node),
        place or record["index"],
        tuple(map(_read_node, record.get("segment", [record]))),
        tuple(map(_read_node, record.get("not_selected", []))),
        ErrorState(record["state"]),
        record["certainty"],
        record["settled_by"],
    )


def _focus_at(node: Node, chosen: Focus | None) -> Focus:
    """The focus at the `node` whose elements are listed: why it is that one follows from the numbers."""
    return chosen if chosen is not None and chosen.node == node else Focus(node, FocusKind.WORST)


def _read_steps(record: Mapping[str, Any]) -> FloatSteps:
    histogram = UlpHistogram(tuple(record["ulp_counts"]), record["ulp_excluded"], record["ulp_largest"])
    return FloatSteps(histogram, record["seconds"])
