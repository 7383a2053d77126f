"""Tokens with their probabilities as rows with bars: candidates for a token, and the likeliest token of each layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from aprtui.engine.process.slots import TokenRecord
from aprtui.engine.sampling import NO_TOKEN
from aprtui.tui.draw.numbers import percent
from aprtui.tui.draw.text import clipped, padded, quoted

_EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True, slots=True)
class Bar:
    """One row: a label, a token, and its probability (NaN: none). `marked` is the one that matters."""

    label: str
    token: str
    share: float
    marked: bool = False


def candidate_bars(record: TokenRecord, names: Mapping[int, str]) -> list[Bar]:
    """The likeliest tokens, the chosen one marked; it comes last if it is not among them."""
    bars = [
        Bar("", token_text(int(token), names), float(probability), int(token) == record.token)
        for token, probability in record.candidates.tolist()
        if token != NO_TOKEN
    ]
    if record.token != NO_TOKEN and not any(bar.marked for bar in bars):
        bars.append(Bar("", token_text(record.token, names), math.exp(record.logprob), True))
    return bars


def lens_bars(record: TokenRecord, names: Mapping[int, str]) -> list[Bar]:
    """The likeliest token after each layer, those that are the last layer's marked; none if the lens was off."""
    if record.lens is None:
        return []
    found = record.lens.tolist()
    return [
        Bar(str(number), token_text(int(token), names), float(probability), token == found[-1][0])
        for number, (token, probability) in enumerate(found)
    ]


def lens_cells(bar: Bar, label_width: int, width: int, ascii_only: bool) -> str:
    """A row of `width` cells of the logit lens: layer, token, share, and a bar where there is room for one."""
    head = f"{bar.label:>{label_width}} " if label_width else ""
    drawn = min(max(width - 30, 0), 12)
    room = max(width - len(head) - 6 - drawn, 0)
    token = padded(clipped(bar.token, room, "~" if ascii_only else "…"), room)
    share = "" if math.isnan(bar.share) else "<1 %" if 0 < bar.share < 0.01 else f"{100 * bar.share:.0f} %"
    tail = f" {bar_text(bar.share, drawn - 1, ascii_only)}" if drawn > 1 else ""
    return padded(f"{head}{token}{share:>6}{tail}", width)


def token_text(token: int, names: Mapping[int, str]) -> str:
    """A token in words: its text in quotes; its id until its text is known."""
    if token == NO_TOKEN:
        return "not finite"
    return quoted(names[token]) if token in names else f"#{token}"


def bar_text(share: float, width: int, ascii_only: bool) -> str:
    """A bar of `width` cells, to an eighth of a cell; whole cells of `#` in ASCII."""
    if math.isnan(share):
        return " " * width
    share = min(max(share, 0.0), 1.0)
    if ascii_only:
        return ("#" * round(share * width)).ljust(width)
    eighths = round(share * width * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[rest] if rest else "")).ljust(width)


def bar_cells(bar: Bar, label_width: int, width: int, ascii_only: bool) -> tuple[str, str, str]:
    """A row of `width` cells in three parts: mark, label and token; probability; bar.

    The token gets two fifths of the room, and is clipped there.
    """
    mark = (">" if ascii_only else "▸") if bar.marked else " "
    head = f"{mark}{bar.label:>{label_width}} " if label_width else mark
    room = max(width - len(head), 0)
    token_room = max(room * 2 // 5, 4)
    number = "" if math.isnan(bar.share) else percent(bar.share)
    rest = max(room - token_room - 9, 0)
    token = padded(clipped(bar.token, token_room, "~" if ascii_only else "…"), token_room)
    return f"{head}{token}", f"{number:>8} ", bar_text(bar.share, rest, ascii_only)
