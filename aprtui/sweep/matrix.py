"""The verdicts of a sweep as a matrix: a line a prompt, a column a pair of engines on a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aprtui.compare.verdict import Verdict
from aprtui.sweep.results import ResultRow

_MOST_LISTED = 500
"""Rows that do not pass that are listed for people; the tables have all."""


@dataclass(frozen=True, slots=True)
class VerdictMatrix:
    """The verdicts of a sweep: a column a pair on a model, a line a prompt; None where there is no such cell."""

    columns: tuple[tuple[str, str], ...]
    prompts: tuple[int, ...]
    cells: Mapping[tuple[int, tuple[str, str]], ResultRow]

    def line(self, prompt: int) -> list[ResultRow | None]:
        return [self.cells.get((prompt, column)) for column in self.columns]

    def text(self, prompt: int) -> str:
        """What the prompt says, or how many ids it has."""
        row = next(row for row in self.line(prompt) if row is not None)
        return row.text or f"{row.token_count} token ids"


def matrix_of(rows: Sequence[ResultRow]) -> VerdictMatrix:
    """The matrix of `rows`, columns and prompts in the order of the plan."""
    columns = tuple(dict.fromkeys((row.model, row.pair) for row in rows))
    prompts = tuple(dict.fromkeys(sorted(row.prompt for row in rows)))
    return VerdictMatrix(columns, prompts, {(row.prompt, (row.model, row.pair)): row for row in rows})


def counts_of(rows: Sequence[ResultRow]) -> dict[Verdict, int]:
    """How many verdicts there are of each kind, the worst first."""
    counts = Counter(row.verdict for row in rows)
    return {verdict: counts[verdict] for verdict in (Verdict.FAIL, Verdict.UNKNOWN, Verdict.PASS)}


def failing_first(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """The rows that are no PASS, those that FAIL first."""
    order = {Verdict.FAIL.value: 0, Verdict.UNKNOWN.value: 1}
    return sorted((row for row in rows if row.verdict in order), key=lambda row: (order[row.verdict], row.prompt))[
        :_MOST_LISTED
    ]
