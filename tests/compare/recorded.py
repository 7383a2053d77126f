"""Two small captures, of which one has a fault, and what `diff --json` writes of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.comparison import Comparison
from aprtui.compare.manifests import compare_manifests
from aprtui.compare.report.records import comparison_records, read_comparison
from aprtui.compare.verdict import parse_tolerance
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from aprtui.trace.json_value import json_value
from tests.compare.synthetic import Edit, scaled, write_capture

Record = Mapping[str, Any]

FAULT = Node(1, "ffn_gate")

EDITS: dict[Node, Edit] = {
    FAULT: scaled(1.5),
    Node(1, "ffn_silu"): scaled(1.4),
    Node(1, "post_ffn_residual"): scaled(1.1),
    Node(2, "attn_norm"): scaled(1.1),
    Node(2, "qkv_matmul"): scaled(1.0001),
}


def two_captures(folder: Path, edits: dict[Node, Edit] | None = None, **options: object) -> tuple[Path, Path]:
    """A good capture and one whose layer 1 ffn_gate is wrong, and some of what follows from it."""
    a = write_capture(folder / "good")
    return a, write_capture(folder / "bad", edits=EDITS if edits is None else edits, **options)  # type: ignore[arg-type]


def records_of(a: Path, b: Path, *tolerances: str) -> list[Record]:
    """What `diff --json` writes of two captures, as a reader gets it; compared once as long as no file changes."""
    return list(_records(a, b, tolerances, (_state(a), _state(b))))


def _state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Path, time and size of each file; one that is removed meanwhile is missed by whoever reads it."""
    found = []
    for path in folder.absolute().rglob("*"):
        with suppress(FileNotFoundError):
            status = path.stat()
            found.append((str(path), status.st_mtime_ns, status.st_size))
    return tuple(sorted(found))


@lru_cache(maxsize=32)
def _records(a: Path, b: Path, tolerances: tuple[str, ...], state: object) -> list[Record]:
    left, right = Capture.open(a), Capture.open(b)
    options = DiffOptions(tolerances=tuple(parse_tolerance(text) for text in tolerances))
    found = comparison_records(a, b, compare_manifests(left, right), compare_captures(left, right, options))
    return [json.loads(json.dumps(json_value(record))) for record in found]


def read_back(a: Path, b: Path, *tolerances: str) -> Comparison:
    """The comparison of two captures as a reader of its records has it."""
    return read_comparison(records_of(a, b, *tolerances))
