"""A comparison of two models as records: `header`, a `comparison` or `skip` for each tensor, a last `summary`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aprtui.model.weight_difference.compare import ModelDifference, TensorDifference
from aprtui.model.weight_difference.values import WeightRange
from aprtui.trace.graph.stage import Node

Record = dict[str, Any]


def weight_records(a: Path, b: Path, difference: ModelDifference) -> Iterator[Record]:
    """All records of a comparison of the files `a` and `b`, the summary last."""
    yield {
        "record": "header",
        "kind": "weights",
        "path_a": str(a),
        "path_b": str(b),
        "differences": [
            {"what": entry.key, "a": entry.a, "b": entry.b, "changes_numbers": entry.changes_numbers}
            for entry in difference.metadata
        ],
        "notes": list(difference.notes),
    }
    for tensor in difference.tensors:
        yield _tensor_record(tensor)
    for skip in difference.skipped:
        yield {
            "record": "skip",
            "tensor": skip.name,
            "nodes": _nodes(skip.nodes),
            "side": skip.side,
            "reason": skip.reason,
            "same_as": list(skip.same_as),
            "harmless": skip.harmless,
        }
    first = difference.first
    yield {
        "record": "summary",
        "verdict": difference.verdict.value,
        "reasons": list(difference.reasons),
        "number_changing_metadata": [entry.key for entry in difference.number_changing],
        "first_divergence": None if first is None else _divergence_record(first),
        "compared": len(difference.tensors),
        "bit_equal": sum(tensor.bit_equal for tensor in difference.tensors),
        "expected": difference.expected,
    }


def _tensor_record(tensor: TensorDifference) -> Record:
    numbers = tensor.metrics
    return {
        "record": "comparison",
        "tensor": tensor.name,
        "nodes": _nodes(tensor.nodes),
        **_judged(tensor),
        "reason": tensor.judgement.reason,
        "type_a": tensor.types[0],
        "type_b": tensor.types[1],
        "shape_a": list(tensor.shapes[0]),
        "shape_b": list(tensor.shapes[1]),
        "bytes_equal": tensor.bit_equal,
        "bytes_difference": asdict(tensor.bytes) if tensor.bytes else None,
        "metrics": asdict(numbers) if numbers else None,
        "findings": list(tensor.findings),
    }


def _judged(tensor: TensorDifference) -> Record:
    judged = tensor.judgement
    return {
        "verdict": judged.verdict.value,
        "metric": judged.metric,
        "error": judged.error,
        "floor": judged.floor,
        "bound": judged.bound,
    }


def _divergence_record(tensor: TensorDifference) -> Record:
    """The tensor that fails first, as the stage it belongs to; layer and stage are None for one without a stage."""
    node = tensor.nodes[0] if tensor.nodes else None
    place = place_of(tensor)
    return {
        "layer": node.layer if node else None,
        "stage": node.stage if node else None,
        "tensor": tensor.name,
        "row": place.row if place else None,
        "column": place.column if place else None,
        **{key: value for key, value in _judged(tensor).items() if key != "verdict"},
    }


def place_of(tensor: TensorDifference) -> WeightRange | None:
    """Where to look: the group that is worst against its rounding error, else the largest difference."""
    numbers = tensor.metrics
    return None if numbers is None else numbers.step_place or numbers.max_abs_place


def _nodes(nodes: Sequence[Node]) -> list[Record]:
    return [{"layer": node.layer, "stage": node.stage} for node in nodes]
