"""What the panes of the tensor screen say: the value under the cursor, labels of rows, histogram, outliers, bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len

from aprtui.errors import UsageError
from aprtui.trace.aprt import HEADER_BYTES
from aprtui.trace.profile import Profile
from aprtui.tui.draw.bars import bar_text
from aprtui.tui.draw.numbers import column_number, number
from aprtui.tui.draw.text import SEPARATOR, clipped, flowed, joined, padded, wrapped
from aprtui.tui.draw.tiles import Scale, ScaleKind, Size, largest
from aprtui.tui.draw.viewport import Viewport, rows_of_line
from aprtui.tui.screens.tensor.source import FileLocation, TensorSource
from aprtui.tui.widgets.lines import Ink, Piece
from aprtui.tui.widgets.table import Column, Row

OUTLIERS = 40
OUTLIER_COLUMNS = (
    Column("place", right=True), Column("rms", right=True), Column("× median", right=True),
    Column("which", grows=True, rank=1),
)  # fmt: skip

BAR = 5
"""Cells of the bar that shows the rms of a row."""

_LEAST_TEXT = 9
"""Cells that the text of a token has beside the map, where it needs them; more on wide screens."""

KEY_LINES = 3
"""Lines for the texts of keys above an attention map."""

_HEADER_FIELDS = ((0, 4, "magic"), (4, 8, "layer"), (8, 12, "number of values"))
_HEIGHTS = " ▁▂▃▄▅▆▇█"
_PLAIN_HEIGHTS = " ..::||##"
BYTES_A_LINE = 16

_MOST_DIGITS = 12
"""Of a place: no tensor is as long."""

_DWARFING = 20
"""If a row has more than this many times the median rms, linear bars of the others would be too short to see."""


def exact_number(value: np.float32) -> str:
    """A float32 with the fewest digits that tell it from its neighbours."""
    return number(float(value), 4) if not np.isfinite(value) else str(value).replace("-", "−")


def bits_text(value: np.float32) -> str:
    return f"0x{int(np.float32(value).view(np.uint32)):08x}"


@dataclass(frozen=True, slots=True)
class RowLabels:
    """The names of rows: their numbers, and the texts of their tokens if they are known."""

    axis: str
    texts: Sequence[str]
    ids: Sequence[int]
    first: int = 0
    """The token that the first row is: logits may be of the last position alone."""

    def words(self, row: int) -> str:
        place = row + self.first
        if place < len(self.texts):
            return f"{self.axis} {place} {self.texts[place]}"
        if place < len(self.ids):
            return f"{self.axis} {place} id {self.ids[place]}"
        return f"{self.axis} {place}"

    def short(self, row: int, width: int, digits: int) -> str:
        """The name of a row in `width` cells: its number, and as much of its text as fits."""
        place = row + self.first
        text = self.texts[place] if place < len(self.texts) else ""
        if not text and place < len(self.ids):
            text = f"#{self.ids[place]}"
        return padded(f"{place:>{digits}} {clipped(text, width - digits - 1)}", width)

    def text_width(self, most: int) -> int:
        """Cells that the longest text or id takes, `most` at most."""
        return min(_longest(tuple(self.texts) or tuple(f"#{token}" for token in self.ids)), most)


@lru_cache(8)
def _longest(texts: tuple[str, ...]) -> int:
    return max(map(cell_len, texts), default=0)


def rms_shares(rms: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
    """Lengths of bars from 0 to 1 for the rms of rows, and whether they are logarithmic.

    They are logarithmic, over three powers of ten, if a row dwarfs all others, as the first token of many models does.
    """
    known = np.nan_to_num(rms, nan=0.0, posinf=0.0)
    top, positive = known.max(initial=0), known[known > 0]
    if not positive.size:
        return np.zeros(rms.shape), False
    if top <= _DWARFING * np.median(positive):
        return known / top, False
    with np.errstate(divide="ignore"):
        shares = 1 + np.log10(known / top) / 3
    # A row that is not zero is visible.
    return np.where(known > 0, np.maximum(shares, 0.05), 0.0), True


def histogram_lines(counts: NDArray[np.int64], height: int, *, plain: bool) -> list[str]:
    """Bars of the logarithm of the counts, `height` lines high; a count of 1 is visible."""
    if not counts.size or not counts.max():
        return [" " * counts.size] * height
    levels = np.log1p(counts) / np.log1p(counts.max()) * height * 8
    levels = np.where(counts > 0, np.maximum(np.rint(levels), 1), 0).astype(np.int64)
    glyphs = _PLAIN_HEIGHTS if plain else _HEIGHTS
    return [
        "".join(glyphs[int(min(max(level - 8 * line, 0), 8))] for level in levels) for line in reversed(range(height))
    ]


def axis_lines(low: float, high: float, width: int, middle: str, *, plain: bool) -> tuple[str, str]:
    """The axis below `width` bars from `low` to `high`, with a mark where zero is, and its labels.

    `middle` stands between the ends, where no zero does and there is room.
    """
    rule, mark = ("-", "+") if plain else ("─", "┬")
    left, right = number(low, 3), number(high, 3)
    if middle or not low < 0 < high:
        room = width - len(left) - len(right)
        if room < 1:
            return rule * width, clipped(left, width)
        return rule * width, left + (middle.center(room) if len(middle) + 2 <= room else " " * room) + right
    zero = min(int(-low / (high - low) * width), width - 1)
    line = rule * zero + mark + rule * (width - zero - 1)
    labels = list(left.ljust(max(width - len(right), len(left) + 1)) + right)
    if len(left) < zero < width - len(right) - 1:
        labels[zero] = "0"
    return line, clipped("".join(labels), width)


def byte_lines(data: bytes, start: int, of_value: slice) -> list[list[Piece]]:
    """Bytes from offset `start` (a multiple of 16) on, 16 a line: offset, hexadecimal, ASCII; `of_value` are marked."""
    lines = []
    for at in range(0, len(data), BYTES_A_LINE):
        part = data[at : at + BYTES_A_LINE]
        hexadecimal = " ".join(f"{byte:02x}" for byte in part).ljust(3 * BYTES_A_LINE - 1)
        text = "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in part)
        offset = f"{start + at:08x}  "
        first, last = max(of_value.start - start - at, 0), min(of_value.stop - start - at, len(part))
        marked: tuple[slice, ...] = ()
        if first < last:
            left, right = len(offset), len(offset) + 3 * BYTES_A_LINE + 1
            marked = slice(left + 3 * first, left + 3 * last - 1), slice(right + first, right + last)
        lines.append(_marked(f"{offset}{hexadecimal}  {text}", marked))
    return lines


def _marked(text: str, parts: Sequence[slice]) -> list[Piece]:
    pieces: list[Piece] = []
    at = 0
    for part in parts:
        pieces += [(text[at : part.start], Ink.MUTED), (text[part], Ink.MARKED)]
        at = part.stop
    return [*pieces, (text[at:], Ink.MUTED)]


def first_byte(offset: int, lines: int) -> int:
    """The first offset of a byte pane of `lines` lines that has `offset` in its middle."""
    line = offset // BYTES_A_LINE - (lines - 1) // 2
    return max(line, 0) * BYTES_A_LINE


def header_words(data: bytes, start: int) -> list[str]:
    """The names and values of the header fields of a stage file that are in `data`, which begins at offset `start`."""
    if start >= HEADER_BYTES:
        return []
    words = []
    for first, last, name in _HEADER_FIELDS:
        field = data[first - start : last - start] if first >= start else b""
        if len(field) == last - first:
            count = int.from_bytes(field, "little")
            text = field.decode("ascii", "replace") if name == "magic" else str(count)
            words.append(f"{name} {'of the whole model' if name == 'layer' and count == 0xFFFFFFFF else text}")
    return words


def parse_place(text: str, planes: int) -> tuple[int | None, int, int]:
    """Head (None if there is none), row and column of "5,17" or "2,5,17". Raises `UsageError`."""
    parts = text.replace(":", ",").replace(" ", ",").split(",")
    numbers = [int(part) for part in parts if part.isdecimal() and len(part) <= _MOST_DIGITS]
    expected = "row,column" + (" or head,row,column" if planes > 1 else "")
    if len(numbers) != len([part for part in parts if part]) or len(numbers) not in ((2, 3) if planes > 1 else (2,)):
        raise UsageError(f"{text!r}: expected {expected}, as in {'0,5,3' if planes > 1 else '5,17'}")
    return (numbers[0] if len(numbers) == 3 else None), numbers[-2], numbers[-1]


@dataclass(frozen=True, slots=True)
class CursorValue:
    """The value under the cursor: of the `count` values of its cell the one of largest magnitude."""

    plane: int
    row: int
    column: int
    value: np.float32
    count: int
    location: FileLocation


def value_at_cursor(source: TensorSource, plane: int, viewport: Viewport) -> CursorValue:
    """The value under the cursor. Raises `UnreadableError`."""
    rows, columns = viewport.tiling.values(*viewport.cursor_cell, viewport.shape)
    count = (rows.stop - rows.start) * (columns.stop - columns.start)
    if count == 1:
        rows, columns = slice(viewport.row, viewport.row + 1), slice(viewport.column, viewport.column + 1)
    row, column, value = largest(partial(source.read, plane), rows, columns)
    return CursorValue(plane, row, column, value, count, source.locate(plane, row, column))


def place_words(source: TensorSource, labels: RowLabels, value: CursorValue) -> list[str]:
    """The row, the column and, if there are several planes, the head of a value, in words."""
    words = [f"head {value.plane}"] if source.planes > 1 else []
    words.append(labels.words(value.row))
    if source.axes[1] == "key":
        return [*words, RowLabels("key", labels.texts, labels.ids).words(value.column)]
    inner = source.column_words(value.column, value.row)
    return [*words, f"{source.axes[1]} {value.column}" + (f" ({inner})" if inner else "")]


def cursor_words(source: TensorSource, labels: RowLabels, value: CursorValue) -> str:
    fields = [*place_words(source, labels, value), exact_number(value.value), bits_text(value.value)]
    if value.count > 1:
        fields.append(f"largest of the {value.count} values of this cell")
    if source.causal and value.column > value.row:
        fields.append("key > query: of no meaning")
    return SEPARATOR.join([*fields, source.title])


def value_lines(
    source: TensorSource, labels: RowLabels, value: CursorValue, profile: Profile | None, width: int
) -> list[list[Piece]]:
    lines: list[list[Piece]] = [[(clipped(words, width), Ink.PLAIN)] for words in place_words(source, labels, value)]
    lines.append([(exact_number(value.value), Ink.STRONG), (f"  {bits_text(value.value)}", Ink.MUTED)])
    if value.count > 1:
        lines.append([(clipped(f"largest of {value.count} values in the cell", width), Ink.ACCENT)])
    where = f"block of {value.location.bytes} bytes" if value.location.is_block else "byte"
    fields = [f"{where} at {value.location.offset}"]
    if profile is not None and value.row < profile.row_rms.size and value.column < profile.column_rms.size:
        row, column = profile.row_rms[value.row], profile.column_rms[value.column]
        fields += [f"{axis} rms {number(rms, 3)}" for axis, rms in zip(source.axes, (row, column), strict=True)]
    return [*lines, *([(line, Ink.MUTED)] for line in flowed(fields, width))]


def histogram_pane(profile: Profile | None, scale: Scale, size: Size, *, plain: bool) -> tuple[list[list[Piece]], str]:
    """The pane of the histogram: bars, their axis, counts, rms and mean; and how many values are beyond the scale."""
    height, width = size
    if profile is None:
        return [[("being read…", Ink.MUTED)]], ""
    low, high = scale.ends()
    is_log = scale.kind is ScaleKind.LOG
    counts = profile.histogram(low, high, max(width, 1), log=is_log)
    lines: list[list[Piece]] = [
        [(line, Ink.ACCENT)] for line in histogram_lines(counts, max(height - 4, 1), plain=plain)
    ]
    axis = axis_lines(low, high, width, "log of the magnitude" if is_log else "", plain=plain)
    lines += [[(line, Ink.MUTED)] for line in axis]
    stats = profile.stats
    bad = f"{stats.nan} NaN  {stats.inf} Inf"
    lines.append([(bad, Ink.BAD if stats.nan or stats.inf else Ink.MUTED), (f"  {stats.count} values", Ink.MUTED)])
    figures = [f"rms {number(stats.rms or 0, 3)}", f"mean {number(stats.mean or 0, 3)}"]
    lines.append([(joined(figures, width), Ink.MUTED)])
    beyond = stats.count - stats.nan - stats.inf - int(counts.sum())
    return lines, f"{beyond} beyond the scale" if beyond else ""


def outlier_rows(source: TensorSource, profile: Profile | None, labels: RowLabels) -> list[Row]:
    keys = RowLabels("key", labels.texts, labels.ids)
    return [
        Row(
            column,
            (
                str(column), column_number(rms), column_number(factor),
                keys.words(column).partition(" ")[2].partition(" ")[2]
                if source.axes[1] == "key"
                else source.column_words(column),
            ),
        )
        for column, rms, factor in ([] if profile is None else profile.outliers(OUTLIERS))
    ]  # fmt: skip


def drop_empty_column(rows: Sequence[Row], columns: Sequence[Column]) -> tuple[list[Row], list[Column]]:
    """Rows and columns of a table, without its last column if that is empty in all rows."""
    if any(row.cells[-1] for row in rows):
        return list(rows), list(columns)
    return [Row(row.key, row.cells[:-1], row.tone) for row in rows], list(columns[:-1])


def label_width(viewport: Viewport, labels: RowLabels, most: int) -> int:
    """The width of the labels of rows in cells, where texts of tokens may take `most`."""
    digits = len(str(max(viewport.shape[0] - 1 + labels.first, 0)))
    text = labels.text_width(max(most, _LEAST_TEXT))
    return max(digits + 1 + (text + 1 if text else 0), len(labels.axis) + 1) + BAR + 1


def label_lines(
    viewport: Viewport, labels: RowLabels, profile: Profile | None, height: int, width: int, *, plain: bool
) -> list[list[Piece]]:
    """A heading, and for each of `height` lines the name of its row and a bar of its rms."""
    digits = len(str(max(viewport.shape[0] - 1 + labels.first, 0)))
    names = width - BAR - 1
    shares, is_log = (np.zeros(0), False) if profile is None else rms_shares(profile.row_rms)
    title = "log" if is_log else "rms"
    lines: list[list[Piece]] = [[(padded(labels.axis, names), Ink.MUTED), (title, Ink.MUTED)]]
    lines_a_row = max(viewport.grain.lines, 1)
    for line in range(height):
        rows = rows_of_line(viewport, line)
        if rows.start >= rows.stop:
            break
        if line % lines_a_row:
            lines.append([])
            continue
        ink = Ink.MARKED if rows.start <= viewport.row < rows.stop else Ink.MUTED
        bar = bar_text(float(shares[rows].max(initial=0)), BAR, plain)
        name = labels.short(rows.start, names - 1, digits)
        lines.append([(name, ink), (" ", Ink.PLAIN), (bar, Ink.ACCENT)])
    return lines


def key_lines(viewport: Viewport, texts: Sequence[str]) -> list[list[Piece]]:
    """The texts of keys above their columns, each in the width of its column; none where there is no room for them."""
    cells = viewport.grain.cells
    if not texts or cells < 2 or viewport.tiling.columns_per_cell > 1:
        return []
    lines: list[list[Piece]] = [[] for _ in range(KEY_LINES)]
    first, count = viewport.tiling.column, viewport.tiling.cells(viewport.shape, viewport.room)[1]
    for key in range(first, min(first + count, len(texts))):
        pieces = wrapped(texts[key], cells - 1, KEY_LINES)
        ink = Ink.MARKED if key == viewport.column else Ink.MUTED
        for line, piece in zip(lines, [*pieces, *[""] * KEY_LINES], strict=False):
            line += [(padded(piece, cells - 1), ink), (" ", Ink.PLAIN)]
    return lines


def byte_pane(source: TensorSource, value: CursorValue, height: int, width: int) -> tuple[str, list[list[Piece]]]:
    """The title and the lines of the pane of the bytes around a value. Raises `UnreadableError`."""
    start = first_byte(value.location.offset, height)
    data = source.file.read(start, height * BYTES_A_LINE)
    of_value = slice(value.location.offset, value.location.offset + value.location.bytes)
    words = [f"bytes of {source.file.path.name}, {source.file.size} in all"]
    words += [] if value.location.is_block else header_words(data, start)
    return joined(words, width), byte_lines(data, start, of_value)
