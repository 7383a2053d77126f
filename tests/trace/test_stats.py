"""Statistics of stage tensors, at their edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aprtui.trace.stats import Accumulator, accumulate, causal


def test_empty_has_no_figures() -> None:
    stats = accumulate(np.empty(0, np.float32)).finish()
    assert stats.count == 0
    assert stats.rms is None


def test_nan_and_inf_are_counted_and_left_out() -> None:
    stats = accumulate(np.array([np.nan, np.inf, -np.inf, 3.0, -4.0], np.float32)).finish()
    assert (stats.count, stats.nan, stats.inf) == (5, 1, 2)
    assert (stats.min, stats.max, stats.absmax, stats.mean) == (-4.0, 3.0, 4.0, -0.5)
    assert stats.rms == pytest.approx(np.sqrt(12.5))


def test_all_nan_has_no_figures() -> None:
    stats = accumulate(np.full(3, np.nan, np.float32)).finish()
    assert (stats.count, stats.nan, stats.mean) == (3, 3, None)


def test_large_values_do_not_overflow_the_sums() -> None:
    assert accumulate(np.full(4, 3e38, np.float32)).finish().rms == pytest.approx(3e38, rel=1e-6)


@given(st.lists(st.floats(width=32), max_size=40), st.integers(0, 40))
def test_pieces_merge_to_the_whole(values: list[float], cut: int) -> None:
    whole = np.array(values, np.float32)
    merged = Accumulator()
    merged.merge(accumulate(whole[:cut]))
    merged.merge(accumulate(whole[cut:]))
    joined, direct = merged.finish(), accumulate(whole).finish()
    assert (joined.count, joined.nan, joined.inf, joined.min, joined.max) == (
        direct.count, direct.nan, direct.inf, direct.min, direct.max,
    )  # fmt: skip
    if direct.rms is not None:
        assert joined.rms == pytest.approx(direct.rms, rel=1e-9)


def test_attention_maps_count_keys_up_to_the_query() -> None:
    maps = np.arange(2 * 2 * 4, dtype=np.float32).reshape(2, 2, 4)
    assert causal(maps, position=1).tolist() == [0, 1, 4, 5, 6, 8, 9, 12, 13, 14]
