"""Progress of long work on stderr: a line that rewrites itself on a terminal, plain lines elsewhere.

Nothing is shown in the first second: short work needs no progress. Elsewhere there is a line every two
seconds at most: a log stays short, and a reader of the lines knows that the command is alive. A program that asks for
records (see `aprtui.progress`) gets the same lines as JSON.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Self

from aprtui.progress import RECORDS_VARIABLE, progress_record
from aprtui.terminal_output import ERASE_LINE

_PATIENCE_SECONDS = 1.0
_SECONDS_A_LINE = 2.0


class ProgressLine:
    """Call it with what is being done, how much of it is done, and out of how many."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._records = RECORDS_VARIABLE in os.environ
        self._shown = ""
        self._started = time.monotonic()
        self._since, self._last = self._started, (0, 0)
        self._written = -_SECONDS_A_LINE

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
        elif now - self._written >= _SECONDS_A_LINE:
            self._written = now
            line = progress_record(f"{text} …") if self._records else f"aprtui: {text} …"
            sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

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
