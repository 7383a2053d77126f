"""A comparison as records for programs: `header`, a `comparison` or `skip` for each stage, `hint`s, a last `summary`.

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
from aprtui.compare.locate import Element
from aprtui.trace.graph import Node

Record = dict[str, Any]


def comparison_records(a: Path, b: Path, context: Context | None, comparison: Comparison) -> Iterator[Record]:
    """All records of a comparison of `a` and `b`, the summary last; `context` is None for stage files."""
    alignment = comparison.alignment
    yield {
        "record": "header",
        "path_a": str(a),
        "path_b": str(b),
        "differences": [asdict(difference) for difference in context.differences] if context else [],
        "without_manifest": list(context.without_manifest) if context else [],
        "token_source_a": alignment.sources[0],
        "token_source_b": alignment.sources[1],
        "token_problem": alignment.problem,
    }
    focus = comparison.focus.node if comparison.focus else None
    for stage in comparison.stages:
        yield _stage_record(stage, comparison.elements if stage.node == focus else ())
    for skipped in comparison.skipped:
        yield {"record": "skip", **_node(skipped.node), "side": skipped.side, "reason": skipped.reason}
    for hint in comparison.hints:
        yield {"record": "hint", "nodes": [_node(node) for node in hint.nodes], "text": hint.text}
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
        "matched": stage.matched,
        "shape": list(stage.shape),
        **asdict(stage.metrics),
        "excluded": stage.metrics.excluded,
        "top": [{**element.place, "a": element.a, "b": element.b} for element in elements],
    }


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
    }
    if len(divergence.segment) > 1:
        record["segment"] = [_node(node) for node in divergence.segment]
    if divergence.not_selected:
        record["not_selected"] = [_node(node) for node in divergence.not_selected]
    return record
