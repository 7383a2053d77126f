"""Progress of long work on stderr: a line that rewrites itself on a terminal, plain lines elsewhere.

Nothing is shown in the first second: short work needs no progress. In a log there is a line when something else is
being done, two seconds after the last one at the earliest, then one every ten seconds, and none that says again what
the last one said. A program that asks for records (see `aprtui.progress`) gets a record every two seconds as long as
the work reports: by them it knows that the command is alive.
"""

from __future__ import annotations

import math
import os
import sys
import time
from typing import Self

from aprtui.progress import RECORDS_VARIABLE, progress_record
from aprtui.terminal_output import ERASE_LINE

_PATIENCE_SECONDS = 1.0
_SECONDS_A_LINE = 2.0
_SECONDS_A_LINE_OF_THE_SAME = 10.0
"""A log of an hour's work on one thing has 360 lines of it."""


class ProgressLine:
    """Call it with what is being done, how much of it is done, and out of how many."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._records = RECORDS_VARIABLE in os.environ
        self._shown = ""
        self._started = time.monotonic()
        self._since, self._last = self._started, (0, 0)
        self._written, self._logged = -math.inf, ("", 0, 0)

    def __enter__(self) -> Self:
        return self

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show `what` `done`/`total` with rate and time left."""
        now = time.monotonic()
        if total != self._last[1] or done < self._last[0]:
            self._since = now
        self._last = (done, total)
        if now - self._started < _PATIENCE_SECONDS:
            return
        text = f"{what} {done}/{total}{_pace(done, total, now - self._since)}"
        if self._terminal:
            self._shown = text
            sys.stderr.write(ERASE_LINE)
            sys.stderr.write(f"aprtui: {text}")
        elif now - self._written >= self._pause(what, done, total):
            self._written, self._logged = now, (what, done, total)
            line = progress_record(f"{text} …") if self._records else f"aprtui: {text} …"
            sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    def _pause(self, what: str, done: int, total: int) -> float:
        """Seconds that have to lie between the last line and this one."""
        if self._records or what != self._logged[0]:
            return _SECONDS_A_LINE
        return math.inf if (what, done, total) == self._logged else _SECONDS_A_LINE_OF_THE_SAME

    def __exit__(self, *_: object) -> None:
        if self._terminal and self._shown:
            sys.stderr.write(ERASE_LINE)
            sys.stderr.flush()


def _pace(done: int, total: int, seconds: float) -> str:
    """Steps a second and seconds left, once enough has been done to estimate them."""
    if not done or seconds < _PATIENCE_SECONDS:
        return ""
    rate = done / seconds
    return f", {rate:.3g}/s, {(total - done) / rate:.0f} s left"
