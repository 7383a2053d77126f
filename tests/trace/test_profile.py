"""A tensor as a whole: histograms, rms of rows and columns, outliers; NaN, Inf and what lies above a diagonal apart."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.trace import profile as module
from aprtui.trace.profile import Profile, profile


def profiled(values: NDArray[np.float32], causal: bool = False) -> Profile:
    return profile(lambda rows, columns: values[rows, columns], values.shape, causal)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_VALUES", 50)


RANDOM = np.random.default_rng(5).standard_normal((30, 40)).astype(np.float32)


def test_rms_of_rows_and_columns_is_that_of_their_values() -> None:
    found, wide = profiled(RANDOM), RANDOM.astype(np.float64)
    assert found.row_rms == pytest.approx(np.sqrt((wide**2).mean(axis=1)))
    assert found.column_rms == pytest.approx(np.sqrt((wide**2).mean(axis=0)))
    assert found.stats.count == RANDOM.size and found.stats.max == RANDOM.max()


def test_a_histogram_counts_every_finite_value_once_on_any_scale() -> None:
    found = profiled(RANDOM)
    low, high = float(RANDOM.min()), float(RANDOM.max())
    counts = found.histogram(low, high, 12)
    assert counts.sum() == RANDOM.size
    exact = np.histogram(RANDOM, 12, (low, high))[0]
    assert np.abs(counts - exact).sum() <= 0.05 * RANDOM.size
    magnitudes = np.abs(RANDOM)
    assert found.histogram(float(magnitudes.min()), float(magnitudes.max()), 9, log=True).sum() == RANDOM.size
    assert found.histogram(0.5, 1.0, 4).sum() == pytest.approx(((RANDOM >= 0.5) & (RANDOM <= 1)).sum(), rel=0.1)


def test_nan_and_inf_are_counted_apart_and_spoil_nothing() -> None:
    values = RANDOM.copy()
    values[3, 4], values[5] = np.nan, np.inf
    found = profiled(values)
    assert (found.stats.nan, found.stats.inf) == (1, 40)
    assert found.counts.sum() == values.size - 41
    assert np.isnan(found.row_rms[5]) and np.isfinite(np.delete(found.row_rms, 5)).all()
    assert np.isfinite(found.column_rms).all()


def test_of_an_attention_map_only_key_up_to_query_counts() -> None:
    values = np.tril(np.ones((8, 8), np.float32))
    values[0, 7] = 1000
    found = profiled(values, causal=True)
    assert found.stats.count == 36 and found.stats.max == 1
    assert found.row_rms == pytest.approx(np.ones(8)) and found.column_rms == pytest.approx(np.ones(8))


def test_outliers_come_largest_first_with_their_factor_over_the_median() -> None:
    values = np.ones((10, 6), np.float32)
    values[:, 4], values[:, 1] = 20, 5
    assert profiled(values).outliers(2) == [(4, 20.0, 20.0), (1, 5.0, 5.0)]


def test_a_share_of_the_values_lies_below_its_magnitude() -> None:
    found = profiled(RANDOM)
    for share in (0.5, 0.9, 0.99):
        assert np.mean(np.abs(RANDOM) <= found.magnitude_below(share)) == pytest.approx(share, abs=0.01)
    assert found.magnitude_below(1.0) == found.stats.absmax


def test_zero_nan_and_nothing_have_profiles_too() -> None:
    zeros = profiled(np.zeros((3, 4), np.float32))
    assert zeros.outliers(5) == [] and zeros.magnitude_below(0.9) == 0 and zeros.histogram(-1, 1, 4).sum() == 12
    nothing = profiled(np.full((2, 2), np.nan, np.float32))
    assert nothing.stats.rms is None and nothing.magnitude_below(0.9) == 0 and nothing.outliers(5) == []
    empty = profiled(np.zeros((0, 5), np.float32))
    assert empty.stats.count == 0 and empty.histogram(0, 1, 3).tolist() == [0, 0, 0]


def test_cancelled_reads_no_more() -> None:
    found = profile(lambda rows, columns: RANDOM[rows, columns], RANDOM.shape, False, lambda: True)
    assert found.stats.count == 0
