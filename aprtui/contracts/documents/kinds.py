"""The kinds of contracts that `pv` knows, and its rules for documents of one kind: benchmarks (BEAT), improvement
records (KAIZEN), and the research metadata of user stories (CRUX).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from aprtui.contracts.documents.document import Document

KINDS = (
    "kernel", "registry", "model-family", "model-family-variant", "tokenizer", "training-loop", "pretraining-corpus",
    "training-precondition-gate", "corpus-assembly", "pattern", "schema", "beat-benchmark", "kaizen",
)  # fmt: skip
BEAT, KAIZEN = "beat-benchmark", "kaizen"

_INCUMBENTS = ("scikit-learn", "pytorch", "unsloth", "ollama", "llama.cpp")
_DIRECTIONS = ("higher_is_better", "lower_is_better")
_STATUSES = ("draft", "implemented", "implementing", "pending", "planned")
_COMPETITORS = (
    "apr-qa-playbook", "autogluon", "burn", "ecosystem", "hf-kernels-community", "huggingface", "linfa", "llama_cpp",
    "mlflow", "none", "ollama", "openclaw", "openclip", "pulp-free-chat", "pytorch", "qwen", "unsloth", "vllm",
)  # fmt: skip
_DEMAND = range(1, 6)
_COSTS = ("alloc", "bytes", "churn", "launch", "overhead", "sync", "wasted", "_us", "_ms")
_QUANTITY = re.compile(r"\s*(?:<=|>=|<|>|~)?\s*(-?[0-9][0-9._]*)\s*(?:%|\+|x|B|KB|MB|GB|KiB|MiB|GiB|ms|us|s)?\s*")

KIND_RULES = {
    "BEAT-001": ("a benchmark has a block beat", "write beat with incumbent, metric, direction and beat_threshold"),
    "BEAT-002": ("the incumbent is one of the known ones", "name in beat.incumbent the tool that is to be beaten"),
    "BEAT-003": ("the metric is named", "name in beat.metric what is measured, as tokens_per_sec"),
    "BEAT-004": ("the direction is known", "write beat.direction: higher_is_better or lower_is_better"),
    "BEAT-005": ("the threshold is a finite number", "write beat.beat_threshold, the value at which CI fails"),
    "BEAT-006": ("the gate is named", "name in beat.ci_gate_name the test that enforces it"),
    "BEAT-007": ("the compute is CPU or GPU", "write beat.approved_compute: CPU or GPU"),
    "KAIZEN-001": ("an improvement record has an id", "write contract: the record's own id"),
    "KAIZEN-002": ("its state is known", "write status: draft, planned, pending, implementing or implemented"),
    "KAIZEN-003": ("it states something that can fail", "write baseline and target, invariants or falsification_tests"),
    "KAIZEN-004": ("baseline and target share a metric", "measure the same metrics before and after"),
    "KAIZEN-005": ("some metric moves", "write quantities, and the change that was made"),
    "KAIZEN-006": ("not every cost that moves grows", "exchange baseline and target, or say what was gained"),
    "CRUX-001": ("a demand score is 1 … 5, and every story has one", "write demand_score: 1 to 5"),
    "CRUX-002": ("a competitor is a known source, and every story has one", "write one of the known sources"),
}
"""What each code, an error, demands of documents of its kind, and what to do where it is not so."""

Broken = Iterator[tuple[str, str, str]]
"""Code, the top-level key that holds the fault, and the message of each breach."""


def broken_rules(document: Document) -> Broken:
    """Every breach of a rule for the document's kind, and of those for research metadata, which any kind may have."""
    if document.metadata.kind == BEAT:
        yield from _beat(document.extras.get("beat"))
    if document.metadata.kind == KAIZEN:
        yield from _kaizen(document)
    yield from _crux(document)


def _said(block: Mapping[str, Any], field: str) -> str:
    value = block.get(field)
    return "" if value is None else str(value).strip()


def _beat(block: Any) -> Broken:
    if not isinstance(block, Mapping):
        yield (
            "BEAT-001",
            "beat",
            "a benchmark has a block beat: incumbent, metric, direction, beat_threshold, ci_gate_name",
        )
        return
    incumbent = _said(block, "incumbent").lower()
    if not any(name in incumbent for name in _INCUMBENTS):
        yield "BEAT-002", "beat", f"beat.incumbent {incumbent!r:.40}: expected one of {', '.join(_INCUMBENTS)}"
    if not _said(block, "metric"):
        yield "BEAT-003", "beat", "beat.metric is empty: name what is measured"
    if _said(block, "direction") not in _DIRECTIONS:
        found = _said(block, "direction")
        yield "BEAT-004", "beat", f"beat.direction {found!r:.40}: expected {' or '.join(_DIRECTIONS)}"
    threshold = _number(block.get("beat_threshold"))
    if threshold is None or not math.isfinite(threshold):
        yield "BEAT-005", "beat", "beat.beat_threshold: expected a finite number, below which CI fails"
    if not _said(block, "ci_gate_name"):
        yield "BEAT-006", "beat", "beat.ci_gate_name is empty: name the test that enforces it"
    if _said(block, "approved_compute").upper() not in ("CPU", "GPU"):
        yield "BEAT-007", "beat", "beat.approved_compute: expected CPU or GPU"


def _kaizen(document: Document) -> Broken:
    record = document.extras
    if not _said(record, "contract"):
        yield "KAIZEN-001", "contract", "an improvement record has an id of its own: contract"
    if (status := _said(record, "status")) not in _STATUSES:
        yield "KAIZEN-002", "status", f"status {status!r:.40}: expected one of {', '.join(_STATUSES)}"
    baseline, target = record.get("baseline"), record.get("target")
    pair = _pair(baseline, target)
    if pair is None and not (record.get("invariants") or document.obligations or document.falsifiers):
        yield "KAIZEN-003", "baseline", "it states nothing that can fail: no baseline and target, invariants or tests"
    if target is not None:
        if not isinstance(target, Mapping) or not isinstance(baseline, Mapping):
            yield "KAIZEN-004", "target", "baseline and target are mappings of metrics to values"
        elif not set(baseline) & set(target):
            yield "KAIZEN-004", "target", "baseline and target share no metric"
    if pair is not None:
        yield from _movement(*pair)


def _pair(baseline: Any, target: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """The metrics before and after, from two blocks or from one that holds both."""
    if not isinstance(baseline, Mapping):
        return None
    before, after = baseline.get("before"), baseline.get("after")
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return before, after
    return (baseline, target) if isinstance(target, Mapping) else None


def _movement(before: Mapping[str, Any], after: Mapping[str, Any]) -> Broken:
    both = {name: (_quantity(before[name]), _quantity(after[name])) for name in before if name in after}
    moves = {name: b - a for name, (a, b) in both.items() if a is not None and b is not None}
    if not any(moves.values()):
        yield "KAIZEN-005", "target", "no metric that both state as a quantity moves"
    costs = [move for name, move in moves.items() if any(part in name.lower() for part in _COSTS)]
    if any(move > 0 for move in costs) and not any(move < 0 for move in costs):
        yield "KAIZEN-006", "target", "every cost that moves grows: baseline and target may have changed places"


def _crux(document: Document) -> Broken:
    metadata = document.metadata.extras
    if "demand_score" in metadata and not _is_demand(metadata["demand_score"]):
        yield "CRUX-001", "metadata", f"metadata.demand_score {metadata['demand_score']!r:.40}: expected 1 … 5"
    if "competitor" in metadata and _said(metadata, "competitor") not in _COMPETITORS:
        yield "CRUX-002", "metadata", f"metadata.competitor {_said(metadata, 'competitor')!r:.40} is no known source"
    stories = document.extras.get("stories")
    for story in stories if isinstance(stories, list) else ():
        if isinstance(story, Mapping):
            name = _said(story, "id") or "without id"
            if not _is_demand(story.get("demand_score")):
                yield "CRUX-001", "stories", f"story {name:.40}: demand_score: expected 1 … 5"
            if _said(story, "competitor") not in _COMPETITORS:
                yield "CRUX-002", "stories", f"story {name:.40}: competitor is no known source"


def _is_demand(value: Any) -> bool:
    number = _number(value)
    return number is not None and number in _DEMAND


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _quantity(value: Any) -> float | None:
    """A number, or a text of one with a comparison before it and a unit behind; None for any other."""
    if isinstance(value, bool):
        return None
    match = _QUANTITY.fullmatch(str(value)) if isinstance(value, int | float | str) else None
    return _number(match[1].replace("_", "")) if match else _number(value)
