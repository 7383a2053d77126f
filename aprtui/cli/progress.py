"""Progress of what a user waits for, on stderr: a line that rewrites itself on a terminal, one plain line elsewhere.

Nothing is shown in the first second: what is done by then needs no progress.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType

_PATIENCE_SECONDS = 1.0


class Progress:
    """Call it with what is being done, how much of it is done, and out of how many."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown = ""
        self._started = time.monotonic()
        self._since, self._last = self._started, (0, 0)

    def __enter__(self) -> Progress:
        return self

    @property
    def each(self) -> Callable[[str, int, int], None] | None:
        """For steps that are named one by one: None off a terminal, where every name would be a line of its own."""
        return self if self._terminal else None

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show `what` `done`/`total` with rate and time left; off a terminal only the first call of each `what`."""
        now = time.monotonic()
        if total != self._last[1] or done < self._last[0]:
            self._since = now
        self._last = (done, total)
        if now - self._started < _PATIENCE_SECONDS:
            return
        if self._terminal:
            self._shown = f"aprtui: {what} {done}/{total}{_pace(done, total, now - self._since)}"
            sys.stderr.write(f"\r\x1b[K{self._shown}")
        elif self._shown != what:
            self._shown = what
            sys.stderr.write(f"aprtui: {what} …\n")
        sys.stderr.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Clear the line."""
        if self._terminal and self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _pace(done: int, total: int, seconds: float) -> str:
    """Steps a second and seconds left, once there is something to tell them from."""
    if not done or seconds < _PATIENCE_SECONDS:
        return ""
    rate = done / seconds
    return f", {rate:.3g}/s, {(total - done) / rate:.0f} s left"
