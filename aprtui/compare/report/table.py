"""The records of a comparison as the rows of one table: flat, a type for each column."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from aprtui.compare.report.records import SCHEMA
from aprtui.errors import UnreadableError

TEXTS = ("verdict", "metric", "signal", "state", "matched", "reason")
NUMBERS = (
    "error", "floor", "bound", "max_abs", "mean_abs", "rms", "bias", "rel_l2", "rel_linf", "token_rel_l2", "cosine",
    "cosine_without_top", "sigma_ratio", "q50", "q90", "q99", "q999", "equal_bits",
)  # fmt: skip
COUNTS = (
    "count", "compared", "nan_a", "nan_b", "inf_a", "inf_b", "nan_both", "inf_both", "excluded", "mismatches"
)  # fmt: skip
COMPARISON_FIELDS = ("path_a", "path_b", "record", "layer", "stage", *TEXTS, *NUMBERS, *COUNTS)
"""The columns; those of numbers are null where a number is not finite, and all but the first five of a `skip`."""


def comparison_rows(lines: Iterable[str], name: str) -> Iterator[Mapping[str, Any]]:
    """A row for each stage that was compared or skipped, from the lines of `diff --json` or `replay --json`.

    Raises `UnreadableError` for lines that are none.
    """
    sides: dict[str, Any] | None = None
    for number, line in enumerate(lines, 1):
        record = _record(line, f"{name}: line {number}")
        kind = record.get("record")
        if kind == "header":
            if record.get("schema") != SCHEMA:
                raise UnreadableError(f"{name}: line {number}: schema {record.get('schema')!r:.40}, expected {SCHEMA}")
            sides = {"path_a": record.get("path_a"), "path_b": record.get("path_b")}
        elif sides is None:
            raise UnreadableError(f"{name}: line {number}: no header before it: expected the output of diff --json")
        elif kind in ("comparison", "skip"):
            row = {field: record.get(field) for field in COMPARISON_FIELDS}
            yield row | {field: _finite(row[field]) for field in NUMBERS} | sides
    if sides is None:
        raise UnreadableError(f"{name}: is empty: expected a capture, or the output of diff --json")


def _record(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{where}: not JSON: expected a capture, or the output of diff --json") from error
    if not isinstance(record, dict):
        raise UnreadableError(f"{where}: no record: expected a capture, or the output of diff --json")
    return record


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
