"""Lists of keys beside each other: as many columns as a width has room for, all about as long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style

from aprtui.tui.draw.text import padded

LEAST_WIDTH = 36
"""Cells of a column: narrower ones would wrap most descriptions."""
GAP = 3
MOST_KEY_CELLS = 11


@dataclass(frozen=True, slots=True)
class KeyList:
    """Keys with what they do, or signs with what they mean, under a title."""

    title: str
    rows: Sequence[tuple[str, str]]


Line = list[Segment]


def in_columns(lists: Sequence[KeyList], width: int, title: Style, key: Style, base: Style) -> list[Line]:
    """The lists as lines of `width` cells, read down the first column, then down the next."""
    count = max(1, (width + GAP) // (LEAST_WIDTH + GAP))
    column = (width - GAP * (count - 1)) // count
    blocks = [_block(each, column, title, key, base) for each in lists if each.rows]
    height = _least_height(blocks, count)
    columns = _filled(blocks, height)
    blank = [Segment(" " * column, base)]
    lines = []
    for row in range(max(map(len, columns), default=0)):
        cells = [each[row] if row < len(each) else blank for each in columns]
        lines.append([segment for cell in cells for segment in (*cell, Segment(" " * GAP, base))][:-1])
    return lines


Block = list[list[Line]]
"""A list as entries, each of one line or more; the title belongs to the first entry."""


def _block(keys: KeyList, width: int, title: Style, key: Style, base: Style) -> Block:
    room = min(max(cell_len(words) for words, _ in keys.rows), MOST_KEY_CELLS)
    entries = []
    for words, description in keys.rows:
        first = [words] if cell_len(words) <= room else _wrapped(words, room)
        second = _wrapped(description, width - room - 2)
        entries.append(
            [
                [Segment(padded(left, room), key), Segment("  " + padded(right, width - room - 2), base)]
                for left, right in _side_by_side(first, second)
            ]
        )
    entries[0].insert(0, [Segment(padded(keys.title, width), title)])
    return entries


def _side_by_side(left: list[str], right: list[str]) -> list[tuple[str, str]]:
    height = max(len(left), len(right))
    return list(zip(left + [""] * (height - len(left)), right + [""] * (height - len(right)), strict=True))


def _wrapped(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` cells, broken at blanks; a word that is longer is cut at the line's end."""
    lines = [""]
    for word in text.split():
        both = f"{lines[-1]} {word}".strip()
        if cell_len(both) <= width:
            lines[-1] = both
        else:
            lines.append(word)
    return [line for line in lines if line] or [""]


def _least_height(blocks: Sequence[Block], count: int) -> int:
    """The fewest lines in which the blocks fill no more than `count` columns."""
    whole = sum(len(entry) for block in blocks for entry in block) + len(blocks)
    height = max(1, whole // count)
    while len(_filled(blocks, height)) > count:
        height += 1
    return height


def _filled(blocks: Sequence[Block], height: int) -> list[list[Line]]:
    """The blocks one below the other, a blank line between two; an entry that has no room begins a column."""
    columns: list[list[Line]] = [[]]
    for block in blocks:
        for number, entry in enumerate(block):
            gap = 1 if number == 0 and columns[-1] else 0
            if columns[-1] and len(columns[-1]) + gap + len(entry) > height:
                columns.append([])
                gap = 0
            columns[-1] += [_blank(entry)] * gap + entry
    return columns


def _blank(entry: list[Line]) -> Line:
    return [Segment(" " * sum(segment.cell_length for segment in entry[0]), entry[0][-1].style)]
