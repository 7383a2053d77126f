"""The roundings of other engines: what their types can hold, and over what their scales reach."""

from __future__ import annotations

import numpy as np
import pytest

from aprtui.engine.rounding import ROUND

VALUES = np.random.default_rng(3).standard_normal((6, 300)).astype(np.float32)
"""300 columns: neither blocks of 32 nor of 128 fill them."""


@pytest.mark.parametrize(
    ("kind", "steps"), [("fp8", 2.0**-4), ("fp8_row", 2.0**-4), ("fp8_block", 2.0**-4), ("fp8_e5m2", 2.0**-3)]
)
def test_a_float_of_eight_bits_is_off_by_half_a_step_of_its_mantissa(kind: str, steps: float) -> None:
    large = np.abs(VALUES) > 0.1
    relative = np.abs(ROUND[kind](VALUES) - VALUES)[large] / np.abs(VALUES[large])
    assert steps / 2 < relative.max() <= steps


def test_e5m2_keeps_what_its_two_bits_hold_and_has_no_scale() -> None:
    held = np.array([[1.0, 1.25, -1.75, 2.0**-14, 3 * 2.0**-16, 28672.0, 0.0]], np.float32)
    assert np.array_equal(ROUND["fp8_e5m2"](held), held)
    assert ROUND["fp8_e5m2"](np.array([[1.1]], np.float32)) == 1


@pytest.mark.parametrize(
    ("kind", "reaches"),
    [("fp8", "tensor"), ("int8", "tensor"), ("fp8_row", "row"), ("int8_row", "row"), ("fp8_block", "block")],
)
def test_a_scale_reaches_as_far_as_its_name_says(kind: str, reaches: str) -> None:
    """A value that is very large costs those that share its scale, and no others."""
    spoiled = VALUES.copy()
    spoiled[2, 5] = 1e6
    same = ROUND[kind](spoiled) == ROUND[kind](VALUES)
    assert same[0].all() == (reaches != "tensor")
    assert same[2, 128:].all() == (reaches == "block")
    assert not same[2, :128].all()


@pytest.mark.parametrize("kind", ["fp8", "fp8_row", "fp8_block", "fp8_e5m2", "int8", "int8_row"])
def test_zeros_stay_zeros(kind: str) -> None:
    assert np.array_equal(ROUND[kind](np.zeros((2, 256), np.float32)), np.zeros((2, 256)))
