"""Rounded activations against a numpy transcription of llama.cpp's rules, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.engine.cpu.matmul import ActivationKind
from aprtui.engine.cpu.matmul.activations import GROUP, RECORD, SCALE_K, SCALES_0, SUMS_0, SUMS_16, SUMS_32
from tests.engine.cpu.matmul_cases import quantized, widened

F = np.float32


def values(tokens: int, columns: int) -> NDArray[np.float32]:
    """Gaussians of many magnitudes, with ties of the largest value, halves, zeros and an empty block."""
    rng = np.random.default_rng([tokens, columns])
    x = rng.standard_normal((tokens, columns), np.float32) * F(10) ** rng.integers(-6, 6, (tokens, 1)).astype(F)
    x[0, :8] = (127, -127, 0.5, 1.5, -0.5, -2.5, 0.0, -0.0)
    x[0, 8:32] = np.arange(24) / 2
    x[-1, :32] = 0
    x[-1, :2] = (-3, 3)
    x[1, : min(256, columns)] = 0
    return x


def part(records: NDArray[np.uint8], offset: int, count: int, dtype: type) -> NDArray[Any]:
    size = count * np.dtype(dtype).itemsize
    return np.ascontiguousarray(records[:, offset : offset + size]).view(dtype)


def test_q8_k_is_llama_cpps_bit_for_bit() -> None:
    x = values(5, 768)
    records = quantized(ActivationKind.Q8_K, x).reshape(-1, RECORD)
    blocks = x.reshape(-1, 256)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(largest != 0, F(-127) / largest, F(0))
        scale = np.where(largest != 0, F(1) / factor, F(0))
    quants = np.minimum(np.rint(factor * blocks), 127).astype(np.int8)
    np.testing.assert_array_equal(part(records, 0, GROUP, np.int8), quants)
    np.testing.assert_array_equal(part(records, SCALE_K, 1, np.float32), scale)
    np.testing.assert_array_equal(part(records, SUMS_16, 16, np.int16), quants.reshape(-1, 16, 16).sum(axis=2))
    np.testing.assert_array_equal(part(records, SUMS_32, 8, np.int16), quants.reshape(-1, 8, 32).sum(axis=2))


@pytest.mark.parametrize("columns", [32, 320, 896])
def test_q8_0_is_llama_cpps_bit_for_bit(columns: int) -> None:
    x = values(5, columns)
    rows = quantized(ActivationKind.Q8_0, x)
    blocks = x.reshape(5, -1, 32)
    largest = np.abs(blocks).max(axis=2)
    with np.errstate(divide="ignore"):
        factor = np.where(largest != 0, F(127) / largest, F(0))
    quants = np.rint(blocks * factor[..., None]).astype(np.int8)
    scale = (largest / F(127)).astype(np.float16).astype(np.float32)
    for block in range(columns // 32):
        records, k = rows[:, block // 8 * RECORD :], block % 8
        np.testing.assert_array_equal(part(records, 32 * k, 32, np.int8), quants[:, block])
        np.testing.assert_array_equal(part(records, SUMS_0 + 4 * k, 1, np.int32)[:, 0], quants[:, block].sum(axis=1))
        np.testing.assert_array_equal(part(records, SCALES_0 + 4 * k, 1, np.float32)[:, 0], scale[:, block])


@pytest.mark.parametrize("columns", [32, 320])
def test_q8_1_has_sums_in_float16_beside_the_quants_of_q8_0(columns: int) -> None:
    x = values(5, columns)
    rows, plain = quantized(ActivationKind.Q8_1, x), quantized(ActivationKind.Q8_0, x)
    unrounded = np.abs(x.reshape(5, -1, 32)).max(axis=2) / F(127)
    for block in range(columns // 32):
        at, k = block // 8 * RECORD, block % 8
        records, expected = rows[:, at:], plain[:, at:]
        for offset, size in ((32 * k, 32), (SCALES_0 + 4 * k, 4)):
            np.testing.assert_array_equal(records[:, offset : offset + size], expected[:, offset : offset + size])
        sums = part(expected, SUMS_0 + 4 * k, 1, np.int32)[:, 0].astype(F)
        with np.errstate(over="ignore"):
            wanted = (unrounded[:, block] * sums).astype(np.float16).astype(F)
        np.testing.assert_array_equal(part(records, SUMS_0 + 4 * k, 1, np.float32)[:, 0], wanted)


@pytest.mark.parametrize(
    ("kind", "of"),
    [(ActivationKind.Q8_K_VALUES, ActivationKind.Q8_K), (ActivationKind.Q8_0_VALUES, ActivationKind.Q8_0)],
)
def test_values_are_those_that_the_quants_stand_for(kind: ActivationKind, of: ActivationKind) -> None:
    x = values(5, 768)
    x[4, 300] = np.nan
    expected = widened(of, quantized(of, x), 768).astype(F)
    np.testing.assert_array_equal(quantized(kind, x).view(F), expected)


SPECIAL = np.array(
    [0.0, -0.0, 1e-8, 6e-8, -5.96e-8, 2.98e-8, 6.1e-5, 65504, 65519.99, 65520, -1e9, 3.4e38, np.inf, -np.inf, 1.0005],
    np.float32,
)


def test_f16_rounds_to_nearest_even() -> None:
    x = np.concatenate([SPECIAL, values(4, 64).ravel(), SPECIAL[:10] * F(1.5)])[None]
    rounded = quantized(ActivationKind.F16, x).view(np.float32)[:, : x.size]
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(rounded.view(np.uint32), expected.view(np.uint32))


def test_bf16_rounds_to_nearest_even() -> None:
    x = np.concatenate([SPECIAL, values(4, 64).ravel()])[None]
    rounded = quantized(ActivationKind.BF16, x).view(np.float32)[:, : x.size]
    bits = x.view(np.uint32).astype(np.uint64)
    expected = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32)
    np.testing.assert_array_equal(rounded.view(np.uint32), expected)


@pytest.mark.parametrize("kind", [ActivationKind.F16, ActivationKind.BF16, ActivationKind.F32])
def test_float_kinds_keep_nan(kind: ActivationKind) -> None:
    assert np.isnan(quantized(kind, np.full((1, 16), np.nan, np.float32)).view(np.float32)).all()


@pytest.mark.parametrize("kind", [ActivationKind.Q8_K, ActivationKind.Q8_0])
@pytest.mark.parametrize("tiny", [1e-38, 1e-40])
def test_blocks_too_small_for_a_scale_become_zero(kind: ActivationKind, tiny: float) -> None:
    records = quantized(kind, np.full((1, 256), tiny, np.float32))
    assert not records[:, :GROUP].any()
    assert not part(records, SCALE_K, 1, np.float32).any()
