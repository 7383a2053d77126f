"""Inputs at one end of every row that a matrix product does not sum: the rest behind the last full tile, as a rule.

What such a product errs by is linear in exactly those inputs, whatever else the engine rounds.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Wide = NDArray[np.float64]

STEP = 8
"""Inputs are left out by so many at a time: the fewest that a vector instruction sums."""


class End(StrEnum):
    FIRST = "first"
    LAST = "last"


def squares_without(x: Wide, rows: Wide, error: Wide, end: End) -> Wide:
    """The squared `error` `[tokens, channels]` that is left where the first 8, 16, … inputs at `end` are left out, of
    the product of `x` `[tokens, columns]` and the `rows` `[channels, columns]`; columns behind the last whole step are
    taken for summed."""
    steps = x.shape[1] // STEP
    if end is End.LAST:
        x, rows = x[:, ::-1], rows[:, ::-1]
    x, rows = (matrix[:, : steps * STEP].reshape(len(matrix), steps, STEP).swapaxes(0, 1) for matrix in (x, rows))
    missing = np.cumsum(x @ rows.swapaxes(1, 2), axis=0)
    return np.asarray(((error + missing) ** 2).sum((1, 2)))
