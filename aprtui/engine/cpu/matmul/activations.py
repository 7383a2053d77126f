"""What activations are rounded to before they meet quantised weights, and how the rounded rows lie in memory.

A row of `Q8_K` or `Q8_0` is a sequence of records, one per 256 columns, of 320 bytes: 256 signed quants, then sums of
quants and scales:

    Q8_K   quants i8 × 256 | sums of 16 columns, i16 × 16 | sums of 32 columns, i16 × 8 | scale f32, one per record
    Q8_0   quants i8 × 256 | sums of 32 columns, i32 × 8                                | scales f32 × 8
    Q8_1   quants i8 × 256 | sums of 32 columns times scales, f32 × 8                   | scales f32 × 8

Q8_1's sums are products with the scale before it is rounded to float16, rounded to float16 themselves, as ggml stores
them. The last record of a Q8_0 or Q8_1 row may be partly used. Rows of `F32`, `F16` and `BF16` are float32 values
(rounded to that type), since both ways of using them start by widening; rows of `Q8_K_VALUES` and `Q8_0_VALUES` are the
values that Q8_K and Q8_0 stand for, which weights meet that are only decoded.
"""

from __future__ import annotations

from enum import IntEnum

from aprtui.engine.protocol import Mode
from aprtui.model.weight_types import InputRounding, WeightType

GROUP = 256
"""Columns of a record; sums of products are formed per group, then added up group by group."""
RECORD = 320
SUMS_16 = 256
SUMS_32 = 288
SCALE_K = 304
SUMS_0 = 256
SCALES_0 = 288
"""Byte offsets inside a record."""


class ActivationKind(IntEnum):
    F32 = 0
    Q8_K = 1
    Q8_0 = 2
    F16 = 3
    BF16 = 4
    Q8_1 = 5
    Q8_K_VALUES = 6
    Q8_0_VALUES = 7


INTEGERS = frozenset({ActivationKind.Q8_K, ActivationKind.Q8_0, ActivationKind.Q8_1})
"""Kinds whose rows are 8-bit integers with scales."""

_KIND_OF_ROUNDING = {
    InputRounding.NONE: ActivationKind.F32,
    InputRounding.Q8_K: ActivationKind.Q8_K,
    InputRounding.Q8_0: ActivationKind.Q8_0,
    InputRounding.Q8_1_F16: ActivationKind.Q8_1,
    InputRounding.F16: ActivationKind.F16,
    InputRounding.BF16: ActivationKind.BF16,
}

_VALUES = {
    ActivationKind.Q8_K: ActivationKind.Q8_K_VALUES,
    ActivationKind.Q8_0: ActivationKind.Q8_0_VALUES,
}


def activation_kind(weight_type: WeightType, mode: Mode) -> ActivationKind:
    """What activations are rounded to before they meet weights of that type; `q8` as llama.cpp's CPU backend does."""
    kind = ActivationKind.F32 if mode is Mode.EXACT else _KIND_OF_ROUNDING[weight_type.format.cpu_input]
    return _VALUES.get(kind, kind) if weight_type.format.decoded else kind


def activation_bytes(kind: ActivationKind, columns: int) -> int:
    """Bytes of one row of activations, a multiple of 64."""
    if kind in INTEGERS:
        return -(-columns // GROUP) * RECORD
    return -(-4 * columns // 64) * 64
