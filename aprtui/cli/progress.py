"""Progress of what a user waits for, on stderr: a line that rewrites itself on a terminal, one plain line elsewhere.

Nothing is shown in the first second: what is done by then needs no progress.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType

_PATIENCE_SECONDS = 1.0


class Progress:
    """Call it with what is being done, how much of it is done, and out of how many."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown = ""
        self._started = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show `what` `done`/`total`; off a terminal only the first call of each `what`."""
        if time.monotonic() - self._started < _PATIENCE_SECONDS:
            return
        if self._terminal:
            self._shown = f"aprtui: {what} {done}/{total}"
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
