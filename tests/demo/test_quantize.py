"""The quantisers against gguf's own dequantisation, and against what the block's extremes alone would give."""

from __future__ import annotations

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from aprtui.demo.quantize import quantize_q4_k, quantize_q6_k

Q4_K, Q6_K = gguf.GGMLQuantizationType.Q4_K, gguf.GGMLQuantizationType.Q6_K
QUANTIZERS = {Q4_K: quantize_q4_k, Q6_K: quantize_q6_k}
BLOCK_BYTES = {Q4_K: 144, Q6_K: 210}
F32 = npt.NDArray[np.float32]


def normal(rows: int = 64, columns: int = 512) -> F32:
    return (np.random.default_rng(7).standard_normal((rows, columns)) * 0.05).astype(np.float32)


def heavy_tailed(rows: int = 64, columns: int = 512) -> F32:
    return (np.random.default_rng(8).standard_t(4, (rows, columns)) * 0.05).astype(np.float32)


def restored(values: F32, kind: gguf.GGMLQuantizationType, importance: F32 | None = None) -> F32:
    packed = QUANTIZERS[kind](values, importance)
    dequantized: F32 = gguf.quants.dequantize(packed, kind)
    return dequantized.reshape(values.shape)


def relative_error(values: F32, approximation: F32) -> float:
    return float(np.linalg.norm(values - approximation) / np.linalg.norm(values))


def naive_affine(values: F32) -> F32:
    """Four bits between each sub-block's extremes, with real-valued scale and minimum."""
    x = values.reshape(-1, 32)
    low, high = np.minimum(x.min(1, keepdims=True), 0), np.maximum(x.max(1, keepdims=True), 0)
    step = (high - low) / 15
    rounded: F32 = np.rint((x - low) / step) * step + low
    return rounded.reshape(values.shape)


def naive_symmetric(values: F32) -> F32:
    """Six bits up to each sub-block's largest magnitude, with a real-valued scale."""
    x = values.reshape(-1, 16)
    step = np.abs(x).max(1, keepdims=True) / 31
    rounded: F32 = np.rint(x / step) * step
    return rounded.reshape(values.shape)


# The bounds are what ggml's own quantisers reach on these very values (ggml_quantize_chunk, without importance).
@pytest.mark.parametrize(
    ("kind", "values", "bound"),
    [
        (Q4_K, normal(), 0.0716),
        (Q4_K, heavy_tailed(), 0.0876),
        (Q6_K, normal(), 0.0178),
        (Q6_K, heavy_tailed(), 0.0236),
    ],
    ids=["q4_k-normal", "q4_k-heavy-tailed", "q6_k-normal", "q6_k-heavy-tailed"],
)
def test_relative_error_stays_within_its_bound(kind: gguf.GGMLQuantizationType, values: F32, bound: float) -> None:
    assert relative_error(values, restored(values, kind)) < bound


def test_q4_k_beats_unrounded_scales_taken_from_the_extremes() -> None:
    values = normal()
    assert relative_error(values, restored(values, Q4_K)) < 0.95 * relative_error(values, naive_affine(values))


def test_q6_k_with_eight_bit_scales_stays_near_unrounded_scales() -> None:
    values = normal()
    assert relative_error(values, restored(values, Q6_K)) < 1.0 * relative_error(values, naive_symmetric(values))


@pytest.mark.parametrize("kind", [Q4_K, Q6_K])
def test_rows_keep_their_order_and_size(kind: gguf.GGMLQuantizationType) -> None:
    values = normal(5, 768)
    packed = QUANTIZERS[kind](values)
    assert packed.shape == (5, 3 * BLOCK_BYTES[kind])
    assert packed.dtype == np.uint8
    alone = QUANTIZERS[kind](values[3:4])
    np.testing.assert_array_equal(packed[3], alone[0])


@pytest.mark.parametrize("kind", [Q4_K, Q6_K])
def test_zeros_stay_zero(kind: gguf.GGMLQuantizationType) -> None:
    values = np.zeros((2, 256), dtype=np.float32)
    assert not restored(values, kind).any()


@pytest.mark.parametrize("kind", [Q4_K, Q6_K])
@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
def test_any_scale_and_one_sided_values_are_held(kind: gguf.GGMLQuantizationType, factor: float) -> None:
    values = (np.abs(normal(4, 256)) * 20 * factor).astype(np.float32)
    assert relative_error(values, restored(values, kind)) < 0.09
    assert relative_error(-values, restored(-values, kind)) < 0.09


def test_exactly_representable_blocks_come_back_unchanged() -> None:
    generator = np.random.default_rng(9)
    levels = generator.integers(-32, 32, (4, 16, 16)).astype(np.float32)
    levels[:, :, 0] = -32
    steps = generator.integers(1, 128, (4, 16, 1)).astype(np.float32)
    steps[:, 0] = -128
    values = (levels * steps * 2.0**-10).reshape(4, 256)
    assert relative_error(values, restored(values, Q6_K)) < 1e-3


@pytest.mark.parametrize("kind", [Q4_K, Q6_K])
def test_important_columns_are_kept_more_exactly(kind: gguf.GGMLQuantizationType) -> None:
    values = normal()
    importance = np.ones(values.shape[1], dtype=np.float32)
    importance[::16] = 100.0
    plain, weighted = restored(values, kind), restored(values, kind, importance)
    assert relative_error(values[:, ::16], weighted[:, ::16]) < 0.9 * relative_error(values[:, ::16], plain[:, ::16])


@pytest.mark.parametrize("kind", [Q4_K, Q6_K])
def test_rows_that_are_no_multiple_of_256_are_refused(kind: gguf.GGMLQuantizationType) -> None:
    with pytest.raises(ValueError, match="multiple of 256"):
        QUANTIZERS[kind](np.zeros((2, 128), dtype=np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    values = normal(1, 256)
    values[0, 5] = value
    with pytest.raises(ValueError, match="finite"):
        quantize_q4_k(values)
