"""Metrics of a pair: what they are, and what they return for zero, NaN, Inf, −0.0 and nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aprtui.compare.metrics import blocks as blocks_module
from aprtui.compare.metrics.measure import Metric, compare_values


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_metrics_follow_their_definitions() -> None:
    m = compare_values(f32(3, 4, 0), f32(3, 4, 2))
    assert (m.count, m.compared, m.max_abs, m.max_abs_index) == (3, 3, 2.0, 2)
    assert m.mean_abs == pytest.approx(2 / 3)
    assert m.rms == pytest.approx(math.sqrt(4 / 3))
    assert m.rel_l2 == pytest.approx(2 / 5)
    assert m.cosine == pytest.approx(25 / (5 * math.sqrt(29)))
    assert m.equal_bits == pytest.approx(2 / 3)
    assert not m.equal


def test_first_of_equal_maxima_is_the_one_named() -> None:
    assert compare_values(f32(0, 1, 0, 1), f32(0, 2, 0, 0)).max_abs_index == 1


def test_equal_sides_are_exactly_zero_apart() -> None:
    values = np.random.default_rng(1).standard_normal(1000).astype(np.float32)
    m = compare_values(values, values.copy())
    assert (m.max_abs, m.mean_abs, m.rms, m.rel_l2, m.cosine, m.equal_bits) == (0, 0, 0, 0, 1, 1)
    assert m.equal


def test_zero_against_zero_is_equal() -> None:
    m = compare_values(f32(0, 0), f32(0, 0))
    assert (m.rel_l2, m.cosine, m.equal) == (0, 1, True)


def test_zero_reference_against_values_is_infinitely_far() -> None:
    m = compare_values(f32(0, 0), f32(0, 1))
    assert (m.rel_l2, m.cosine, m.max_abs, m.equal) == (math.inf, 0, 1, False)


def test_negative_zero_is_equal_but_not_in_its_bits() -> None:
    m = compare_values(f32(0.0, 1.0), f32(-0.0, 1.0))
    assert (m.equal, m.equal_bits, m.max_abs) == (True, 0.5, 0)


def test_nan_and_inf_alike_on_both_sides_are_counted_by_kind() -> None:
    nan, inf = math.nan, math.inf
    m = compare_values(f32(nan, nan, inf, -inf, inf, 1), f32(nan, inf, inf, -inf, -inf, 1))
    assert (m.nan_both, m.inf_both, m.excluded, m.mismatches, m.compared) == (1, 2, 3, 2, 1)


def test_nothing_to_compare_has_no_metrics() -> None:
    m = compare_values(f32(), f32())
    assert (m.count, m.compared, m.equal) == (0, 0, False)
    assert [m.value(metric) for metric in Metric if metric is not Metric.NON_FINITE] == [None] * (len(Metric) - 1)
    assert m.equal_bits is None
    assert (m.rel_linf, m.cosine_without_top, m.sigma_ratio, m.bias, m.q50, m.q999) == (None,) * 6


def test_nan_and_inf_alike_are_counted_and_left_out() -> None:
    m = compare_values(f32(np.nan, np.inf, -np.inf, 1), f32(np.nan, np.inf, -np.inf, 3))
    assert (m.nan_a, m.nan_b, m.inf_a, m.inf_b) == (1, 1, 2, 2)
    assert (m.mismatches, m.excluded, m.compared, m.max_abs, m.max_abs_index) == (0, 3, 1, 2.0, 3)


@pytest.mark.parametrize(
    ("a", "b"), [(np.nan, 1), (1, np.nan), (np.inf, 1), (np.inf, -np.inf), (np.nan, np.inf), (1, -np.inf)]
)
def test_nan_or_inf_on_one_side_is_a_mismatch(a: float, b: float) -> None:
    m = compare_values(f32(0, a, 2), f32(0, b, 2))
    assert (m.mismatches, m.first_mismatch, m.compared) == (1, 1, 2)
    assert m.max_abs == 0
    assert not m.equal


def test_nan_everywhere_leaves_nothing() -> None:
    m = compare_values(f32(np.nan, np.nan), f32(np.nan, np.nan))
    assert (m.compared, m.excluded, m.rel_l2, m.equal) == (0, 2, None, False)


def test_attention_maps_count_only_where_key_is_not_after_query() -> None:
    a = np.arange(18, dtype=np.float32).reshape(2, 3, 3)
    b = a.copy()
    b[:, np.triu_indices(3, 1)[0], np.triu_indices(3, 1)[1]] = np.nan
    assert compare_values(a, b, causal=True).equal
    b[1, 2, 1] += 4
    m = compare_values(a, b, causal=True)
    assert (m.count, m.max_abs, m.max_abs_index) == (12, 4.0, 9 + 2 * 3 + 1)


pairs = hnp.arrays(
    np.float32, st.integers(1, 40), elements=st.floats(-1e3, 1e3, width=32) | st.sampled_from([np.nan, np.inf, 0.0])
)


@given(values=pairs, seed=st.integers(0, 99))
def test_blocks_change_no_result(values: np.ndarray, seed: int) -> None:
    other = np.random.default_rng(seed).permutation(values)
    whole = compare_values(values, other)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks_module, "BLOCK_VALUES", 3)
        pieces = compare_values(values, other)
    for name in ("count", "compared", "max_abs", "max_abs_index", "mismatches", "first_mismatch", "equal_bits"):
        assert getattr(whole, name) == getattr(pieces, name), name
    for metric in (Metric.MEAN_ABS, Metric.RMS, Metric.REL_L2, Metric.COSINE):
        left, right = whole.value(metric), pieces.value(metric)
        assert left == right or left == pytest.approx(right, rel=1e-12, abs=1e-12)


def test_blocks_of_attention_maps_change_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    a, b = random.standard_normal((2, 3, 9, 9)).astype(np.float32)
    whole = compare_values(a, b, causal=True)
    monkeypatch.setattr(blocks_module, "BLOCK_VALUES", 20)
    pieces = compare_values(a, b, causal=True)
    assert pieces.max_abs_index == whole.max_abs_index
    assert pieces.rel_l2 == pytest.approx(whole.rel_l2, rel=1e-12)
