"""How long work tells the caller how far it is."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and out of how many. What it raises ends the work."""


def no_progress(what: str, done: int, total: int) -> None:
    """A `Progress` for callers that show none."""
