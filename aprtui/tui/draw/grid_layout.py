"""Stage names as column headers of any width: broken at `_` and, where a word is too long, inside it; never cut."""

from __future__ import annotations

from collections.abc import Sequence


def wrapped_name(name: str, width: int) -> list[str]:
    """`name` in rows of at most `width` characters; the `_` at a break is left out."""
    rows: list[str] = []
    for word in name.split("_"):
        if rows and len(rows[-1]) + 1 + len(word) <= width:
            rows[-1] += f"_{word}"
        else:
            rows.extend(_even_parts(word, width))
    return rows


def _even_parts(word: str, width: int) -> list[str]:
    """`word` in as few parts as fit in `width`, as long as each other: `matmul` at width 4 is `mat` and `mul`."""
    parts = max(1, -(-len(word) // width))
    length = -(-len(word) // parts)
    return [word[start : start + length] for start in range(0, len(word), length)]


def header_rows(names: Sequence[str], width: int) -> list[list[str]]:
    """Rows of header texts, one text of exactly `width` characters for each name; the names stand at the bottom.

    No rows where columns are narrower than 4: names of two letters a line cannot be read.
    """
    if width < 4:
        return []
    room = width if width < 6 else width - 1
    wrapped = [wrapped_name(name, room) for name in names]
    height = max((len(rows) for rows in wrapped), default=0)
    padded = [[""] * (height - len(rows)) + rows for rows in wrapped]
    return [[column[row].ljust(width) for column in padded] for row in range(height)]
