"""float16 as bit patterns, by integer arithmetic: any CPU can do it, and loops over it vectorise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int32, uint16

from aprtui.engine.cpu.jit import kernel
from aprtui.engine.cpu.memory import bits_float, float_bits

_UP = np.float32(2.0**112)  # float32's exponent bias less float16's, as a factor
_SIGN, _MAGNITUDE = np.int32(0x8000), np.int32(0x7FFF)
_INFINITY = np.int32(0x7F800000)
_LARGEST_NORMAL = np.int32(0x47800000)  # 65536.0: from here on a float16 is Inf
_SMALLEST_NORMAL = np.int32(0x38800000)  # 2**-14
_SUBNORMAL_ROUND = np.float32(0.5)  # its last bit is worth the float16 subnormal step 2**-24


@kernel
def float_from_half(pattern: Any) -> Any:
    """The float32 value of a float16 bit pattern; exact, subnormals, Inf and NaN included."""
    bits = int32(pattern)
    magnitude = bits_float(int32(int32(bits & _MAGNITUDE) << int32(13))) * _UP
    exponent_full = int32(bits & int32(0x7C00)) == int32(0x7C00)
    value = float_bits(magnitude)
    value = int32(value | _INFINITY) if exponent_full else value
    return bits_float(int32(value | int32(int32(bits & _SIGN) << int32(16))))


@kernel
def half_from_float(value: Any) -> Any:
    """The bit pattern of `value` rounded to float16, to nearest, ties to even; overflow gives Inf."""
    bits = float_bits(value)
    sign = int32(int32(bits >> int32(16)) & _SIGN)
    magnitude = int32(bits & int32(0x7FFFFFFF))
    if magnitude > _INFINITY:
        return uint16(sign | int32(0x7E00))
    if magnitude >= _LARGEST_NORMAL:
        return uint16(sign | int32(0x7C00))
    if magnitude < _SMALLEST_NORMAL:
        # The sum's unit in the last place is the subnormal step: the addition itself rounds.
        shifted = bits_float(magnitude) + _SUBNORMAL_ROUND
        return uint16(sign | int32(float_bits(shifted) - float_bits(_SUBNORMAL_ROUND)))
    odd = int32(int32(magnitude >> int32(13)) & int32(1))
    rounded = int32(int32(magnitude + int32(0xFFF)) + odd)
    return uint16(sign | int32(int32(rounded >> int32(13)) - int32(int32(112) << int32(10))))
