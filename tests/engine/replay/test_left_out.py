"""How many inputs at an end of its rows a matrix product leaves out: what it errs by tells, through any rounding."""

from __future__ import annotations

import numpy as np
import pytest

from aprtui.engine.alternatives.left_out import STEP, End, squares_without


@pytest.mark.parametrize("count", [8, 40])
@pytest.mark.parametrize("end", End)
def test_the_least_error_is_left_where_what_is_missing_is_left_out(count: int, end: End) -> None:
    random = np.random.default_rng(count)
    x, rows = random.standard_normal((5, 100)), random.standard_normal((7, 100))
    missing = slice(0, count) if end is End.FIRST else slice(100 - count, 100)
    error = random.normal(0, 0.01, (5, 7)) - x[:, missing] @ rows[:, missing].T
    left = squares_without(x, rows, error, end)
    assert len(left) == 100 // STEP
    assert (left.argmin() + 1) * STEP == count
    assert left.min() < 1e-4 * (error**2).sum()
