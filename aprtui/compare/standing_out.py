"""Errors that stand out by their place, not by their size: a few channels far beyond what rounding leaves at others.

Honest rounding of results spreads evenly: counted in steps of the type they are kept in, each channel errs by about as
much as any other. A zero tail or a block of weights that is read wrongly does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.wording import counted

FALSE_ALARMS = 1e-6
"""How often normal noise of the level that the other channels show may call a channel, in a whole capture."""
LEAST_TIMES = 8.0
"""How many times that level a channel must err by besides: rounding has longer tails than normal noise. The most on
honest 16-bit captures of transformers (two models, 13 captures) is 2."""
LEAST_LEVEL = 0.5
"""In steps: where most values come out equal, one that falls to the other side of a step is off by one."""
MOST_LEVEL = 2.0
"""In steps: where most channels err by more, it is not the rounding of results that they err by."""
_LEVEL_QUANTILE = 0.75


@dataclass(frozen=True, slots=True)
class StandingOut:
    """The `channels` of `width` that err by `times` what the others do, and how many times counts as standing out."""

    channels: tuple[int, ...]
    width: int
    times: float
    bound: float

    def __str__(self) -> str:
        first, last, count = self.channels[0], self.channels[-1], len(self.channels)
        is_run = last - first + 1 == count
        which = f"channels {first}–{last} are" if is_run else f"{count} channels, {first} first, are"
        if count == 1:
            which = f"channel {first} is"
        rest = counted(self.width - count, "other channel")
        return f"{which} off by {self.times:.2g} × what rounding gives there; the {rest} {_are(self.width - count)} not"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def standing_out(
    expected: NDArray[np.float32], found: NDArray[np.float32], steps: NDArray[np.float64], family: int
) -> StandingOut | None:  # fmt: skip
    """The channels of `found` `[tokens, width]` that err by far more than the others, None where none do.

    `steps` `[tokens, width]` is what rounding may err by at each value, `family` how many channels of the capture are
    looked at. Tokens with a NaN or Inf are left out; without any other token, or without an error, nothing stands out.
    """
    tokens = np.isfinite(expected).all(1) & np.isfinite(found).all(1)
    count = int(tokens.sum())
    if not count:
        return None
    errors = (found[tokens].astype(np.float64) - expected[tokens]) / steps[tokens]
    by_channel = np.sqrt((errors**2).mean(0))
    level = float(np.quantile(by_channel, _LEVEL_QUANTILE))
    if level > MOST_LEVEL:
        return None
    level = max(level, LEAST_LEVEL)
    bound = max(LEAST_TIMES, times_by_chance(count, FALSE_ALARMS / family))
    channels = np.flatnonzero(by_channel > bound * level)
    if not channels.size:
        return None
    times = float(np.sqrt((by_channel[channels] ** 2).mean())) / level
    return StandingOut(tuple(int(channel) for channel in channels), by_channel.size, times, bound)


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
