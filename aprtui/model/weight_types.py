"""The weight types of GGUF, one row each: the layout of a block, what its values mean, which backends compute with it.

Everything that depends on a weight type reads it here. Block layouts and numbers are those of `ggml-common.h` and
`ggml.h`; the input roundings are those of llama.cpp's CPU backend (`ggml-cpu.c`, `vec_dot_type`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum
from types import MappingProxyType
from typing import Self


class InputRounding(StrEnum):
    """What the input of a matrix product is rounded to before it meets the weights; manifests use these names."""

    NONE = "none"
    Q8_K = "q8_k"
    Q8_0 = "q8_0"
    Q8_1 = "q8_1"
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


@dataclass(frozen=True, slots=True)
class Field:
    """Consecutive bytes of a block that are read together."""

    part: BlockPart
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """One weight type. A quantised value is `scale · (quant − offset) − minimum`; float types have `float_step`."""

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
    """The lowest and the highest quant."""
    offset: int = 0
    scale_packing: ScalePacking | None = None
    """None where a block has a single scale."""

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
    Q5_0 = 6, WeightFormat(
        32, 22, InputRounding.Q8_0, "Q50", sub_block=32, levels=(0, 31), offset=16,
        fields=(_SCALE, _quants(4), _quants(16)),
    )  # fmt: skip
    Q8_0 = 8, WeightFormat(
        32, 34, InputRounding.Q8_0, "Q80", sub_block=32, levels=(-128, 127),
        fields=(_SCALE, _quants(32)),
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
    BF16 = 30, WeightFormat(
        1, 2, InputRounding.BF16, "BF16", float_step=(2.0**-7, 2.0**-133),
    )  # fmt: skip


COMPARED_ONLY: Mapping[str, WeightFormat] = MappingProxyType(
    {
        "Q4_1": WeightFormat(
            32, 20, InputRounding.NONE, None, sub_block=32, levels=(0, 15),
            fields=(_SCALE, _MINIMUM, _quants(16)),
        ),
        "Q5_1": WeightFormat(
            32, 24, InputRounding.NONE, None, sub_block=32, levels=(0, 31),
            fields=(_SCALE, _MINIMUM, _quants(4), _quants(16)),
        ),
    }
)  # fmt: skip
"""Types that no engine here computes with, whose blocks can still be compared. A row that moves from here into
`WeightType` is the first step of computing with it."""


def format_named(name: str) -> WeightFormat | None:
    """The row of the type that ggml calls `name`; None for one that has none."""
    if name in WeightType.__members__:
        return WeightType[name].format
    return COMPARED_ONLY.get(name)
