"""Bounds that texts state: numbers with a comparison beside them, the least that is allowed, or the most."""

from __future__ import annotations

import re
from collections.abc import Iterator

NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w.]*\w)")
_AT_LEAST_BEFORE = re.compile(r"(?:>=|>|≥|at least|no less than|minimum(?: of)?)\s*$", re.IGNORECASE)
_AT_MOST_BEFORE = re.compile(r"(?:<=|<|≤|±|\+/-|at most|no more than|within|up to|maximum(?: of)?)\s*$", re.IGNORECASE)
_AT_LEAST_AFTER = re.compile(r"\s*(?:<=|<|≤)")
_AT_MOST_AFTER = re.compile(r"\s*(?:>=|>|≥)")
_LEAST = frozenset({"floor", "least", "low", "lower", "min", "minimum"})
_MOST = frozenset({"below", "ceiling", "high", "max", "maximum", "most", "tolerance", "upper"})


def is_least(left: str, right: str) -> bool | None:
    """True for a number that is the least allowed, False for the most; None where the texts around it do not say."""
    least = bool(_AT_LEAST_BEFORE.search(left) or _AT_LEAST_AFTER.match(right))
    most = bool(_AT_MOST_BEFORE.search(left) or _AT_MOST_AFTER.match(right))
    return None if least == most else least


def named_least(name: str) -> bool | None:
    """The same for a number by the words of its field's name: `at_least`, `tolerance`."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    return None if bool(words & _LEAST) == bool(words & _MOST) else bool(words & _LEAST)


def stated_bounds(text: str) -> Iterator[tuple[bool, float]]:
    """Whether it is the least allowed, and the number, of each bound in `text`."""
    for match in NUMBER.finditer(text):
        least = is_least(text[: match.start()], text[match.end() :])
        if least is not None:
            yield least, float(match[0])
