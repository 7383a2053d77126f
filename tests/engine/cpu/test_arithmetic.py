"""The scalar and vector arithmetic under the CPU engine's kernels."""

from __future__ import annotations

import numpy as np
import pytest

from aprtui.engine.cpu.float16 import float_from_half, half_from_float
from aprtui.engine.cpu.jit import kernel
from aprtui.engine.cpu.rows import exponential
from aprtui.engine.cpu.vectors import dot, four_dots, four_weighted_sums, weighted_sum


@kernel
def exponentials(values, results):  # type: ignore[no-untyped-def]
    for i in range(values.size):
        results[i] = exponential(values[i])


def test_exponential_is_right_to_about_a_unit_in_the_last_place() -> None:
    x = np.linspace(-87, 88.7, 200_001).astype(np.float32)
    ours = np.empty_like(x)
    exponentials(x, ours)
    exact = np.exp(x.astype(np.float64))
    units = np.abs(ours - exact) / np.spacing(exact.astype(np.float32))
    assert units.max() <= 1.5


def test_exponential_at_the_ends() -> None:
    x = np.array([0.0, -0.0, -np.inf, np.inf, np.nan, -200.0, 200.0, -100.0], np.float32)
    ours = np.empty_like(x)
    exponentials(x, ours)
    np.testing.assert_array_equal(ours[:7], np.array([1, 1, 0, np.inf, np.nan, 0, np.inf], np.float32))
    assert ours[7] == pytest.approx(np.exp(-100.0), rel=0.1)


def test_every_float16_widens_exactly() -> None:
    patterns = np.arange(65536, dtype=np.uint16)
    ours = np.array([float_from_half(pattern) for pattern in patterns], np.float32)
    np.testing.assert_array_equal(ours, patterns.view(np.float16).astype(np.float32))
    assert np.signbit(ours[0x8000])


def test_float32_rounds_to_float16_as_numpy_does() -> None:
    every = np.arange(65536, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)].astype(np.float32)
    halfway = (finite[:-1].astype(np.float64) + finite[1:]) / 2  # ties, and what lies next to them
    near = [halfway.astype(np.float32), np.nextafter(halfway.astype(np.float32), np.float32(np.inf))]
    ends = np.array([65504, 65519.996, 65520, 1e30, np.inf, -np.inf, 1e-30, -1e-30, 0.0, -0.0], np.float32)
    values = np.concatenate([finite, *near, ends])
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16).view(np.uint16)
    ours = np.array([half_from_float(value) for value in values], np.uint16)
    np.testing.assert_array_equal(ours, expected)
    assert np.isnan(np.array([half_from_float(np.float32(np.nan))], np.uint16).view(np.float16))[0]


@kernel
def products(x, rows, one, four):  # type: ignore[no-untyped-def]
    stride = rows.strides[0]
    dot(np.int64(x.ctypes.data), np.int64(rows.ctypes.data), stride, x.size // 16, np.int64(one.ctypes.data))
    four_dots(np.int64(x.ctypes.data), np.int64(rows.ctypes.data), stride, x.size // 16, np.int64(four.ctypes.data))


@pytest.mark.parametrize("size", [16, 64, 80, 128])
def test_one_dot_has_the_bits_of_four(size: int) -> None:
    rng = np.random.default_rng(size)
    x, rows = rng.standard_normal(size).astype(np.float32), rng.standard_normal((4, size)).astype(np.float32)
    one, four = np.zeros(1, np.float32), np.zeros(4, np.float32)
    products(x, rows, one, four)
    assert one[0] == four[0]
    np.testing.assert_allclose(four, rows.astype(np.float64) @ x, rtol=1e-5, atol=1e-5)


@kernel
def sums(weights, rows, narrow, wide):  # type: ignore[no-untyped-def]
    w, r, n = np.int64(weights.ctypes.data), np.int64(rows.ctypes.data), np.int64(narrow.ctypes.data)
    for part in range(4):
        weighted_sum(w, weights.size, r + 64 * part, rows.strides[0], n + 64 * part)
    four_weighted_sums(w, weights.size, r, rows.strides[0], np.int64(wide.ctypes.data))


@pytest.mark.parametrize("count", [0, 1, 7])
def test_narrow_weighted_sums_have_the_bits_of_wide_ones(count: int) -> None:
    rng = np.random.default_rng(count)
    weights, rows = rng.standard_normal(count).astype(np.float32), rng.standard_normal((count, 64)).astype(np.float32)
    narrow, wide = np.ones(64, np.float32), np.ones(64, np.float32)
    sums(weights, rows, narrow, wide)
    np.testing.assert_array_equal(narrow, wide)
    np.testing.assert_allclose(wide, 1 + weights.astype(np.float64) @ rows, rtol=1e-5, atol=1e-5)
