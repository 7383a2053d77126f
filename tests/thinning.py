"""Matrices of tests: every combination is a test, and the gate keeps those in which each value occurs."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import product

import pytest


def crossed(*axes: Iterable[object]) -> list[object]:
    """Every combination of the values of `axes`, as parameters.

    The gate goes through all axes at once, the shorter ones again and again, so that it takes as many tests as the
    longest axis has values and leaves out no value of any. The other combinations are marked `slow`.
    """
    values = [list(axis) for axis in axes]
    longest = max(map(len, values))
    kept = {tuple(turn % len(axis) for axis in values) for turn in range(longest)}
    return [
        pytest.param(*combination, marks=[] if places in kept else pytest.mark.slow)
        for places, combination in zip(product(*(range(len(axis)) for axis in values)), product(*values), strict=True)
    ]


def often(values: Iterable[object], kept: Collection[object]) -> list[object]:
    """The values as parameters, tuples for several at once; the gate has those that are `kept`, others are `slow`."""
    rows = ((value, value if isinstance(value, tuple) else (value,)) for value in values)
    return [pytest.param(*row, marks=[] if value in kept else pytest.mark.slow) for value, row in rows]
