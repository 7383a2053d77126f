"""How far long work is, in words and as a bar: what, how much of how much, how fast, how long yet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from rich.cells import cell_len

from aprtui.tui.draw.bars import bar_text
from aprtui.tui.draw.text import clipped

LEAST_BAR, MOST_BAR = 6, 24
"""Cells of a bar: with fewer it says nothing."""

LEAST_SECONDS = 0.3
"""After less time a rate would be a guess."""


@dataclass(frozen=True, slots=True)
class WorkProgress:
    """Work that was first heard of at `begun` with `first` of it done, and last at `reported` with `done` of `total`.

    `what` is as in `progress.Progress`: a unit stands behind its last comma, as in "reading weights, MB". Times are in
    seconds.
    """

    what: str
    done: int
    total: int
    begun: float
    first: int
    reported: float

    @classmethod
    def new(cls, what: str, done: int, total: int, now: float) -> Self:
        return cls(what, done, total, now, done, now)

    def taken(self, what: str, done: int, total: int, now: float) -> WorkProgress:
        """The same work at the next report; other work, or the same from the beginning, begins anew."""
        if what != self.what or total != self.total or done < self.done:
            return WorkProgress.new(what, done, total, now)
        return replace(self, done=done, reported=now)

    @property
    def rate(self) -> float:
        """Units a second; 0 while nothing is known."""
        seconds = self.reported - self.begun
        return (self.done - self.first) / seconds if seconds >= LEAST_SECONDS else 0.0

    def seconds_left(self, now: float) -> float | None:
        """Seconds until all is done, if it goes on like this; None where that is not known."""
        if not self.rate:
            return None
        return max((self.total - self.done) / self.rate - (now - self.reported), 0.0)


def progress_line(progress: WorkProgress, now: float, end: str, width: int, ascii_only: bool) -> str:
    """The work in at most `width` cells: what, bar, count with unit, rate, time left, and `end` before all but what."""
    name, _, unit = progress.what.partition(", ")
    count = f"{progress.done}/{progress.total}" + (f" {unit}" if unit else "")
    left = progress.seconds_left(now)
    rate = f"{progress.rate:.3g} {unit}/s" if unit else f"{progress.rate:.3g}/s"
    more = [] if left is None else [rate, f"{_time(left)} left"]
    fields = [count, *more, end]
    while len(fields) > 2 and cell_len(_joined(name, "", fields)) > width:
        fields.pop(-2)  # the count and what one can do stay
    room = width - cell_len(_joined(name, "", fields)) - 1
    if room < LEAST_BAR or not progress.total:
        return clipped(_joined(name, "", fields), width)
    size = min(room, MOST_BAR)
    bar = bar_text(progress.done / progress.total, size, ascii_only)
    empty = "." if ascii_only else "·"
    drawn = bar.rstrip()
    return _joined(name, drawn + empty * (size - len(drawn)), fields)


def _joined(name: str, bar: str, fields: list[str]) -> str:
    return f"{name} {bar} " * bool(bar) + f"{name} " * (not bar) + ", ".join(fields)


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
