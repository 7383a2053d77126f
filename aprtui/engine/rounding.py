"""What 8-bit engines round: the input of each matmul, by the type of its weights. Plain numpy, the reference.

The rules are those of llama.cpp's CPU backend (`ggml-quants`): K-quants meet activations in Q8_K, the 32-blocks in
Q8_0, or Q8_1 where they have a minimum, float16 and bfloat16 weights activations of their own type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.protocol import KvType, Mode, Rounding
from aprtui.model.config import RopeAngles
from aprtui.model.model import Model
from aprtui.model.weight_types import BlockPart, InputRounding, WeightType
from aprtui.model.weights import Weight
from aprtui.trace.graph.ops import MATRIX_PRODUCTS, Op

Array = NDArray[np.float32]
_FP8_BLOCK = 128


def round_q8_k(x: Array) -> Array:
    """`x` `[n, columns]` through Q8_K: blocks of 256, float32 scale −m/127 with m the value of largest magnitude."""
    blocks = x.reshape(-1, 256)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(1, keepdims=True), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.where(largest == 0, np.float32(0), np.float32(-127) / largest)
        scale = np.where(largest == 0, np.float32(0), np.float32(1) / inverse)
    levels = np.minimum(np.rint(inverse * blocks), np.float32(127))
    return np.asarray((levels * scale).reshape(x.shape), np.float32)


def round_q8_0(x: Array) -> Array:
    """`x` `[n, columns]` through Q8_0: blocks of 32, scale absmax/127 stored as float16."""
    blocks = x.reshape(-1, 32)
    largest = np.abs(blocks).max(1, keepdims=True)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        inverse = _finite(np.float32(127) / largest)
        scale = round_f16(largest / np.float32(127))
        return np.asarray((np.rint(blocks * inverse) * scale).reshape(x.shape), np.float32)


def round_q8_1(x: Array) -> Array:
    """`x` `[n, columns]` through Q8_1 as GPUs use it: blocks of 32, scale absmax/127 in float32."""
    blocks = x.reshape(-1, 32)
    scale = np.abs(blocks).max(1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = np.where(scale == 0, np.float32(0), np.rint(blocks / scale))
    return np.asarray((levels * scale).reshape(x.shape), np.float32)


def sum_correction(rounding: str, x: Array, weight: Weight, rows: slice = slice(None)) -> Array | float:
    """What the product of `x`, rounded, with `rows` of `weight` lacks, `[n, rows]`; 0 for all roundings but one.

    Minimums of blocks do not meet the values of ggml's Q8_1 but their sums as it stores them: sums of quants times the
    scale, rounded to float16 after the product (`ggml_vec_dot_q4_1_q8_1`).
    """
    row = weight.type.format
    if rounding != InputRounding.Q8_1_F16 or BlockPart.MINIMUM not in row.parts or row.scale_packing is not None:
        return 0.0
    blocks = x.reshape(x.shape[0], -1, 32)
    scale = np.abs(blocks).max(-1) / np.float32(127)
    values = round_q8_0(x).reshape(blocks.shape).astype(np.float64).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.where(scale == 0, np.float32(0), np.float32(127) / np.abs(blocks).max(-1))
        quants = np.rint(blocks * inverse[..., None]).sum(-1, dtype=np.float32)
        errors = round_f16(scale * quants) - values
    stored = weight.data[rows].reshape(-1, x.shape[1] // 32, row.block_bytes)[..., row.parts[BlockPart.MINIMUM]]
    minimums = np.ascontiguousarray(stored).view(np.float16)[..., 0].astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(errors @ minimums.T, np.float32)


def round_f16(x: Array) -> Array:
    """`x` through float16, to nearest even; beyond its range to Inf."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


def round_bf16(x: Array) -> Array:
    """`x` through bfloat16, to nearest even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), x, rounded.view(np.float32)).astype(np.float32)


def round_tf32(x: Array) -> Array:
    """`x` through TF32: float32's range with 10 bits of mantissa, to nearest even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0xFFF + ((bits >> 13) & 1)) & np.uint32(0xFFFFE000)
    return np.where(np.isnan(x), x, rounded.view(np.float32)).astype(np.float32)


def round_fp8(x: Array) -> Array:
    """`x` through FP8 E4M3 (Micikevicius et al. 2022, arXiv:2209.05433) with one scale, absmax/448, for the tensor."""
    largest = np.abs(x).max(initial=0)
    if not np.isfinite(largest) or largest == 0:
        return x
    return round_float8(x, np.float32(largest / 448), mantissa=3, least=-6)


def round_float8(x: Array, scale: Array | np.float32, *, mantissa: int, least: int) -> Array:
    """`x` through an 8-bit float of `mantissa` bits behind the leading one, in units of `scale` (zero where that is).

    Below 2 to the power of `least` steps stay as they are there. Nothing is clipped.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        units = np.where(scale == 0, np.float32(0), x / scale).astype(np.float32, copy=False)
    # By bits: frexp and ldexp take ten times as long. Of a subnormal the exponent is below any `least`.
    exponent = np.maximum((units.view(np.int32) >> 23 & 0xFF) - 127, least)
    step = ((exponent - mantissa + 127) << 23).view(np.float32)
    return np.asarray(np.rint(units / step) * step * scale, np.float32)


def round_fp8_row(x: Array) -> Array:
    """`x` `[…, columns]` through FP8 E4M3 with one scale, absmax/448, for each row (a token's)."""
    scale = np.abs(x).max(-1, keepdims=True, initial=0) / np.float32(448)
    return round_float8(x, scale, mantissa=3, least=-6)


def round_fp8_block(x: Array) -> Array:
    """`x` `[n, columns]` through FP8 E4M3, a scale for each 128 columns of a row (DeepSeek-V3, arXiv:2412.19437)."""
    columns = x.shape[1]
    padded = np.pad(x, ((0, 0), (0, -columns % _FP8_BLOCK)))
    return np.ascontiguousarray(round_fp8_row(padded.reshape(-1, _FP8_BLOCK)).reshape(padded.shape)[:, :columns])


def round_fp8_e5m2(x: Array) -> Array:
    """`x` through FP8 E5M2 as it is, without a scale: how vLLM keeps K/V of that type."""
    return round_float8(x, np.float32(1), mantissa=2, least=-14)


def round_int8(x: Array) -> Array:
    """`x` through int8 with one scale, absmax/127, for the tensor."""
    return round_int8_row(x.reshape(1, -1)).reshape(x.shape)


def round_int8_row(x: Array) -> Array:
    """`x` `[…, columns]` through int8 with one scale, absmax/127, for each row (a token's)."""
    scale = np.abs(x).max(-1, keepdims=True, initial=0) / np.float32(127)
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = np.where(scale == 0, np.float32(0), np.rint(x / scale))
    return np.asarray(levels * scale, np.float32)


def round_q4_0(x: Array) -> Array:
    """`x` `[n, columns]` through Q4_0: blocks of 32, scale −m/8 in float16 with m the value of largest magnitude."""
    blocks = x.reshape(-1, 32)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(1, keepdims=True), 1)
    scale = largest / np.float32(-8)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        inverse = _finite(np.float32(1) / scale)
        # Multiplied and added with one rounding, as ggml compiles it and gguf computes it.
        shifted = (blocks.astype(np.float64) * inverse + 8.5).astype(np.float32)
        levels = np.minimum(np.floor(shifted), np.float32(15)) - np.float32(8)
        return np.asarray((levels * round_f16(scale)).reshape(x.shape), np.float32)


def _finite(inverse: Array) -> Array:
    """`inverse` of scales, 0 where a scale is too small to have one: such a block is zero."""
    return np.where(np.isinf(inverse), np.float32(0), inverse)


ROUND: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {
        InputRounding.NONE: lambda x: x,
        InputRounding.Q8_K: round_q8_k,
        InputRounding.Q8_0: round_q8_0,
        InputRounding.Q8_1: round_q8_1,
        InputRounding.Q8_1_F16: round_q8_0,  # whose sums differ: see `sum_correction`
        InputRounding.F16: round_f16,
        InputRounding.BF16: round_bf16,
        "tf32": round_tf32,
        "fp8": round_fp8,
        "fp8_row": round_fp8_row,
        "fp8_block": round_fp8_block,
        "fp8_e5m2": round_fp8_e5m2,
        "int8": round_int8,
        "int8_row": round_int8_row,
        "q4_0": round_q4_0,
    }
)
"""The roundings by name: those of weight types, and those that other engines use."""


def unrounded_input(kind: WeightType) -> InputRounding:
    return InputRounding.NONE


def has_gelu(model: Model) -> bool:
    """Whether the model has an activation that engines round for."""
    return any(stage.op is Op.GELU for stage in model.graph.stages)


def other_ways_of_rope(model: Model) -> tuple[RopeAngles, ...]:
    """The ways of computing RoPE's angles that engines in use have beside float64, those of llama.cpp where it takes
    other numbers than the file has."""
    rope = model.config.rope
    if rope.yarn is None or rope.yarn_of_llama_cpp is None:
        return (RopeAngles.F32_RECURRENCE,)
    ways = (RopeAngles.F32_RECURRENCE, RopeAngles.LLAMA_CPP)
    in_whole_pairs = replace(rope.yarn, whole_pairs=True)  # as ggml's own way of computing angles has them
    return ways if rope.yarn_of_llama_cpp == in_whole_pairs else (*ways, RopeAngles.LLAMA_CPP_RECURRENCE)


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What an engine rounds: the inputs of matmuls, the angles of RoPE, and what goes into GELU and comes out of it."""

    input_rounding: Callable[[WeightType], InputRounding]
    rope_angles: RopeAngles
    activation: str

    def matmul_input(self, weight: Weight) -> InputRounding:
        return self.input_rounding(weight.type)

    def stated(self, model: Model, kv: KvType) -> Rounding:
        """As manifests state it: `matmul_input` e.g. `q8_k`, or `q8_0+q8_k` where weights of both kinds are in use."""
        matmuls = (node for node in model.graph.nodes if model.graph[node.stage].op in MATRIX_PRODUCTS)
        inputs = {self.matmul_input(weight) for node in matmuls for weight in model.params(node)}
        activation = self.activation if has_gelu(model) else "f32"
        return Rounding("+".join(sorted(inputs)), str(kv), str(self.rope_angles), activation=activation)


ARITHMETIC: Mapping[Mode, Arithmetic] = MappingProxyType(
    {
        Mode.EXACT: Arithmetic(unrounded_input, RopeAngles.F64, "f32"),
        Mode.Q8: Arithmetic(lambda kind: kind.format.cpu_input, RopeAngles.F32_RECURRENCE, "f16"),
    }
)
"""The modes of the CPU backends: the reference, and what llama.cpp's CPU backend does."""

DEVICE_ARITHMETIC: Mapping[Mode, Arithmetic] = MappingProxyType(
    {
        Mode.EXACT: Arithmetic(unrounded_input, RopeAngles.F64, "f32"),
        Mode.Q8: Arithmetic(lambda kind: kind.format.cuda_input, RopeAngles.F64, "f32"),
    }
)
"""The modes of the CUDA backend."""
