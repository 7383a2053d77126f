"""Where a capture came out right that a coarse rounding would have spoilt: how coarse an engine of it may be at most.

Rounding leaves its error at every token and in every channel, as large as anywhere else. A fault may not: the first
token sees no other, so no wrong angle and no wrong mask changes it; rows that are read wrongly leave the others alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.standing_out import FALSE_ALARMS, share_by_chance

Wide = NDArray[np.float64]

BLOCK = 32
"""Channels of one place: of fewer values, some are small by chance."""
_CHANCE = FALSE_ALARMS / 1e6
"""How often a place may be called quiet by chance: a million of places and candidates are looked at in a capture."""
_CORRELATED = 4
"""So many values err together, for what is rounded is multiplied by weights before it is seen."""
_LEAST_VALUES = 32
_LEAST_TOKENS = 4
_LEAST_DIRECTIONS = 2.0
"""Errors of all tokens along one direction may be small at a token by chance: so they are where one channel is all that
counts."""


@dataclass(frozen=True, slots=True)
class QuietPlace:
    """How much of a rounding's spread a capture allows at most, as what it leaves at its quietest place shows."""

    share: float
    name: str


def quiet_place(error: Wide, spread: Wide, tokens: Sequence[int], sources: int | None = None) -> QuietPlace | None:
    """Where the `error` `[tokens, channels]` of a capture is smallest against the `spread`, what a rounding makes of
    the same values: a coarser engine than `share` of it would have left more there. None where no place tells.

    Each channel counts in units of its own spread, so that no massive one hides the others. `tokens` are the positions.
    `sources` is how many probabilities of each key are all that the rounding changes, if so: then no more numbers err
    at a token than it sees others, times these.
    """
    if error.shape[0] < _LEAST_TOKENS:
        return None
    level = np.sqrt((spread**2).mean(0))
    with np.errstate(divide="ignore", invalid="ignore"):
        errors, spreads = (np.where(level > 0, part / level, 0.0) for part in (error, spread))
    if _directions(spreads) < _LEAST_DIRECTIONS:
        return None
    found = QuietPlace(1.0, "")
    for name, place in _places(tokens, error.shape[1]):
        taking_part = _taking_part(spreads[place])
        count = taking_part / _CORRELATED
        if sources is not None:
            count = min(count, sources * float(np.sum(np.asarray(tokens)[place[0]])))
        if taking_part < _LEAST_VALUES or not count:
            continue
        share = float(np.sqrt((errors[place] ** 2).sum() / (spreads[place] ** 2).sum()))
        share /= share_by_chance(count, _CHANCE)
        if share < found.share:
            found = QuietPlace(share, name)
    return found if found.name else None


def _places(tokens: Sequence[int], channels: int) -> Iterator[tuple[str, tuple[slice, slice]]]:
    for row, token in enumerate(tokens):
        yield f"token {token}", (slice(row, row + 1), slice(None))
    for count in sorted({*(2**power for power in range(1, len(tokens).bit_length())), len(tokens) - 1}):
        if 1 < count < len(tokens):
            yield f"the first {count} tokens", (slice(count), slice(None))
    for start in range(0, channels, BLOCK):
        end = min(start + BLOCK, channels)
        yield f"channels {start}–{end - 1}", (slice(None), slice(start, end))


def _taking_part(values: Wide) -> float:
    """How many normal numbers have the spread of sizes that `values` have."""
    squares = values**2
    fourth = float((squares**2).sum())
    return 3 * float(squares.sum()) ** 2 / fourth if fourth else 0.0


def _directions(values: Wide) -> float:
    """In how many directions the rows of `values` point."""
    gram = values @ values.T
    square = float((gram**2).sum())
    return float(np.trace(gram)) ** 2 / square if square else 0.0
