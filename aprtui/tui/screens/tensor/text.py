"""What the tensor screen says in words and characters: the value under the cursor, histograms, bytes, tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.errors import UsageError
from aprtui.trace.aprt import HEADER_BYTES

_HEADER_FIELDS = ((0, 4, "magic"), (4, 8, "layer"), (8, 12, "number of values"))
_HEIGHTS = " ▁▂▃▄▅▆▇█"
_PLAIN_HEIGHTS = " ..::||##"
BYTES_A_LINE = 16

_DWARFING = 20
"""A row with so many times the median rms makes linear bars of the others too short to see."""


def signed_number(value: float, digits: int = 4) -> str:
    """A value with so many significant digits; NaN and Inf by name."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Inf" if value > 0 else "−Inf"
    return f"{value:.{digits}g}".replace("-", "−")


def exact_number(value: np.float32) -> str:
    """A float32 with as few digits as tell it from its neighbours."""
    return signed_number(float(value)) if not np.isfinite(value) else str(value).replace("-", "−")


def bits_text(value: np.float32) -> str:
    """The bits of a float32."""
    return f"0x{int(np.float32(value).view(np.uint32)):08x}"


def token_text(data: bytes) -> str:
    """The bytes of a token so that all of them are seen: spaces as `·`, line breaks as `⏎`, tabs as `⇥`."""
    text = data.decode(errors="replace").replace(" ", "·").replace("\r\n", "⏎").replace("\n", "⏎").replace("\t", "⇥")
    return "".join(character if character.isprintable() else "�" for character in text)


@dataclass(frozen=True, slots=True)
class RowLabels:
    """What rows are called: their numbers, and the texts of tokens where they are known."""

    axis: str
    texts: Sequence[str]
    ids: Sequence[int]
    first: int = 0
    """The token that the first row is: logits may be of the last position alone."""

    def words(self, row: int) -> str:
        """A row in words."""
        place = row + self.first
        if place < len(self.texts):
            return f"{self.axis} {place} {self.texts[place]}"
        if place < len(self.ids):
            return f"{self.axis} {place} id {self.ids[place]}"
        return f"{self.axis} {place}"

    def short(self, row: int, width: int, digits: int) -> str:
        """A row in `width` cells: its number, and as much of its text as has room."""
        place = row + self.first
        text = self.texts[place] if place < len(self.texts) else ""
        if not text and place < len(self.ids):
            text = f"#{self.ids[place]}"
        return f"{place:>{digits}} {text}"[:width].ljust(width)


def rms_shares(rms: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
    """Lengths of bars from 0 to 1 for the rms of rows, and whether they are logarithmic.

    They are where single rows dwarf all others, as the first token of many models does: then over three powers of ten.
    """
    known = np.nan_to_num(rms, nan=0.0, posinf=0.0)
    top, positive = known.max(initial=0), known[known > 0]
    if not positive.size:
        return np.zeros(rms.shape), False
    if top <= _DWARFING * np.median(positive):
        return known / top, False
    with np.errstate(divide="ignore"):
        shares = 1 + np.log10(known / top) / 3
    # What is there at all is seen.
    return np.where(known > 0, np.maximum(shares, 0.05), 0.0), True


def histogram_lines(counts: NDArray[np.int64], height: int, *, plain: bool) -> list[str]:
    """Bars of the logarithm of the counts, `height` lines high; a count of one is seen."""
    if not counts.size or not counts.max():
        return [" " * counts.size] * height
    levels = np.log1p(counts) / np.log1p(counts.max()) * height * 8
    levels = np.where(counts > 0, np.maximum(np.rint(levels), 1), 0).astype(np.int64)
    glyphs = _PLAIN_HEIGHTS if plain else _HEIGHTS
    return [
        "".join(glyphs[int(min(max(level - 8 * line, 0), 8))] for level in levels) for line in reversed(range(height))
    ]


def between(left: str, right: str, width: int, middle: str = "") -> str:
    """`left` at the left, `right` at the right, `middle` in between if it has room."""
    room = width - len(left) - len(right)
    if room < 1:
        return f"{left} {right}"[:width]
    return left + (middle.center(room) if len(middle) + 2 <= room else " " * room) + right


@dataclass(frozen=True, slots=True)
class ByteLine:
    """A line of a byte pane; `marked` are the places of the bytes that are meant, in the hex and in the text part."""

    text: str
    marked: tuple[slice, ...] = ()


def byte_lines(data: bytes, start: int, meant: slice) -> list[ByteLine]:
    """Bytes from offset `start` on (a multiple of 16), 16 a line: offset, hexadecimal, ASCII; `meant` are offsets."""
    lines = []
    for at in range(0, len(data), BYTES_A_LINE):
        part = data[at : at + BYTES_A_LINE]
        hexadecimal = " ".join(f"{byte:02x}" for byte in part).ljust(3 * BYTES_A_LINE - 1)
        text = "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in part)
        offset = f"{start + at:08x}  "
        first, last = max(meant.start - start - at, 0), min(meant.stop - start - at, len(part))
        marked: tuple[slice, ...] = ()
        if first < last:
            left, right = len(offset), len(offset) + 3 * BYTES_A_LINE + 1
            marked = slice(left + 3 * first, left + 3 * last - 1), slice(right + first, right + last)
        lines.append(ByteLine(f"{offset}{hexadecimal}  {text}", marked))
    return lines


def first_byte(offset: int, lines: int) -> int:
    """Where a byte pane of so many lines begins, so that `offset` is in its middle."""
    line = offset // BYTES_A_LINE - (lines - 1) // 2
    return max(line, 0) * BYTES_A_LINE


def header_words(data: bytes, start: int) -> str:
    """The fields of a stage file's header that lie in `data`, named with what they say."""
    if start >= HEADER_BYTES:
        return ""
    found = []
    for first, last, name in _HEADER_FIELDS:
        field = data[first - start : last - start] if first >= start else b""
        if len(field) == last - first:
            number = int.from_bytes(field, "little")
            text = field.decode("ascii", "replace") if name == "magic" else str(number)
            found.append(f"{name} {'of the whole model' if name == 'layer' and number == 0xFFFFFFFF else text}")
    return ", ".join(found)


def parse_place(text: str, planes: int) -> tuple[int | None, int, int]:
    """Head (None where none is given), row and column of "5,17" or "2,5,17". Raises `UsageError`."""
    parts = text.replace(":", ",").replace(" ", ",").split(",")
    numbers = [int(part) for part in parts if part.isdecimal()]
    expected = "row,column" + (" or head,row,column" if planes > 1 else "")
    if len(numbers) != len([part for part in parts if part]) or len(numbers) not in ((2, 3) if planes > 1 else (2,)):
        raise UsageError(f"{text!r}: expected {expected}, as in {'0,5,3' if planes > 1 else '5,17'}")
    return (numbers[0] if len(numbers) == 3 else None), numbers[-2], numbers[-1]
