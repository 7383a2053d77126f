"""What stands around the heatmap of the tensor screen, as lines: labels, value, histogram, outliers, bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from aprtui.trace.profile import Profile
from aprtui.tui.draw.bars import bar_text
from aprtui.tui.draw.text import SEPARATOR
from aprtui.tui.draw.tiles import Scale, ScaleKind, Size, largest
from aprtui.tui.draw.viewport import Viewport, rows_of_line
from aprtui.tui.screens.tensor.source import Place, TensorSource
from aprtui.tui.screens.tensor.text import (
    BYTES_A_LINE,
    RowLabels,
    between,
    bits_text,
    byte_lines,
    exact_number,
    first_byte,
    header_words,
    histogram_lines,
    rms_shares,
    signed_number,
)
from aprtui.tui.widgets.lines import Ink, Piece
from aprtui.tui.widgets.table import Column, Row

OUTLIERS = 40
OUTLIER_COLUMNS = (
    Column("place", right=True), Column("rms", right=True), Column("× median", right=True),
    Column("which", grows=True, rank=1),
)  # fmt: skip

BAR = 5
"""Cells of the bar that shows the rms of a row."""

_TEXT = 9


@dataclass(frozen=True, slots=True)
class Pointed:
    """The value that the cursor stands for: of the `count` values of its cell the one of largest magnitude."""

    plane: int
    row: int
    column: int
    value: np.float32
    count: int
    place: Place


def pointed(source: TensorSource, plane: int, view: Viewport) -> Pointed:
    """The value under the cursor. Raises `UnreadableError`."""
    rows, columns = view.tiling.values(*view.cursor_cell, view.shape)
    count = (rows.stop - rows.start) * (columns.stop - columns.start)
    if count == 1:
        rows, columns = slice(view.row, view.row + 1), slice(view.column, view.column + 1)
    row, column, value = largest(partial(source.read, plane), rows, columns)
    return Pointed(plane, row, column, value, count, source.place(plane, row, column))


def place_words(source: TensorSource, labels: RowLabels, found: Pointed) -> list[str]:
    """Where a value stands, in words."""
    words = [f"head {found.plane}"] if source.planes > 1 else []
    words.append(labels.words(found.row))
    if source.axes[1] == "key":
        return [*words, RowLabels("key", labels.texts, labels.ids).words(found.column)]
    inner = source.column_words(found.column)
    return [*words, f"{source.axes[1]} {found.column}" + (f" ({inner})" if inner else "")]


def in_words(source: TensorSource, labels: RowLabels, found: Pointed) -> str:
    """The value under the cursor in one line of words."""
    fields = [*place_words(source, labels, found), exact_number(found.value), bits_text(found.value)]
    if found.count > 1:
        fields.append(f"largest of the {found.count} values of this cell")
    if source.causal and found.column > found.row:
        fields.append("key > query: of no meaning")
    return SEPARATOR.join([*fields, source.title])


def value_lines(source: TensorSource, labels: RowLabels, found: Pointed, profile: Profile | None) -> list[list[Piece]]:
    """The value under the cursor with all that is known of it."""
    lines: list[list[Piece]] = [[(words, Ink.PLAIN)] for words in place_words(source, labels, found)]
    lines.append([(exact_number(found.value), Ink.STRONG), (f"  {bits_text(found.value)}", Ink.MUTED)])
    where = f"block of {found.place.bytes} bytes" if found.place.is_block else "byte"
    lines.append([(f"{where} at {found.place.offset}", Ink.MUTED)])
    if profile is not None and found.row < profile.row_rms.size and found.column < profile.column_rms.size:
        row, column = profile.row_rms[found.row], profile.column_rms[found.column]
        rms = f"rms of its {source.axes[0]} {signed_number(row, 3)}, {source.axes[1]} {signed_number(column, 3)}"
        lines.append([(rms, Ink.MUTED)])
    if found.count > 1:
        lines.append([(f"largest of {found.count} values in the cell", Ink.ACCENT)])
    return lines


def histogram_pane(profile: Profile | None, scale: Scale, size: Size, *, plain: bool) -> list[list[Piece]]:
    """How the values are distributed: bars, the ends of the scale, and what is not finite."""
    height, width = size
    if profile is None:
        return [[("being read…", Ink.MUTED)]]
    low, high = scale.ends()
    is_log = scale.kind is ScaleKind.LOG
    counts = profile.histogram(low, high, max(width, 1), log=is_log)
    lines: list[list[Piece]] = [
        [(line, Ink.ACCENT)] for line in histogram_lines(counts, max(height - 3, 1), plain=plain)
    ]
    middle = "log of the magnitude" if is_log else "0" if low < 0 < high else ""
    lines.append([(between(signed_number(low, 3), signed_number(high, 3), width, middle), Ink.MUTED)])
    stats = profile.stats
    bad = f"{stats.nan} NaN  {stats.inf} Inf"
    lines.append([(bad, Ink.BAD if stats.nan or stats.inf else Ink.MUTED), (f"  {stats.count} values", Ink.MUTED)])
    beyond = stats.count - stats.nan - stats.inf - int(counts.sum())
    figures = f"rms {signed_number(stats.rms or 0, 3)}  mean {signed_number(stats.mean or 0, 3)}"
    lines.append([(figures, Ink.MUTED), (f"  {beyond} beyond the scale" if beyond else "", Ink.ACCENT)])
    return lines


def outlier_rows(source: TensorSource, profile: Profile | None, labels: RowLabels) -> list[Row]:
    """The columns with the largest rms."""
    keys = RowLabels("key", labels.texts, labels.ids)
    return [
        Row(
            column,
            (
                str(column), signed_number(rms, 3), f"{factor:.3g}",
                keys.words(column).partition(" ")[2].partition(" ")[2]
                if source.axes[1] == "key"
                else source.column_words(column),
            ),
        )
        for column, rms, factor in ([] if profile is None else profile.outliers(OUTLIERS))
    ]  # fmt: skip


def without_empty(rows: Sequence[Row], columns: Sequence[Column]) -> tuple[list[Row], list[Column]]:
    """Rows and columns of a table without its last column, where that has nothing to say."""
    if any(row.cells[-1] for row in rows):
        return list(rows), list(columns)
    return [Row(row.key, row.cells[:-1], row.tone) for row in rows], list(columns[:-1])


def label_width(view: Viewport, labels: RowLabels) -> int:
    """Cells that the labels of rows take."""
    digits = len(str(max(view.shape[0] - 1 + labels.first, 0)))
    return digits + 1 + (_TEXT + 1 if labels.texts or labels.ids else 0) + BAR + 1


def label_lines(
    view: Viewport, labels: RowLabels, profile: Profile | None, height: int, *, plain: bool
) -> list[list[Piece]]:
    """For each line what its row is called, and a bar of its rms; above them what they are."""
    digits = len(str(max(view.shape[0] - 1 + labels.first, 0)))
    width = label_width(view, labels) - BAR - 1
    shares, is_log = (np.zeros(0), False) if profile is None else rms_shares(profile.row_rms)
    title = "log" if is_log else "rms"
    lines: list[list[Piece]] = [[(labels.axis[:width].ljust(width), Ink.MUTED), (title, Ink.MUTED)]]
    lines_a_row = max(view.grain.lines, 1)
    for line in range(height):
        rows = rows_of_line(view, line)
        if rows.start >= rows.stop:
            break
        if line % lines_a_row:
            lines.append([])
            continue
        ink = Ink.MARKED if rows.start <= view.row < rows.stop else Ink.MUTED
        bar = bar_text(float(shares[rows].max(initial=0)), BAR, plain)
        name = labels.short(rows.start, width - 1, digits)
        lines.append([(name, ink), (" ", Ink.PLAIN), (bar, Ink.ACCENT)])
    return lines


def byte_pane(source: TensorSource, found: Pointed, height: int) -> tuple[str, list[list[Piece]]]:
    """The bytes around a value, and what they are, in words. Raises `UnreadableError`."""
    start = first_byte(found.place.offset, height)
    data = source.file.read(start, height * BYTES_A_LINE)
    meant = slice(found.place.offset, found.place.offset + found.place.bytes)
    lines = [_marked(line.text, line.marked) for line in byte_lines(data, start, meant)]
    words = f"bytes of {source.file.path.name}, {source.file.size} in all"
    header = "" if found.place.is_block else header_words(data, start)
    return (f"{words}: {header}" if header else words), lines


def _marked(text: str, parts: Sequence[slice]) -> list[Piece]:
    pieces: list[Piece] = []
    at = 0
    for part in parts:
        pieces += [(text[at : part.start], Ink.MUTED), (text[part], Ink.MARKED)]
        at = part.stop
    return [*pieces, (text[at:], Ink.MUTED)]
