"""The scalar and vector arithmetic under the CPU engine's kernels."""

from __future__ import annotations

import numpy as np
import pytest

from aprtui.engine.cpu.jit import kernel
from aprtui.engine.cpu.memory import half_from_float
from aprtui.engine.cpu.rows import exponential
from aprtui.engine.cpu.vectors import combine, combine_four


@kernel
def exponentials(values: np.ndarray, results: np.ndarray) -> None:
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
def combinations(factors: np.ndarray, vectors: np.ndarray, one: np.ndarray, four: np.ndarray) -> None:
    f, v, o = np.int64(factors.ctypes.data), np.int64(vectors.ctypes.data), np.int64(one.ctypes.data)
    strides = factors.strides[0], vectors.strides[0], one.strides[0]
    for row in range(4):
        combine(f + row * strides[0], 0, factors.shape[1], v, strides[1], o + row * strides[2], 0)
    combine_four(f, strides[0], factors.shape[1], v, strides[1], np.int64(four.ctypes.data), strides[2])


@pytest.mark.parametrize("count", [0, 1, 7, 128])
def test_one_row_of_a_combination_has_the_bits_of_four(count: int) -> None:
    rng = np.random.default_rng(count)
    factors, vectors = rng.standard_normal((4, count)).astype("f4"), rng.standard_normal((count, 16)).astype("f4")
    one, four = np.ones((4, 16), np.float32), np.ones((4, 16), np.float32)
    combinations(factors, vectors, one, four)
    np.testing.assert_array_equal(one, four)
    np.testing.assert_allclose(four, 1 + factors.astype(np.float64) @ vectors, rtol=1e-5, atol=1e-4)
