"""Products of quantised weights against float64, and what must not change their bits."""

from __future__ import annotations

import numpy as np
import pytest

from aprtui.engine.cpu import matmul
from aprtui.engine.protocol import Mode
from aprtui.model.weight_types import WeightType
from tests.engine.cpu.matmul_cases import (
    DECODED,
    FLOAT_TYPES,
    K_TYPES,
    SMALL_BLOCKS,
    by_kernel,
    expected_product,
    product,
    quantized,
    random_activations,
    random_rows,
    widened,
)
from tests.engine.tiny_model import set_halves

OF_ALL_TYPES = by_kernel((weight_type,) for weight_type in WeightType)
BOUNDS = {Mode.Q8: 3e-7, Mode.EXACT: 2e-6}
SHAPES = (
    [(t, c) for t in K_TYPES for c in (256, 1536)]
    + [(t, c) for t in SMALL_BLOCKS for c in (32, 320, 896)]
    + [(t, c) for t in DECODED for c in (256, 768)]
    + [(t, c) for t in FLOAT_TYPES for c in (7, 32, 333)]
)


@pytest.mark.parametrize(("weight_type", "columns", "mode"), by_kernel(SHAPES))
@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (3, 2), (37, 7), (16, 65)])
def test_product_equals_float64_on_the_same_activations(
    weight_type: WeightType, columns: int, mode: Mode, rows: int, tokens: int
) -> None:
    weights, kind = random_rows(weight_type, rows, columns), matmul.activation_kind(weight_type, mode)
    rounded = quantized(kind, random_activations(tokens, columns))
    w, x = weights.dequantized().astype(np.float64), widened(kind, rounded, columns)
    expected = expected_product(weights, kind, rounded)
    # The size of a sum of random terms, rather than the sum: one product alone may cancel to almost nothing.
    size = np.linalg.norm(np.sqrt(x**2 @ (w**2).T))
    assert np.linalg.norm(product(weights, mode, rounded) - expected) / size <= BOUNDS[mode]


@pytest.mark.parametrize(("weight_type", "mode"), OF_ALL_TYPES)
def test_bits_depend_on_row_and_token_alone(weight_type: WeightType, mode: Mode) -> None:
    weights = random_rows(weight_type, 43, 512)
    rounded = quantized(matmul.activation_kind(weight_type, mode), random_activations(65, 512))
    whole = product(weights, mode, rounded)
    split = product(weights, mode, rounded, ranges=[(0, 1), (1, 18), (18, 43)])
    np.testing.assert_array_equal(whole, split)
    for begin, end in ((0, 1), (1, 3), (3, 8), (8, 16), (16, 65)):
        np.testing.assert_array_equal(whole[begin:end], product(weights, mode, rounded[begin:end]))


@pytest.mark.parametrize("weight_type", list(WeightType))
def test_dequantised_rows_are_bit_equal_to_gguf(weight_type: WeightType) -> None:
    weights = random_rows(weight_type, 5, 768)
    out = matmul.decoded_rows(weights.weight, 1, 4)
    np.testing.assert_array_equal(out.view(np.uint32), weights.dequantized()[1:4].view(np.uint32))


@pytest.mark.parametrize("scale", [0x0001, 0x03FF, 0x8200, 0x7BFF, 0x0000])
def test_float16_scales_are_exact_where_they_are_subnormal_or_extreme(scale: int) -> None:
    weights = random_rows(WeightType.Q8_0, 1, 32)
    weights.data[0, :2] = np.array([scale], np.uint16).view(np.uint8)
    np.testing.assert_array_equal(matmul.decoded_rows(weights.weight, 0, 1), weights.dequantized())


@pytest.mark.parametrize(("weight_type", "mode"), OF_ALL_TYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_activation_spoils_its_own_token_only(weight_type: WeightType, mode: Mode, bad: float) -> None:
    x = random_activations(8, 512)
    weights = random_rows(weight_type, 17, 512)
    kind = matmul.activation_kind(weight_type, mode)
    clean = product(weights, mode, quantized(kind, x))
    x[3, 300] = bad
    spoilt = product(weights, mode, quantized(kind, x))
    assert not np.isfinite(spoilt[3]).any()
    np.testing.assert_array_equal(np.delete(spoilt, 3, axis=0), np.delete(clean, 3, axis=0))


@pytest.mark.parametrize(("weight_type", "mode"), OF_ALL_TYPES)
def test_zero_activations_give_zero(weight_type: WeightType, mode: Mode) -> None:
    kind = matmul.activation_kind(weight_type, mode)
    rounded = quantized(kind, np.zeros((9, 256), np.float32))
    assert (product(random_rows(weight_type, 17, 256), mode, rounded) == 0).all()


def test_a_nan_weight_spoils_its_own_row_only() -> None:
    weights = random_rows(WeightType.Q4_K, 17, 256)
    weights.data[5, :2] = np.array([np.nan], np.float16).view(np.uint8)
    for mode in Mode:
        rounded = quantized(matmul.activation_kind(weights.type, mode), random_activations(9, 256))
        bad = np.isnan(product(weights, mode, rounded))
        assert bad[:, 5].all()
        assert not np.delete(bad, 5, axis=1).any()


@pytest.mark.parametrize("weight_type", list(K_TYPES + SMALL_BLOCKS))
def test_extreme_quants_do_not_overflow(weight_type: WeightType) -> None:
    weights = random_rows(weight_type, 16, 256)
    for fill in (0x00, 0xFF, 0x80, 0x7F):
        weights.data[:] = fill
        set_halves(weight_type, weights.data, 1.0)
        kind = matmul.activation_kind(weight_type, Mode.Q8)
        x = np.full((9, 256), -1.0, np.float32)
        x[4:] = 1.0
        rounded = quantized(kind, x)
        expected = expected_product(weights, kind, rounded)
        np.testing.assert_allclose(product(weights, Mode.Q8, rounded), expected, rtol=1e-6)
