"""Arguments of kernels from numpy arrays, and what float64 says of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.cuda.storage import planes
from aprtui.engine.rounding import round_q8_1
from aprtui.model.weight_types import WeightType
from aprtui.model.weights import Weight
from tests.engine.tiny_model import random_weight
from tests.kernels.emulated import Out, Struct

F32 = NDArray[np.float32]

Q8_SCALE = np.dtype([("scale", "<f4"), ("low_sum", "<i2"), ("high_sum", "<i2")])
STEP = np.dtype([("position", "<i4"), ("tokens", "<i4"), ("ordinal", "<i4"), ("reserved", "<i4")])

KINDS = tuple(kind for kind in WeightType if kind.format.cuda_struct)
"""Types that the kernels read."""
FLOAT_TYPES = frozenset(kind for kind in KINDS if not kind.format.is_quantised)


def weight_of(kind: WeightType, rows: int, columns: int, seed: int = 3) -> Weight:
    """Random blocks."""
    return random_weight(np.random.default_rng([seed, kind]), "w", kind, rows, columns)


def matrix(weight: Weight) -> Struct:
    """`Matrix` of types.cuh."""
    return Struct((planes(weight.type, weight.data), int(weight.type), weight.rows, weight.columns))


def quantised(x: F32) -> tuple[NDArray[np.int8], np.ndarray]:
    """`x` in Q8_1, as levels and scales."""
    blocks = x.reshape(-1, 32)
    scale = np.abs(blocks).max(1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = np.where(scale == 0, np.float32(0), np.rint(blocks / scale)).astype(np.int8)
    scales = np.zeros(len(blocks), Q8_SCALE)
    scales["scale"] = scale[:, 0]
    scales["low_sum"], scales["high_sum"] = levels[:, :16].sum(1), levels[:, 16:].sum(1)
    return levels.reshape(x.shape), scales


def activations(x: F32, *, values: bool = True, q8: bool = True) -> Struct:
    """`Activations` of types.cuh; parts that a kernel must not need are left out."""
    levels, scales = quantised(x) if q8 else (None, None)
    return Struct((x if values else None, levels, scales))


def rounded(x: F32, weight: Weight, mode: str) -> NDArray[np.float64]:
    """What meets `weight` in `mode`: `x`, or `x` through Q8_1."""
    return (round_q8_1(x) if mode == "q8" and weight.type not in FLOAT_TYPES else x).astype(np.float64)


def wide(weight: Weight) -> NDArray[np.float64]:
    """The values of `weight` in float64, by the reference dequantisation."""
    return weight.dequantize().astype(np.float64)


def q8_out(values: int) -> Struct:
    """`Q8Output` for that many values."""
    return Struct((Out((values,), np.int8), Out((values // 32,), Q8_SCALE)))


NO_Q8 = Struct((None, None))
NO_NORM = Struct((None, None, NO_Q8, None, 0.0))


def dequantised(levels: NDArray[np.int8], scales: np.ndarray) -> F32:
    """The values that Q8_1 activations stand for."""
    values: F32 = levels.reshape(-1, 32).astype(np.float32) * scales["scale"].reshape(-1, 1)
    return values.reshape(levels.shape)


def assert_q8_of(x: F32, levels: NDArray[np.int8], scales: np.ndarray) -> None:
    """`levels` and `scales` are those of `x`, to the bit."""
    expected_levels, expected_scales = quantised(x.reshape(-1))
    np.testing.assert_array_equal(levels.reshape(-1), expected_levels)
    np.testing.assert_array_equal(scales.reshape(-1), expected_scales)


def step(position: int, tokens: int = 1, ordinal: int = 0) -> np.ndarray:
    """A `Step` in device memory."""
    return np.array([(position, tokens, ordinal, 0)], STEP)


def relative(found: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    """Relative L2 error."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
