"""Random quantised weights and activations, and the kernels behind numpy arrays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from aprtui.engine.cpu import matmul
from aprtui.engine.cpu.matmul.activations import GROUP, RECORD, SCALE_K, SCALES_0, SUMS_0
from aprtui.engine.cpu.matmul.decoders import DECODERS
from aprtui.engine.cpu.matmul.formats import FORMATS
from aprtui.engine.protocol import Mode
from aprtui.model.weight_types import WeightType
from aprtui.model.weights import Weight
from tests.engine.tiny_model import half_offsets
from tests.model.gguf_files import set_scales

FLOAT_TYPES = (WeightType.F16, WeightType.BF16, WeightType.F32)
K_TYPES = tuple(kind for kind in FORMATS if kind.format.block_values == 256)
SMALL_BLOCKS = tuple(kind for kind in FORMATS if kind.format.block_values == 32)
DECODED = tuple(DECODERS)

OFTEN = {
    Mode.Q8: {*K_TYPES, *SMALL_BLOCKS, WeightType.IQ2_XS, WeightType.NVFP4, *FLOAT_TYPES},
    Mode.EXACT: {WeightType.Q4_K, WeightType.Q6_K, WeightType.Q8_0, WeightType.IQ2_XS, *FLOAT_TYPES},
}
"""Types of which the gate computes products: the decoders of all types are tried, and each format in one mode."""


def by_kernel(values: Iterable[tuple[WeightType, *tuple[object, ...]]]) -> list[object]:
    """Each with every mode: one compiled kernel, of seconds, for each type and mode; the gate has those of `OFTEN`."""
    return [
        pytest.param(*value, mode, marks=[] if value[0] in OFTEN[mode] else pytest.mark.slow)
        for value in values
        for mode in Mode
    ]


@dataclass(frozen=True, slots=True)
class Rows:
    """Weights in their stored form, uint8 `[rows, row_bytes]`."""

    type: WeightType
    columns: int
    data: NDArray[np.uint8]

    @property
    def weight(self) -> Weight:
        return Weight("w", self.type, len(self.data), self.columns, self.data)

    def dequantized(self) -> NDArray[np.float32]:
        values: NDArray[np.float32] = dequantize(self.data, GGMLQuantizationType(self.type))
        return values.reshape(len(self.data), self.columns)


def random_rows(weight_type: WeightType, rows: int, columns: int, seed: int = 0) -> Rows:
    """Blocks of random bytes whose scales are random float16 numbers of sane size."""
    rng = np.random.default_rng([seed, weight_type, rows, columns])
    if weight_type in FLOAT_TYPES:
        values = rng.standard_normal((rows, columns), np.float32)
        if weight_type is WeightType.F16:
            return Rows(weight_type, columns, values.astype(np.float16).view(np.uint8))
        if weight_type is WeightType.BF16:
            halves = (values.view(np.uint32) >> 16).astype(np.uint16)
            return Rows(weight_type, columns, halves.view(np.uint8).reshape(rows, -1))
        return Rows(weight_type, columns, values.view(np.uint8))
    block_columns, size = weight_type.format.block_values, weight_type.format.block_bytes
    blocks = rng.integers(0, 256, (rows * columns // block_columns, size), np.uint8)
    set_scales(weight_type, blocks, rng.uniform(0.5, 2.0, len(blocks)))
    for offset in half_offsets(weight_type):
        scales = rng.uniform(0.5, 2.0, len(blocks)).astype(np.float16)
        blocks[:, offset : offset + 2] = scales.view(np.uint8).reshape(-1, 2)
    return Rows(weight_type, columns, blocks.reshape(rows, -1))


def random_activations(tokens: int, columns: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng([seed, tokens, columns]).standard_normal((tokens, columns), np.float32)


def quantized(kind: matmul.ActivationKind, x: NDArray[np.float32]) -> NDArray[np.uint8]:
    """`quantize_rows` of all rows, uint8 `[tokens, bytes]`; every byte that it leaves alone is 0xA5."""
    tokens, columns = x.shape
    out = np.full((tokens, matmul.activation_bytes(kind, columns)), 0xA5, np.uint8)
    matmul.quantize_rows(int(kind), x.ctypes.data, columns, 0, tokens, out.ctypes.data)
    return out


def widened(kind: matmul.ActivationKind, rounded: NDArray[np.uint8], columns: int) -> NDArray[np.float64]:
    """The values that quantised activations stand for."""
    tokens = len(rounded)
    if kind not in matmul.INTEGERS:
        return rounded.view(np.float32)[:, :columns].astype(np.float64)
    records = rounded.reshape(tokens, -1, RECORD)
    quants = records[:, :, :GROUP].view(np.int8).astype(np.float64)
    if kind is matmul.ActivationKind.Q8_K:
        scales = np.ascontiguousarray(records[:, :, SCALE_K : SCALE_K + 4]).view(np.float32)
    else:
        scales = np.ascontiguousarray(records[:, :, SCALES_0 : SCALES_0 + 32]).view(np.float32).repeat(32, axis=2)
    return (quants * scales).reshape(tokens, -1)[:, :columns]


def expected_product(weights: Rows, kind: matmul.ActivationKind, rounded: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What `product` has to be, in float64: Q8_1 has sums of its own, which the minimums of blocks meet."""
    x = widened(kind, rounded, weights.columns)
    out: NDArray[np.float64] = x @ weights.dequantized().astype(np.float64).T
    if kind is matmul.ActivationKind.Q8_1:
        records = rounded.reshape(len(rounded), -1, RECORD)[:, :, SUMS_0 : SUMS_0 + 32]
        sums = np.ascontiguousarray(records).view(np.float32).reshape(len(rounded), -1)[:, : weights.columns // 32]
        blocks = weights.data.reshape(len(weights.data), -1, weights.type.format.block_bytes)
        minimums = np.ascontiguousarray(blocks[..., 2:4]).view(np.float16)[..., 0].astype(np.float64)
        out += (sums - x.reshape(len(x), -1, 32).sum(-1)) @ minimums.T
    return out


def product(
    weights: Rows, mode: Mode, rounded: NDArray[np.uint8], ranges: list[tuple[int, int]] | None = None
) -> NDArray[np.float32]:
    """The kernel of the type over all rows (or the ranges given; NaN elsewhere), float32 `[tokens, rows]`."""
    rows, tokens = len(weights.data), len(rounded)
    y = np.full((tokens, rows + 5), np.nan, np.float32)
    scratch = np.full(matmul.scratch_bytes(weights.columns), 0xA5, np.uint8)
    for begin, end in ranges or [(0, rows)]:
        matmul.matmul_kernel(weights.type, mode)(
            weights.data.ctypes.data, weights.data.shape[1], weights.columns,
            rounded.ctypes.data, rounded.shape[1], tokens, y.ctypes.data, rows + 5, begin, end, scratch.ctypes.data,
        )  # fmt: skip
    assert np.isnan(y[:, rows:]).all(), "wrote past the last row"
    return y[:, :rows]
