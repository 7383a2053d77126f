"""Errors that stand out by their place, not by their size: a few channels, blocks of them, heads or tokens far beyond
what rounding leaves at others.

Honest rounding of results spreads evenly: counted in steps of the type they are kept in, each group errs by about as
much as any other. A zero tail or a block of weights that is read wrongly does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.groupings import CHANNELS, Grouping

FALSE_ALARMS = 1e-6
"""How often normal noise of the level that the other groups show may call one of all groups of a whole capture."""
MOST_LEVEL = 2.0
"""In steps: where most groups err by more, it is not the rounding of results that they err by."""
_LEVEL_QUANTILE = 0.75
_LEAST_GROUPS = 4
"""Of fewer, one that errs is a quarter of all: the others tell no level."""


@dataclass(frozen=True, slots=True)
class StandingOut:
    """The `groups` of `total` that err by `times` what the others do, and how many times counts as standing out."""

    grouping: Grouping
    groups: tuple[int, ...]
    total: int
    times: float
    bound: float

    def __str__(self) -> str:
        return self.grouping.sentence(self.groups, self.total, self.times)


def standing_out(
    expected: NDArray[np.float32], found: NDArray[np.float32], steps: NDArray[np.float64], family: int,
    grouping: Grouping = CHANNELS,
) -> StandingOut | None:  # fmt: skip
    """The groups of `found` `[tokens, width]` that err by far more than the others, None where none do.

    `steps` `[tokens, width]` is what rounding may err by at each value, `family` how many groups of the capture are
    looked at. Tokens with a NaN or Inf are left out; without any other token, or without an error, nothing stands out.
    """
    tokens = np.flatnonzero(np.isfinite(expected).all(1) & np.isfinite(found).all(1))
    if not tokens.size:
        return None
    errors = (found[tokens].astype(np.float64) - expected[tokens]) / steps[tokens]
    by_group = np.sqrt(grouping.means(errors**2))
    if by_group.size < _LEAST_GROUPS:
        return None
    level = float(np.quantile(by_group, _LEVEL_QUANTILE, method="lower"))
    if level > MOST_LEVEL:
        return None
    level = max(level, grouping.least_level)
    bound = max(grouping.least_times, times_by_chance(grouping.values(errors.shape), FALSE_ALARMS / family))
    groups = np.flatnonzero(by_group > bound * level)
    if not groups.size:
        return None
    times = float(np.sqrt((by_group[groups] ** 2).mean())) / level
    named = groups if grouping.size else tokens[groups]
    return StandingOut(grouping, tuple(named.tolist()), by_group.size, times, bound)


def times_by_chance(count: int, chance: float) -> float:
    """How many times its level the root mean square of `count` normal numbers exceeds with at most this `chance`.

    From Chernoff's bound on the chi-square distribution: P(χ²/n > k²) ≤ exp(−n/2 · (k² − 1 − ln k²)).
    """
    needed = 2 * -math.log(chance) / count
    low, high = 1.0, 2.0 + needed
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if middle - 1 - math.log(middle) < needed else (low, middle)
    return math.sqrt(high)


def share_by_chance(count: float, chance: float) -> float:
    """What share of its level the root mean square of `count` normal numbers falls below with at most this `chance`.

    From the same bound, at the other end: P(χ²/n < k²) ≤ exp(−n/2 · (k² − 1 − ln k²)).
    """
    needed = 2 * -math.log(chance) / count
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if middle - 1 - math.log(middle) < needed else (middle, high)
    return math.sqrt(low)
