"""Channels that err by far more than the others are named; noise of any size, and what cannot be told, is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.compare.groupings import CHANNELS, GROUPINGS, Grouping, heads_of
from aprtui.compare.standing_out import share_by_chance, standing_out, times_by_chance

TOKENS, WIDTH, FAMILY = 13, 896, 700_000


def values(level: float, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """What was expected, what was found with normal noise of `level` steps, and the steps."""
    random = np.random.default_rng(seed)
    expected = random.standard_normal((TOKENS, WIDTH)).astype(np.float32)
    steps = np.full(expected.shape, 2.0**-8)
    noise = level * steps * random.standard_normal(expected.shape)
    return expected, (expected + noise).astype(np.float32), steps


@pytest.mark.parametrize("grouping", [*GROUPINGS, heads_of(64)], ids=lambda grouping: grouping.noun)
@pytest.mark.parametrize("level", [0.0, 0.3, 1.5, 30.0])
def test_noise_that_is_spread_evenly_stands_out_nowhere(level: float, grouping: Grouping) -> None:
    assert all(standing_out(*values(level, seed), FAMILY, grouping) is None for seed in range(20))


@pytest.mark.parametrize(
    ("grouping", "place", "said"),
    [
        (GROUPINGS[1], (slice(None), slice(864, 896)), "channels 864–895 are off by"),
        (GROUPINGS[1], (slice(None), slice(64, 128)), "channels 64–127 are off by"),
        (GROUPINGS[1], (slice(None), [*range(32), *range(64, 96)]), "2 blocks of 32, channels 0–31 first, are off by"),
        (GROUPINGS[3], (slice(7, 8), slice(None)), "token 7 is off by"),
        (GROUPINGS[3], ([2, 9], slice(None)), "2 tokens, 2 first, are off by"),
        (heads_of(64), (slice(None), slice(64, 192)), "heads 1–2 are off by"),
        (heads_of(64), (slice(None), slice(64, 128)), "head 1 is off by"),
    ],
)
def test_a_group_is_named_that_errs_by_less_than_a_channel_must(
    grouping: Grouping, place: tuple[slice | list[int], ...], said: str
) -> None:
    expected, found, steps = values(0.5)
    random = np.random.default_rng(9)
    found[place] += 2.7 * 2.0**-8 * random.standard_normal(found[place].shape).astype(np.float32)
    assert standing_out(expected, found, steps, FAMILY) is None
    result = standing_out(expected, found, steps, FAMILY, grouping)
    assert result is not None and str(result).startswith(said)
    assert f"other {grouping.plural} are not" in str(result)


def test_of_few_groups_none_stands_out() -> None:
    expected, found, steps = values(0.5)
    found[:, :256] += np.float32(1)
    assert standing_out(expected[:, :768], found[:, :768], steps[:, :768], FAMILY, GROUPINGS[2]) is None


def test_a_tail_of_channels_that_are_off_is_named_with_its_size() -> None:
    expected, found, steps = values(0.8)
    found[:, 888:] += np.float32(25 * 2.0**-8)
    result = standing_out(expected, found, steps, FAMILY)
    assert result is not None and result.groups == tuple(range(888, 896))
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
    assert result is not None and result.groups == (7,)
    found[:, 100] = np.inf
    assert standing_out(expected, found, steps, FAMILY) is None
    assert standing_out(expected[:0], found[:0], steps[:0], FAMILY) is None


def test_few_values_may_be_further_off_by_chance() -> None:
    assert times_by_chance(1, 1e-12) > 7 > times_by_chance(4, 1e-12) > times_by_chance(100, 1e-12) > 1
    assert times_by_chance(13, 1e-6 / FAMILY) < CHANNELS.least_times


def test_the_chance_is_not_below_that_of_normal_noise() -> None:
    """For one number the chance of |x| > k is erfc(k/√2)."""
    assert math.erfc(times_by_chance(1, 1e-9) / math.sqrt(2)) < 1e-9


@pytest.mark.parametrize("count", [4, 50, 1000])
@pytest.mark.parametrize("chance", [0.2, 1e-2])
def test_a_share_is_met_no_more_often_than_stated(count: int, chance: float) -> None:
    random = np.random.default_rng(1)
    sizes = np.sqrt((random.standard_normal((20_000, count)) ** 2).mean(1))
    met = (sizes < share_by_chance(count, chance)).mean()
    assert met <= chance
    assert (sizes > times_by_chance(count, chance)).mean() <= chance


def test_the_share_by_chance_nears_all_of_it_with_the_count() -> None:
    shares = [share_by_chance(count, 1e-6) for count in (1, 10, 100, 1e4, 1e8)]
    assert shares == sorted(shares) and shares[0] < 1e-5 and shares[-1] > 0.999
