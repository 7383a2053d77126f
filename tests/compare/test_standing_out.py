"""Channels that err by far more than the others are named; noise of any size, and what cannot be told, is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.compare.standing_out import LEAST_TIMES, standing_out, times_by_chance

TOKENS, WIDTH, FAMILY = 13, 896, 700_000


def values(level: float, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """What was expected, what was found with normal noise of `level` steps, and the steps."""
    random = np.random.default_rng(seed)
    expected = random.standard_normal((TOKENS, WIDTH)).astype(np.float32)
    steps = np.full(expected.shape, 2.0**-8)
    noise = level * steps * random.standard_normal(expected.shape)
    return expected, (expected + noise).astype(np.float32), steps


@pytest.mark.parametrize("level", [0.0, 0.3, 1.5, 30.0])
def test_noise_that_is_spread_evenly_stands_out_nowhere(level: float) -> None:
    assert all(standing_out(*values(level, seed), FAMILY) is None for seed in range(20))


def test_a_tail_of_channels_that_are_off_is_named_with_its_size() -> None:
    expected, found, steps = values(0.8)
    found[:, 888:] += np.float32(25 * 2.0**-8)
    result = standing_out(expected, found, steps, FAMILY)
    assert result is not None and result.channels == tuple(range(888, 896))
    assert 20 < result.times < 40
    assert str(result).startswith("channels 888–895 are off by") and "the 888 other channels are not" in str(result)


def test_the_sentence_fits_one_channel_and_several_apart() -> None:
    expected, found, steps = values(0.5)
    found[:, 7] += np.float32(1)
    assert "channel 7 is off by" in str(standing_out(expected, found, steps, FAMILY))
    found[:, [9, 300]] += np.float32(1)
    assert "3 channels, 7 first, are off by" in str(standing_out(expected, found, steps, FAMILY))


def test_where_steps_do_not_explain_the_other_channels_nothing_is_said() -> None:
    expected, found, steps = values(5.0)
    found[:, 7] += np.float32(100)
    assert standing_out(expected, found, steps, FAMILY) is None


def test_tokens_with_nan_are_left_out_and_without_any_other_nothing_stands_out() -> None:
    expected, found, steps = values(0.5)
    found[:, 7] += np.float32(1)
    found[3, 100] = np.nan
    result = standing_out(expected, found, steps, FAMILY)
    assert result is not None and result.channels == (7,)
    found[:, 100] = np.inf
    assert standing_out(expected, found, steps, FAMILY) is None
    assert standing_out(expected[:0], found[:0], steps[:0], FAMILY) is None


def test_few_values_may_be_further_off_by_chance() -> None:
    assert times_by_chance(1, 1e-12) > 7 > times_by_chance(4, 1e-12) > times_by_chance(100, 1e-12) > 1
    assert times_by_chance(13, 1e-6 / FAMILY) < LEAST_TIMES


def test_the_chance_is_not_below_that_of_normal_noise() -> None:
    """For one number the chance of |x| > k is erfc(k/√2)."""
    assert math.erfc(times_by_chance(1, 1e-9) / math.sqrt(2)) < 1e-9
