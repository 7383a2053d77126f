"""ULP distances and the likeness of error distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aprtui.compare.metrics import blocks as blocks_module
from aprtui.compare.metrics.extras import ERROR_BINS, bhattacharyya, error_overlap, ulp_histogram


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def nonzero(a: np.ndarray, b: np.ndarray) -> dict[int, int]:
    return {at: count for at, count in enumerate(ulp_histogram(a, b).counts) if count}


def stepped(value: float, steps: int) -> float:
    return float((np.float32(value).view(np.int32) + np.int32(steps)).view(np.float32))


@pytest.mark.parametrize(("steps", "place"), [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (7, 3), (8, 4), (1 << 20, 21)])
def test_distance_is_the_number_of_steps_in_bins_of_two(steps: int, place: int) -> None:
    assert nonzero(f32(1.5), f32(stepped(1.5, steps))) == {place: 1}
    assert nonzero(f32(-1.5), f32(stepped(-1.5, steps))) == {place: 1}
    assert ulp_histogram(f32(1.5), f32(stepped(1.5, steps))).largest == steps


def test_both_zeros_are_one_and_signs_meet_there() -> None:
    tiny = stepped(0.0, 1)
    assert nonzero(f32(0.0, -tiny), f32(-0.0, tiny)) == {0: 1, 2: 1}


def test_the_ends_of_float32_are_in_the_last_bins() -> None:
    top = np.finfo(np.float32).max
    histogram = ulp_histogram(f32(float(-top)), f32(float(top)))
    assert histogram.largest == 2 * 0x7F7FFFFF
    assert histogram.counts[32] == 1 and sum(histogram.counts) == 1


def test_nan_and_inf_have_no_distance() -> None:
    histogram = ulp_histogram(f32(math.nan, math.inf, 1, 2), f32(math.nan, math.inf, math.nan, 2))
    assert (histogram.excluded, histogram.counts[0], histogram.largest) == (3, 1, 0)
    empty = ulp_histogram(f32(), f32())
    assert (empty.excluded, sum(empty.counts), empty.largest) == (0, 0, None)
    assert ulp_histogram(f32(math.nan), f32(1)).largest is None


def test_attention_maps_have_distances_up_to_the_diagonal() -> None:
    a = np.ones((2, 3, 3), np.float32)
    b = a.copy()
    b[:, 0, 1:] = 9
    assert sum(ulp_histogram(a, b, causal=True).counts) == ulp_histogram(a, b, causal=True).counts[0] == 12


def test_equal_distributions_coincide_and_parted_ones_do_not_meet() -> None:
    errors = np.random.default_rng(1).standard_normal(5000).astype(np.float32)
    assert error_overlap(errors, errors[::-1].copy()).bhattacharyya == pytest.approx(1, abs=1e-12)
    assert error_overlap(errors, errors + np.float32(100)).bhattacharyya == 0
    assert error_overlap(errors, errors.repeat(3)).bhattacharyya == pytest.approx(1, abs=1e-12)


def test_two_normal_errors_have_the_coefficient_of_the_textbook() -> None:
    random = np.random.default_rng(2)
    a = random.standard_normal(400_000).astype(np.float32)
    b = (2 * random.standard_normal(400_000)).astype(np.float32)
    # exp(−¼ ln(¼ (σ²/τ² + τ²/σ² + 2))) of two centred normal distributions
    expected = math.exp(-0.25 * math.log(0.25 * (0.25 + 4 + 2)))
    assert error_overlap(a, b).bhattacharyya == pytest.approx(expected, abs=0.003)


def test_one_number_everywhere_is_one_bin() -> None:
    assert error_overlap(f32(0, 0), f32(0)).bhattacharyya == 1
    assert error_overlap(f32(0, 0), f32(1)).bhattacharyya == 0


def test_nan_inf_and_nothing_are_no_distribution() -> None:
    overlap = error_overlap(f32(math.nan, math.inf), f32(1))
    assert (overlap.bhattacharyya, overlap.excluded_a, overlap.excluded_b) == (None, 2, 0)
    assert error_overlap(f32(), f32()).bhattacharyya is None
    assert bhattacharyya(np.zeros(3, np.int64), np.ones(3, np.int64)) is None


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    a, b = random.standard_normal((2, 1000)).astype(np.float32)
    whole = error_overlap(a, b, ERROR_BINS), ulp_histogram(a, b)
    monkeypatch.setattr(blocks_module, "BLOCK_VALUES", 7)
    assert (error_overlap(a, b, ERROR_BINS), ulp_histogram(a, b)) == whole
