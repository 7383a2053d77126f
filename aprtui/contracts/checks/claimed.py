"""Checks that ask for less than the words of the claim."""

from __future__ import annotations

from collections.abc import Iterable

from aprtui.contracts.documents.bounds import named_least, stated_bounds
from aprtui.contracts.documents.document import CheckCall, Equation, Falsifier


def claim_texts(equations: Iterable[Equation], falsifier: Falsifier) -> tuple[str, ...]:
    """The texts of a claim: rule, prediction, and what the equations that it binds to say."""
    bound = (equation for equation in equations if equation.name in falsifier.binds_to)
    return (
        falsifier.rule,
        falsifier.prediction,
        *(text for found in bound for text in (found.formula, *found.invariants)),
    )


def looser_than_claimed(check: CheckCall, texts: Iterable[str]) -> str:
    """How a parameter of `check` allows more than every bound of its direction in `texts`; empty where none does.

    A share (at most 1 in size) is held against shares, a count or a speed against those. Where the texts state no such
    bound, nothing can be said.
    """
    stated = [bound for text in texts for bound in stated_bounds(text)]
    for name, value in check.parameters.items():
        least = named_least(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or least is None:
            continue
        alike = [number for way, number in stated if way is least and (abs(number) <= 1) == (abs(value) <= 1)]
        if alike and all(value < number if least else value > number for number in alike):
            nearest = min(alike) if least else max(alike)
            return f"its check allows {name} {value:g}, the claim says {nearest:g}"
    return ""
