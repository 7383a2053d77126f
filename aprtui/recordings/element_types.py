"""Element types of recorded tensors: those of numpy, bfloat16, and the quantised types of ggml by ggml's names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import numpy as np

from aprtui.model.weight_types import WeightType

PLAIN: Mapping[str, np.dtype] = MappingProxyType(
    {
        name: np.dtype(of)
        for name, of in {
            "f64": "<f8", "f32": "<f4", "f16": "<f2", "i64": "<i8", "i32": "<i4", "i16": "<i2", "i8": "i1", "u8": "u1",
            "bool": "u1",
        }.items()
    }
)  # fmt: skip
"""Types whose values numpy reads as they lie; a bool is a byte of 0 or 1."""

BF16 = "bf16"


@dataclass(frozen=True, slots=True)
class GgmlType:
    """`block_values` neighbouring values lie in `block_bytes` bytes."""

    name: str
    block_values: int
    block_bytes: int

    @property
    def is_quantised(self) -> bool:
        return self.block_values > 1


@cache
def element_type(name: str) -> GgmlType | None:
    """The type that a recording calls `name`; None for one that is not known here."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if name in PLAIN:
        return GgmlType(name, 1, PLAIN[name].itemsize)
    if name == BF16:
        return GgmlType(name, 1, 2)
    if name.upper() not in GGMLQuantizationType.__members__:
        return None
    return GgmlType(name, *GGML_QUANT_SIZES[GGMLQuantizationType[name.upper()]])


def weight_type(name: str) -> WeightType | None:
    """The row of weight types that a type has; None for one that no engine here computes with."""
    return WeightType[name.upper()] if name.upper() in WeightType.__members__ else None
