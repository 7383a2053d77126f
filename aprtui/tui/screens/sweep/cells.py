"""What the sweep screen says of a cell: a sign and the first wrong stage, and in words what to do with it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from aprtui.compare.verdict import Verdict
from aprtui.compare.wording import number_text
from aprtui.sweep.matrix import VerdictMatrix
from aprtui.sweep.results import ResultRow, RollupRow
from aprtui.tui.widgets.cell_table import CellLine
from aprtui.tui.widgets.table import Column, Row, Tone

SIGNS = {
    Verdict.PASS: ("✓", Tone.GOOD), Verdict.FAIL: ("✗", Tone.BAD), Verdict.UNKNOWN: ("?", Tone.UNSURE),
}  # fmt: skip
STAGE_COLUMNS = (
    Column("stage", grows=True), Column("pair", grows=True, rank=1), Column("model", grows=True, rank=3, least=8),
    Column("judged", right=True, rank=2), Column("first wrong", right=True), Column("FAIL", right=True),
    Column("worst / floor", right=True, rank=1),
)  # fmt: skip


def lines_of(matrix: VerdictMatrix) -> list[CellLine]:
    """The matrix as the table shows it."""
    return [
        CellLine(f"{prompt:>4} {' '.join(matrix.text(prompt).split())}", tuple(map(_cell, matrix.line(prompt))))
        for prompt in matrix.prompts
    ]


def titles_of(matrix: VerdictMatrix) -> list[str]:
    """The titles of the columns: pairs, with their models where there are several."""
    several = len({model for model, _ in matrix.columns}) > 1
    return [f"{model}: {pair}" if several else pair for model, pair in matrix.columns]


def _cell(row: ResultRow | None) -> tuple[str, Tone]:
    if row is None:
        return "", Tone.MUTED
    sign, tone = SIGNS[Verdict(row.verdict)]
    return f"{sign} {where(row)}".rstrip(), tone


def where(row: ResultRow) -> str:
    """The first wrong stage, in short; empty without one."""
    if row.stage is None:
        return ""
    return row.stage if row.layer is None else f"{row.layer} {row.stage}"


def cell_words(row: ResultRow) -> str:
    """The cell in one line."""
    return f"{row.model}, {row.pair}, prompt {row.prompt}: {row.verdict}: {row.headline}"


def detail_lines(row: ResultRow, folder: Path) -> Iterator[tuple[str, str]]:
    """All that is known of a cell, as names and texts."""
    yield row.verdict, row.headline
    if row.metric is not None:
        numbers = (number_text(value) for value in (row.error, row.floor, row.bound))
        yield "number", "{} {}, floor {}, bound {}".format(row.metric, *numbers)
    yield "compared", f"{row.compared} of {row.expected} stages, {row.token_count} tokens, judged by {row.judge}"
    for side, kept, again in (("A", row.capture_a, row.again_a), ("B", row.capture_b, row.again_b)):
        if again:
            yield side, str(folder / kept) if kept else f"not kept; make it again: {again}"
    yield "prompt", row.text or f"{row.token_count} token ids"


def missing_words(row: ResultRow) -> str:
    """Why a cell cannot be opened, in one line."""
    sides = [
        again for kept, again in ((row.capture_a, row.again_a), (row.capture_b, row.again_b)) if again and not kept
    ]
    return f"The captures were not kept (--keep all keeps them). Again: {' && '.join(sides)}"


def diff_words(row: ResultRow, folder: Path) -> list[str]:
    """The headless command for a cell; of captures that were not kept, the one that makes B again."""
    kept = [str(folder / each) for each in (row.capture_a, row.capture_b) if each]
    if row.judge == "replay" and not row.a and kept:
        return ["aprtui", "replay", *kept, "--model", row.model_path]
    if len(kept) == 2:
        judged = {"floor": ["--model", row.model_path], "replay": ["--model", row.model_path, "--replay"]}
        return ["aprtui", "diff", *kept, *judged.get(row.judge, [])]
    return shlex.split(row.again_b)


def stage_rows(rows: list[RollupRow]) -> list[Row]:
    """The roll-up as the table shows it."""
    return [
        Row(
            (row.model, row.pair, row.layer, row.stage),
            (
                row.stage if row.layer is None else f"layer {row.layer} {row.stage}", row.pair, row.model,
                str(row.judged), str(row.first), str(row.failed),
                "" if row.largest_over_floor is None else number_text(row.largest_over_floor),
            ),
            Tone.BAD if row.first else Tone.PLAIN if row.failed else Tone.MUTED,
        )
        for row in rows
    ]  # fmt: skip
