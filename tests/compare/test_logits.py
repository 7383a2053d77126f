"""Logits and router indices: what each number is, and what it is for ties, −Inf, NaN and nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from aprtui.compare.metrics.logits import Flip, IndexMetrics, measure_indices, measure_logits


def f32(*rows: Sequence[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_logit_metrics_follow_their_definitions() -> None:
    a, b = np.log(f32([0.5, 0.25, 0.25])), np.log(f32([0.25, 0.5, 0.25]))
    m = measure_logits(a, b)
    assert m.kl_ab_mean == pytest.approx(0.25 * math.log(2), rel=1e-6)
    assert m.kl_ba_largest == pytest.approx(0.25 * math.log(2), rel=1e-6)
    assert m.delta_p_mean == pytest.approx(-0.25, rel=1e-6)
    assert m.margin_smallest == pytest.approx(math.log(2), rel=1e-6)
    assert (m.top1_equal, m.overlap_mean) == (0, 1)
    (flip,) = m.flips
    assert (flip.row, flip.token_a, flip.token_b) == (0, 0, 1)


def test_directions_of_the_divergence_are_told_apart() -> None:
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.1, 0.1, 0.8])
    m = measure_logits(np.log(p)[None].astype(np.float32), np.log(q)[None].astype(np.float32))
    assert m.kl_ab_mean == pytest.approx((p * np.log(p / q)).sum(), rel=1e-6)
    assert m.kl_ba_mean == pytest.approx((q * np.log(q / p)).sum(), rel=1e-6)


def test_equal_logits_are_exactly_zero_apart_and_a_shift_changes_no_probability() -> None:
    a = np.random.default_rng(0).standard_normal((4, 300)).astype(np.float32)
    m = measure_logits(a, a.copy())
    assert (m.kl_ab_largest, m.kl_ba_largest, m.delta_p_largest, m.top1_equal, m.overlap_smallest) == (0, 0, 0, 1, 1)
    shifted = measure_logits(a, a + np.float32(8))
    assert shifted.kl_ab_largest is not None and shifted.kl_ab_largest < 1e-10


def test_large_logits_neither_overflow_nor_vanish() -> None:
    m = measure_logits(f32([1e30, -1e30, 0]), f32([1e30, -1e30, 0]))
    assert (m.kl_ab_mean, m.delta_p_mean) == (0, 0)


def test_flips_are_named_with_the_lead_they_lost() -> None:
    a = f32([3, 1, 0], [0, 2, 1.5], [5, 0, 0])
    b = f32([3, 1, 0], [0, 2, 2.5], [5, 0, 0])
    m = measure_logits(a, b)
    assert m.flips == (Flip(1, 1, 2, 0.5),)
    assert m.top1_equal == pytest.approx(2 / 3)
    assert m.margin_smallest == 0.5


def test_of_equal_logits_the_lowest_id_is_first() -> None:
    m = measure_logits(f32([2, 2, 0]), f32([2, 2, 0]))
    assert (m.flips, m.margin_smallest) == ((), 0)
    twelve = np.ones((1, 12), np.float32)
    moved = twelve.copy()
    moved[0, 11] = 2  # ids 0 … 9 are first of equals; now 11 and 0 … 8
    assert measure_logits(twelve, moved).overlap_mean == pytest.approx(0.9)


def test_overlap_is_of_as_many_tokens_as_there_are() -> None:
    assert measure_logits(f32([1, 2]), f32([2, 1])).overlap_mean == 1
    one = measure_logits(f32([1]), f32([2]))
    assert (one.overlap_mean, one.margin_smallest, one.kl_ab_mean) == (1, math.inf, 0)


def test_a_token_ruled_out_by_one_side_is_infinitely_far_from_the_other() -> None:
    m = measure_logits(f32([0, 0]), f32([0, -math.inf]))
    assert m.kl_ab_mean == math.inf and m.kl_ba_mean == pytest.approx(math.log(2))
    both = measure_logits(f32([0, 1, -math.inf]), f32([0, 1, -math.inf]))
    assert both.kl_ab_mean == 0


@pytest.mark.parametrize("bad", [[math.nan, 0], [math.inf, 0], [-math.inf, -math.inf]])
def test_rows_without_a_softmax_are_counted_and_left_out(bad: list[float]) -> None:
    for a, b in ((bad, [0, 1]), ([0, 1], bad)):
        m = measure_logits(f32([0, 1], a), f32([0, 1], b))
        assert (m.rows, m.skipped, m.kl_ab_mean, m.top1_equal) == (2, 1, 0, 1)
        none = measure_logits(f32(a), f32(b))
        assert (none.skipped, none.kl_ab_mean, none.top1_equal, none.overlap_mean, none.flips) == (
            1, None, None, None, (),
        )  # fmt: skip


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_no_logits_have_no_metrics(shape: tuple[int, int]) -> None:
    m = measure_logits(np.empty(shape, np.float32), np.empty(shape, np.float32))
    assert (m.rows, m.skipped, m.kl_ba_largest, m.margin_smallest) == (shape[0], shape[0], None, None)


def test_indices_are_equal_as_integers() -> None:
    assert measure_indices(f32([3, 1], [0, 7]), f32([3, 1], [0, 7])) == IndexMetrics(4, 4, None, 0, 0)
    assert measure_indices(f32([3, 1], [0, 7]), f32([3, 1], [7, 0])) == IndexMetrics(4, 2, 2, 0, 0)


def test_what_is_no_index_is_counted_and_never_equal() -> None:
    a, b = f32([0.5, math.nan, -1, 2]), f32([0.5, math.nan, math.inf, 2])
    assert measure_indices(a, b) == IndexMetrics(4, 1, 0, 3, 3)
    assert measure_indices(f32([-0.0]), f32([0.0])) == IndexMetrics(1, 1, None, 0, 0)
    assert measure_indices(np.empty(0, np.float32), np.empty(0, np.float32)) == IndexMetrics(0, 0, None, 0, 0)
