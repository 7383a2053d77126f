"""Text in terminal cells: clipped, padded, joined as far as there is room, quoted; paths as text.

A wide character takes two cells.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from rich.cells import cell_len, set_cell_size

SEPARATOR = "  "
"""Between the fields of a line of words."""


def clipped(text: str, width: int, sign: str = "…") -> str:
    """`text` in at most `width` cells; `sign`, one cell wide, stands for an end that is left out."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1) + sign if width > 0 else ""


def clipped_start(text: str, width: int) -> str:
    """`text` in at most `width` cells; `…` stands for a beginning that is left out."""
    if cell_len(text) <= width:
        return text
    if width < 1:
        return ""
    first = len(text) - width + 1 if text.isascii() else 0
    return "…" + next(text[start:] for start in range(first, len(text) + 1) if cell_len(text[start:]) < width)


def padded(text: str, width: int, *, right: bool = False) -> str:
    """`text` in exactly `width` cells, cut off where it is longer; `right` puts it at their right end."""
    return set_cell_size(" " * (width - cell_len(text)) + text if right else text, width)


def joined(fields: Sequence[str], width: int) -> str:
    """As many of `fields` as fit in `width` cells, the first ones first; `…` where some are left out."""
    text = SEPARATOR.join(fields)
    count = len(fields)
    while cell_len(text) > width and count > 1:
        count -= 1
        text = SEPARATOR.join([*fields[:count], "…"])
    return clipped(text, width)


def flowed(fields: Sequence[str], width: int) -> list[str]:
    """`fields` on as few lines of `width` cells as hold them whole; one that is longer is clipped."""
    lines: list[str] = []
    for field in fields:
        if lines and cell_len(lines[-1]) + len(SEPARATOR) + cell_len(field) <= width:
            lines[-1] += SEPARATOR + field
        else:
            lines.append(clipped(field, width))
    return lines


def wrapped(text: str, width: int, lines: int) -> list[str]:
    """`text` in pieces of at most `width` ≥ 1 cells, broken anywhere; `…` ends the last of `lines` if more follow."""
    pieces = [""]
    for character in text:
        if pieces[-1] and cell_len(pieces[-1] + character) > width:
            pieces.append("")
        pieces[-1] += character
    if len(pieces) > lines:
        pieces = [*pieces[: lines - 1], clipped(pieces[lines - 1] + "…", width) if width > 1 else "…"]
    return pieces


def quoted(name: str) -> str:
    """A token's text with its line breaks and blanks told apart: `"\\n"`, `" return"`."""
    return json.dumps(name, ensure_ascii=False)


def visible(piece: str) -> str:
    """A token's text in characters that can be seen: spaces as `·`, line breaks as `⏎`, tabs as `⇥`."""
    text = piece.replace(" ", "·").replace("\r\n", "⏎").replace("\n", "⏎").replace("\t", "⇥")
    return "".join(character if character.isprintable() else "�" for character in text)


def one_line(text: str) -> str:
    """A text on one line: a line break with the blanks around it as `⏎`, other blanks as one each."""
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return "".join(character if character.isprintable() else "�" for character in " ⏎ ".join(lines)).strip()


def as_typed(path: Path) -> str:
    """A path as a person would type it here: relative where it lies below the working directory."""
    absolute = path.absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(path)


def short_path(path: Path, working: Path) -> str:
    """A path as short as it can be: relative to the folder `working`, or to the home of the user as `~`."""
    absolute = path.absolute()
    if absolute.is_relative_to(working):
        return str(absolute.relative_to(working)) if absolute != working else f".{os.sep} ({working.name})"
    home = Path.home()
    return f"~{os.sep}{absolute.relative_to(home)}" if absolute.is_relative_to(home) else str(absolute)
