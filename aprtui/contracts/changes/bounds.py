"""Whether a changed number makes a claim easier or harder to hold: loosened or tightened.

The direction is read off the words beside the number (`>= 0.99`, `0.9 <= x`, `at most 3`) or off the name of a
parameter (`at_least`, `tolerance`). Where it cannot be read, nothing is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum

_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w.]*\w)")
_AT_LEAST_BEFORE = re.compile(r"(?:>=|>|≥|at least|no less than|minimum(?: of)?)\s*$", re.IGNORECASE)
_AT_MOST_BEFORE = re.compile(r"(?:<=|<|≤|±|\+/-|at most|no more than|within|up to|maximum(?: of)?)\s*$", re.IGNORECASE)
_AT_LEAST_AFTER = re.compile(r"\s*(?:<=|<|≤)")
_AT_MOST_AFTER = re.compile(r"\s*(?:>=|>|≥)")
_LEAST = frozenset({"floor", "least", "low", "lower", "min", "minimum"})
_MOST = frozenset({"below", "ceiling", "high", "max", "maximum", "most", "tolerance", "upper"})


class Move(Enum):
    """What became of a bound."""

    LOOSENED = "loosened"
    TIGHTENED = "tightened"


def moved(field: str, old: float, new: float) -> Move | None:
    """What became of the number in `field`, told by the words of its name."""
    words = set(re.split(r"[^a-z]+", field.lower()))
    if bool(words & _LEAST) == bool(words & _MOST) or old == new:
        return None
    return _move(bool(words & _LEAST), old, new)


def moved_in_text(old: str, new: str) -> Move | None:
    """What became of the bounds in a text that is otherwise the same; None where they did not all go one way."""
    if _masked(old) != _masked(new):
        return None
    moves = set(_moves(old, new))
    return moves.pop() if len(moves) == 1 else None


def same_but_numbers(old: str, new: str) -> bool:
    """Whether two texts differ in numbers alone."""
    return old != new and _masked(old) == _masked(new)


def _masked(text: str) -> str:
    return _NUMBER.sub("#", text)


def _moves(old: str, new: str) -> Iterator[Move | None]:
    for before, after in zip(_NUMBER.finditer(old), _NUMBER.finditer(new), strict=True):
        if float(before[0]) != float(after[0]):
            is_least = _is_least(old[: before.start()], old[before.end() :])
            yield None if is_least is None else _move(is_least, float(before[0]), float(after[0]))


def _is_least(left: str, right: str) -> bool | None:
    """Whether a number between two texts is the least that is allowed, or the most; None where neither says so."""
    least = bool(_AT_LEAST_BEFORE.search(left) or _AT_LEAST_AFTER.match(right))
    most = bool(_AT_MOST_BEFORE.search(left) or _AT_MOST_AFTER.match(right))
    return None if least == most else least


def _move(is_least: bool, old: float, new: float) -> Move:
    return Move.TIGHTENED if (new > old) == is_least else Move.LOOSENED
