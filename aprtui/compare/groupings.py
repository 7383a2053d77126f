"""Which values of a stage are looked at together: a grouping is a row here, and everything else reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.wording import counted

Wide = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Grouping:
    """Values `[tokens, channels]` by `noun` (as `plural`): `size` channels at all tokens, or where 0 all channels of a
    token. A group must err by `least_times` what others do, as honest errors have longer tails than normal noise, and
    others count as erring by `least_level` steps: where most values of a small group come out equal, one that falls to
    the other side is off by one."""

    noun: str
    plural: str
    size: int
    least_times: float
    least_level: float

    def means(self, squares: Wide) -> Wide:
        """The mean of `squares` in each group; channels behind the last whole group are in none."""
        if not self.size:
            return np.asarray(squares.mean(1))
        groups = squares.shape[1] // self.size
        return np.asarray(squares[:, : groups * self.size].reshape(len(squares), groups, self.size).mean((0, 2)))

    def values(self, shape: tuple[int, int]) -> int:
        """How many values are in a group of a stage of this shape."""
        return shape[0] * self.size if self.size else shape[1]

    def count(self, shape: tuple[int, int]) -> int:
        """How many groups a stage of this shape has."""
        return shape[1] // self.size if self.size else shape[0]

    def sentence(self, groups: Sequence[int], total: int, times: float) -> str:
        """What the `groups` of `total` err by, against the others."""
        rest = total - len(groups)
        others = counted(rest, f"other {self.noun}") if rest == 1 else f"{rest} other {self.plural}"
        verb = "is" if rest == 1 else "are"
        return f"{self._which(groups)} off by {times:.2g} × what rounding gives there; the {others} {verb} not"

    def _which(self, groups: Sequence[int]) -> str:
        first, last, count = groups[0], groups[-1], len(groups)
        if last - first + 1 != count:
            name = f"{self.noun} {first}" if self.size < 2 or self.noun == "head" else self._channels(first, first)
            return f"{count} {self.plural}, {name.removeprefix(self.noun + ' ')} first, are"
        if self.size > 1 and self.noun != "head":
            return f"{self._channels(first, last)} are"
        return f"{self.noun} {first} is" if count == 1 else f"{self.plural} {first}–{last} are"

    def _channels(self, first: int, last: int) -> str:
        return f"channels {first * self.size}–{(last + 1) * self.size - 1}"


CHANNELS = Grouping("channel", "channels", 1, 8.0, 0.5)
BLOCKS = Grouping("block of 32", "blocks of 32", 32, 4.0, 0.15)
TILES = Grouping("block of 256", "blocks of 256", 256, 4.0, 0.15)
TOKENS = Grouping("token", "tokens", 0, 4.0, 0.15)
GROUPINGS = (CHANNELS, BLOCKS, TILES, TOKENS)
"""Those of any stage, the smallest first."""


def heads_of(dimension: int) -> Grouping:
    """Heads of so many channels, of a stage that has them side by side."""
    return Grouping("head", "heads", dimension, 4.0, 0.15)
