"""Captures as rows, one for each value: flat records whose fields have one type each, as columns of tables have."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from aprtui.trace.export.output import new_file
from aprtui.trace.export.selection import ExportSelection

VALUE_FIELDS = ("layer", "stage", "head", "token", "column", "value", "bits")
"""`layer` is null for stages of the whole model, `head` but for attention maps, whose `token` is the query and `column`
the key; `value` is null where it is not finite; `bits` are those of the float32."""

Row = Mapping[str, Any]
_BLOCK = 4096


def value_rows(selection: ExportSelection) -> Iterator[Row]:
    """A row for each value, of attention maps for those with key ≤ query."""
    for node in selection.nodes:
        values, positions = selection.values(node), selection.rows(node)
        is_map = values.ndim == 3 and selection.capture.graph[node.stage].is_attention_map
        planes = values if is_map else values.reshape(1, len(values), -1)
        for head, plane in enumerate(planes):
            for position, row in zip(positions, plane, strict=True):
                shown = row[: position + 1] if is_map else row
                bits = np.ascontiguousarray(shown).view(np.uint32).tolist()
                finite = np.isfinite(shown).tolist()
                for column, value in enumerate(shown):
                    yield {
                        "layer": node.layer, "stage": node.stage, "head": head if is_map else None, "token": position,
                        "column": column, "value": float(str(value)) if finite[column] else None, "bits": bits[column],
                    }  # fmt: skip


def write_csv(rows: Iterable[Row], fields: Sequence[str], file: BinaryIO) -> int:
    """Write rows with a line of `fields` before them, empty where null; how many."""
    text = io.TextIOWrapper(file, "utf-8", newline="")
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    count = 0
    for row in rows:
        writer.writerow(row)
        count += 1
    text.flush()
    text.detach()
    return count


def write_json_lines(rows: Iterable[Row], fields: Sequence[str], file: BinaryIO) -> int:
    """Write rows as JSON, a line each, with all of `fields`; how many."""
    count = 0
    for row in rows:
        file.write(
            json.dumps({name: row[name] for name in fields}, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        )
        count += 1
    return count


TABLES = {"csv": write_csv, "jsonl": write_json_lines}
"""How rows are written, by format."""


def write_table(rows: Iterable[Row], fields: Sequence[str], form: str, path: Path, overwrite: bool) -> int:
    """Write rows to a file; how many. Raises as `new_file`."""
    with new_file(path, overwrite) as file:
        return TABLES[form](rows, fields, file)
