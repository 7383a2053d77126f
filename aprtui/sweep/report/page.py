"""The results of a sweep as one HTML page that needs nothing else: no network, no script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aprtui.compare.report.html import page_template
from aprtui.sweep.matrix import counts_of, failing_first, matrix_of
from aprtui.sweep.results import ResultRow, RollupRow
from aprtui.sweep.rollup import worst_first
from aprtui.trace.aprt import write_atomically

PAGE = "index.html"
_TEMPLATES = Path(__file__).parent / "templates"
_MOST_STAGES = 200
"""Rows of the roll-up that the page has: the worst; the tables have all."""
_MOST_CELLS = 20_000
"""Cells of the matrix that the page has; a browser is slow beyond that, and the tables have all."""


def write_page(place: Path, title: str, rows: Sequence[ResultRow], rollup: Sequence[RollupRow]) -> None:
    """Write the page into the folder `place`. Raises `EngineError`."""
    matrix = matrix_of(rows)
    shown = matrix.prompts[: max(_MOST_CELLS // max(len(matrix.columns), 1), 1)]
    page = page_template(_TEMPLATES, "sweep.html").render(
        title=title, counts=counts_of(rows), matrix=matrix, prompts=shown, failing=failing_first(rows),
        rollup=worst_first(rollup)[:_MOST_STAGES], stages=len(rollup),
    )  # fmt: skip
    write_atomically(place / PAGE, page.encode())
