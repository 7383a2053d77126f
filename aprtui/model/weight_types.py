"""The weight types of GGUF, one row each: the layout of a block, what its values mean, which backends compute with it.

Everything that depends on a weight type reads it here. Block layouts and numbers are those of `ggml-common.h` and
`ggml.h`; the input roundings are those of llama.cpp's CPU backend (`ggml-cpu.c`, `vec_dot_type`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum
from typing import Self


class InputRounding(StrEnum):
    """What the input of a matrix product is rounded to before it meets the weights; manifests use these names."""

    NONE = "none"
    Q8_K = "q8_k"
    Q8_0 = "q8_0"
    Q8_1 = "q8_1"
    Q8_1_F16 = "q8_1_f16"
    F16 = "f16"
    BF16 = "bf16"


class BlockPart(StrEnum):
    """What the bytes of a quantised block hold, as comparisons of weights name it."""

    SCALE = "block scale"
    MINIMUM = "block minimum"
    SUB_BLOCK_SCALES = "sub-block scales"
    QUANTS = "quants"


class ScalePacking(Enum):
    """How the integer scales of sub-blocks are stored."""

    SIX_BITS = "eight scales and eight minimums of six bits in twelve bytes (`get_scale_min_k4` of ggml)"
    SIGNED_BYTES = "a signed byte a scale"
    FOUR_BITS = "a scale in the lower and a minimum in the upper half of each of sixteen bytes"
    SIGNED_SIX_BITS = "sixteen scales of six bits less 32 in twelve bytes: lower halves in eight, upper bits in four"
    SPLIT_SIX_BITS = "eight scales of six bits less 32: upper bits in two bytes, lower halves in four"


@dataclass(frozen=True, slots=True)
class Field:
    """Consecutive bytes of a block that are read together."""

    part: BlockPart
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """One weight type. A quantised value is `scale · (quant − offset) − minimum`; float types have `float_step`.

    Where there is a `codebook`, a quant is an entry of it. Scales and minimums of blocks are float16, but for a scale
    of one byte, which is the power of two 2^(byte − 128).
    """

    block_values: int
    block_bytes: int
    cpu_input: InputRounding
    """What the CPU backends round a matmul's input to in `q8` mode; without an 8-bit kernel, `NONE`."""
    cuda_struct: str | None
    """The struct of `kernels/formats.cuh` that reads the type; None where the CUDA backend cannot compute with it."""
    float_step: tuple[float, float] | None = None
    """Of float types the gap between neighbouring numbers: relative to the value, and the smallest there is."""
    fields: tuple[Field, ...] = ()
    """In the order of the bytes."""
    sub_block: int = 1
    """Values that share a scale."""
    levels: tuple[int, int] = (0, 0)
    """The lowest and the highest quant; (0, 0) where quants come in vectors from a grid."""
    offset: int = 0
    scale_packing: ScalePacking | None = None
    """None where a block has a single scale."""
    codebook: tuple[int, ...] = ()
    """What the stored indices stand for; empty where the stored integers are the quants."""
    decoded: bool = False
    """Whether the CPU decodes a few rows at a time and multiplies floats, having no kernels that read the type where it
    lies; slower."""

    @property
    def is_quantised(self) -> bool:
        """Whether values are stored in blocks that share a scale; else each is a float of its own."""
        return self.float_step is None

    @property
    def cuda_input(self) -> InputRounding:
        """What the CUDA backend rounds a matmul's input to in `q8` mode."""
        return InputRounding.Q8_1 if self.is_quantised else InputRounding.NONE

    @property
    def parts(self) -> Mapping[BlockPart, slice]:
        """The bytes of each part of a block, in their order; empty for float types."""
        found: dict[BlockPart, slice] = {}
        start = 0
        for field in self.fields:
            first = found[field.part].start if field.part in found else start
            start += field.size
            found[field.part] = slice(first, start)
        return found


_SCALE, _MINIMUM = Field(BlockPart.SCALE, 2), Field(BlockPart.MINIMUM, 2)
_EXPONENT = Field(BlockPart.SCALE, 1)
_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_FP4 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
"""The values of E2M1, doubled."""


def _quants(size: int) -> Field:
    return Field(BlockPart.QUANTS, size)


def _sub_block_scales(size: int) -> Field:
    return Field(BlockPart.SUB_BLOCK_SCALES, size)


class WeightType(IntEnum):
    """The types that our engines compute with, by the numbers that GGUF gives them."""

    format: WeightFormat

    def __new__(cls, number: int, format: WeightFormat) -> Self:
        member = int.__new__(cls, number)
        member._value_ = number
        member.format = format
        return member

    @classmethod
    def numbered(cls, number: int) -> Self | None:
        """The type with that number; None for one that no engine here computes with."""
        return next((kind for kind in cls if kind == number), None)

    F32 = 0, WeightFormat(
        1, 4, InputRounding.NONE, "F32", float_step=(2.0**-23, 2.0**-149),
    )  # fmt: skip
    F16 = 1, WeightFormat(
        1, 2, InputRounding.F16, "F16", float_step=(2.0**-10, 2.0**-24),
    )  # fmt: skip
    Q4_0 = 2, WeightFormat(
        32, 18, InputRounding.Q8_0, "Q40", sub_block=32, levels=(0, 15), offset=8,
        fields=(_SCALE, _quants(16)),
    )  # fmt: skip
    Q4_1 = 3, WeightFormat(
        32, 20, InputRounding.Q8_1_F16, "Q41", sub_block=32, levels=(0, 15),
        fields=(_SCALE, _MINIMUM, _quants(16)),
    )  # fmt: skip
    Q5_0 = 6, WeightFormat(
        32, 22, InputRounding.Q8_0, "Q50", sub_block=32, levels=(0, 31), offset=16,
        fields=(_SCALE, _quants(4), _quants(16)),
    )  # fmt: skip
    Q5_1 = 7, WeightFormat(
        32, 24, InputRounding.Q8_1_F16, "Q51", sub_block=32, levels=(0, 31),
        fields=(_SCALE, _MINIMUM, _quants(4), _quants(16)),
    )  # fmt: skip
    Q8_0 = 8, WeightFormat(
        32, 34, InputRounding.Q8_0, "Q80", sub_block=32, levels=(-128, 127),
        fields=(_SCALE, _quants(32)),
    )  # fmt: skip
    Q2_K = 10, WeightFormat(
        256, 84, InputRounding.Q8_K, None, sub_block=16, levels=(0, 3), scale_packing=ScalePacking.FOUR_BITS,
        fields=(_sub_block_scales(16), _quants(64), _SCALE, _MINIMUM),
    )  # fmt: skip
    Q3_K = 11, WeightFormat(
        256, 110, InputRounding.Q8_K, None, sub_block=16, levels=(0, 7), offset=4,
        scale_packing=ScalePacking.SIGNED_SIX_BITS,
        fields=(_quants(32), _quants(64), _sub_block_scales(12), _SCALE),
    )  # fmt: skip
    Q4_K = 12, WeightFormat(
        256, 144, InputRounding.Q8_K, "Q4K", sub_block=32, levels=(0, 15), scale_packing=ScalePacking.SIX_BITS,
        fields=(_SCALE, _MINIMUM, _sub_block_scales(12), _quants(128)),
    )  # fmt: skip
    Q5_K = 13, WeightFormat(
        256, 176, InputRounding.Q8_K, "Q5K", sub_block=32, levels=(0, 31), scale_packing=ScalePacking.SIX_BITS,
        fields=(_SCALE, _MINIMUM, _sub_block_scales(12), _quants(32), _quants(128)),
    )  # fmt: skip
    Q6_K = 14, WeightFormat(
        256, 210, InputRounding.Q8_K, "Q6K", sub_block=16, levels=(0, 63), offset=32,
        scale_packing=ScalePacking.SIGNED_BYTES,
        fields=(_quants(128), _quants(64), _sub_block_scales(16), _SCALE),
    )  # fmt: skip
    IQ2_XXS = 16, WeightFormat(
        256, 66, InputRounding.Q8_K, None, sub_block=32, decoded=True,
        fields=(_SCALE, _quants(64)),
    )  # fmt: skip
    IQ2_XS = 17, WeightFormat(
        256, 74, InputRounding.Q8_K, None, sub_block=16, decoded=True,
        fields=(_SCALE, _quants(64), _sub_block_scales(8)),
    )  # fmt: skip
    IQ3_XXS = 18, WeightFormat(
        256, 98, InputRounding.Q8_K, None, sub_block=32, decoded=True,
        fields=(_SCALE, _quants(64), _sub_block_scales(32)),
    )  # fmt: skip
    IQ1_S = 19, WeightFormat(
        256, 50, InputRounding.Q8_K, None, sub_block=32, decoded=True,
        fields=(_SCALE, _quants(32), _sub_block_scales(16)),
    )  # fmt: skip
    IQ4_NL = 20, WeightFormat(
        32, 18, InputRounding.Q8_0, None, sub_block=32, levels=(-127, 113), codebook=_IQ4,
        fields=(_SCALE, _quants(16)),
    )  # fmt: skip
    IQ3_S = 21, WeightFormat(
        256, 110, InputRounding.Q8_K, None, sub_block=32, decoded=True,
        fields=(_SCALE, _quants(64), _quants(8), _quants(32), _sub_block_scales(4)),
    )  # fmt: skip
    IQ2_S = 22, WeightFormat(
        256, 82, InputRounding.Q8_K, None, sub_block=16, decoded=True,
        fields=(_SCALE, _quants(32), _quants(32), _quants(8), _sub_block_scales(8)),
    )  # fmt: skip
    IQ4_XS = 23, WeightFormat(
        256, 136, InputRounding.Q8_K, "IQ4XS", sub_block=32, levels=(-127, 113), codebook=_IQ4,
        scale_packing=ScalePacking.SPLIT_SIX_BITS,
        fields=(_SCALE, _sub_block_scales(2), _sub_block_scales(4), _quants(128)),
    )  # fmt: skip
    IQ1_M = 29, WeightFormat(
        256, 56, InputRounding.Q8_K, None, sub_block=16, decoded=True,
        fields=(_quants(32), _quants(16), _sub_block_scales(8)),
    )  # fmt: skip
    BF16 = 30, WeightFormat(
        1, 2, InputRounding.BF16, "BF16", float_step=(2.0**-7, 2.0**-133),
    )  # fmt: skip
    TQ1_0 = 34, WeightFormat(
        256, 54, InputRounding.Q8_K, None, sub_block=256, levels=(0, 2), offset=1, decoded=True,
        fields=(_quants(48), _quants(4), _SCALE),
    )  # fmt: skip
    TQ2_0 = 35, WeightFormat(
        256, 66, InputRounding.Q8_K, None, sub_block=256, levels=(0, 3), offset=1, decoded=True,
        fields=(_quants(64), _SCALE),
    )  # fmt: skip
    MXFP4 = 39, WeightFormat(
        32, 17, InputRounding.Q8_0, "MXFP4", sub_block=32, levels=(-12, 12), codebook=_FP4,
        fields=(_EXPONENT, _quants(16)),
    )  # fmt: skip
    NVFP4 = 40, WeightFormat(
        64, 36, InputRounding.Q8_0, None, sub_block=16, levels=(-12, 12), codebook=_FP4, decoded=True,
        fields=(_sub_block_scales(4), _quants(32)),
    )  # fmt: skip


def format_named(name: str) -> WeightFormat | None:
    """The row of the type that ggml calls `name`; None for one that has none."""
    return WeightType[name].format if name in WeightType.__members__ else None
