"""Rounding activations to Q8_1 is that of the reference, to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from aprtui.engine.rounding import round_q8_1
from tests.kernels.cases import assert_q8_of, dequantised, q8_out
from tests.kernels.emulated import Images

pytestmark = pytest.mark.group("emulator")


def quantize(image_of: Images, x: np.ndarray) -> list[np.ndarray]:
    blocks = x.size // 32
    return image_of("quantize").run("quantize", ((blocks + 7) // 8,), 256, x, q8_out(x.size), blocks)


@pytest.mark.parametrize("magnitude", [1.0, 1e-20, 1e20, 1e-38])
def test_levels_and_scales_are_those_of_the_reference(image_of: Images, magnitude: float) -> None:
    x = (np.random.default_rng(1).standard_normal((19, 32)) * magnitude).astype(np.float32)
    x[3] = 0
    x[4, 1:] = 0
    x[5] = np.arange(32) + 0.5  # ties at a scale of 1
    x[5, 0] = 127
    levels, scales = quantize(image_of, x)
    assert_q8_of(x, levels, scales)
    np.testing.assert_array_equal(dequantised(levels, scales).reshape(x.shape), round_q8_1(x))


@pytest.mark.parametrize("smallest", [0.01, 2e-18, 5e17])
def test_levels_next_to_a_tie_are_those_of_the_reference(image_of: Images, smallest: float) -> None:
    # Where a quotient that is off by its last bit would show, also at the ends of the range of quick divisions.
    random = np.random.default_rng(3)
    scales = (smallest * random.uniform(1, 2, (500, 1))).astype(np.float32)
    x = (np.rint(random.uniform(-127, 126, (500, 32))) + 0.5).astype(np.float32) * scales
    x = np.nextafter(x, np.inf * random.choice([-1, 1], x.shape).astype(np.float32), dtype=np.float32)
    x[:, :1] = 127 * scales
    levels, found = quantize(image_of, x)
    assert_q8_of(x, levels, found)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_value_makes_the_scale_of_its_block_nan(image_of: Images, bad: float) -> None:
    x = np.ones((3, 32), np.float32)
    x[1, 7] = bad
    _, scales = quantize(image_of, x)
    np.testing.assert_array_equal(np.isnan(scales["scale"]), [False, True, False])


def test_the_smallest_subnormal_keeps_its_levels_in_range(image_of: Images) -> None:
    x = np.zeros((1, 32), np.float32)
    x[0, :2] = np.float32(1e-45) * np.array([190, -190], np.float32)
    levels, scales = quantize(image_of, x)
    assert levels.reshape(-1)[:2].tolist() == [127, -127]
    assert scales["low_sum"][0] == 0
