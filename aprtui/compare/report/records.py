"""A comparison as records for programs: `header`, a `comparison` or `skip` for each stage, `hint` and `hypothesis`
records, a last `summary`.

The comparison of the stage in question carries its `top` elements. Numbers are plain Python numbers, non-finite ones
included: whoever writes them down decides how.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aprtui.compare.comparison import Comparison, Divergence, StageComparison
from aprtui.compare.context import Context
from aprtui.compare.explain.locate import Element
from aprtui.compare.verdict import StageVerdict
from aprtui.trace.graph import Node

Record = dict[str, Any]


SCHEMA = "aprtui-diff-v1"
"""Fields are added under this name, never changed or taken away; docs/diff-json.md says what each means."""


def comparison_records(
    a: Path | str, b: Path | str, context: Context | None, comparison: Comparison
) -> Iterator[Record]:
    """All records of a comparison of `a` and `b`, the summary last; `context` is None where no two manifests differ."""
    alignment = comparison.alignment
    yield {
        "record": "header",
        "schema": SCHEMA,
        "path_a": str(a),
        "path_b": str(b),
        "differences": [asdict(difference) for difference in context.differences] if context else [],
        "without_manifest": list(context.without_manifest) if context else [],
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
    yield _summary(comparison)


def _node(node: Node) -> Record:
    return {"layer": node.layer, "stage": node.stage}


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
        "top": [{**element.place, "a": element.a, "b": element.b} for element in elements],
    }


def _injected(verdict: StageVerdict | None) -> Record | None:
    if verdict is None:
        return None
    return {"verdict": verdict.verdict.value, "error": verdict.error, "floor": verdict.floor, "bound": verdict.bound}


def _summary(comparison: Comparison) -> Record:
    divergence = comparison.first_divergence
    return {
        "record": "summary",
        "verdict": comparison.verdict.value,
        "reasons": list(comparison.reasons),
        "first_divergence": None if divergence is None else _divergence_record(divergence),
        "compared": comparison.compared,
        "expected": comparison.expected,
        "allowed_missing": comparison.allowed_missing,
        "aligned_tokens": comparison.alignment.aligned,
        "smallest_tolerance": None if comparison.smallest is None else str(comparison.smallest),
    }


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
