"""A hang fails a test instead of stopping the run."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def no_hang(seconds: float = 60.0) -> Iterator[None]:
    """Raises `TimeoutError` in a block that does not end: far longer than the slowest machine takes for what it does.

    Of use where a wrong algorithm would take hours. Main thread only.
    """

    def interrupt(*_: object) -> None:
        raise TimeoutError(f"did not end within {seconds} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
