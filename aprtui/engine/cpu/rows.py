"""Kernels that work on one token at a time: what happens between matmuls. All arithmetic is float32 unless stated."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, int32

from aprtui.engine.cpu.jit import kernel, reduction
from aprtui.engine.cpu.memory import (
    bits_float,
    control_record,
    float32s,
    float_bits,
    half_from_float,
    instruction,
)
from aprtui.engine.reference.ops import SWIGLU_ALPHA, SWIGLU_LIMIT

_ONE = np.float32(1)
_LOG2E = np.float32(1.44269504088896341)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_ROUND = np.float32(12582912.0)  # 1.5 * 2**23: adding it leaves the nearest integer in the low bits
_ROUND_BITS = np.int32(0x4B400000)
_E2, _E3, _E4 = np.float32(5.0000001201e-1), np.float32(1.6666665459e-1), np.float32(4.1665795894e-2)
_E5, _E6, _E7 = np.float32(8.3334519073e-3), np.float32(1.3981999507e-3), np.float32(1.9875691500e-4)
_TWO = np.float32(2)
_T0, _T1, _T2 = np.float32(-3.33332819422e-1), np.float32(1.33314422036e-1), np.float32(-5.37397155531e-2)
_T3, _T4, _TANH_SMALL = np.float32(2.06390887954e-2), np.float32(-5.70498872745e-3), np.float32(0.625)
_GELU_LINEAR, _GELU_CUBE = np.float32(-2 * np.sqrt(2 / np.pi)), np.float32(0.044715)
_GELU_END = np.float32(10)
_SWIGLU_ALPHA, _SWIGLU_LIMIT = np.float32(SWIGLU_ALPHA), np.float32(SWIGLU_LIMIT)
_LOWEST, _HIGHEST = np.float32(-104), np.float32(89)


@kernel
def exponential(x: Any) -> Any:
    """exp(x) in float32 to about one unit in the last place; NaN stays NaN, and the ends go to 0 and Inf.

    Reduction by ln 2 in two parts and the polynomial of Cephes' expf (Moshier); no branch, so loops over it vectorise.
    """
    x = _LOWEST if x < _LOWEST else x
    x = _HIGHEST if x > _HIGHEST else x
    shifted = x * _LOG2E + _ROUND
    n = int32(float_bits(shifted) - _ROUND_BITS)
    whole = shifted - _ROUND
    r = (x - whole * _LN2_HIGH) - whole * _LN2_LOW
    p = ((((_E7 * r + _E6) * r + _E5) * r + _E4) * r + _E3) * r + _E2
    value = (p * (r * r) + r) + _ONE
    # The power of two in two factors: one alone cannot express the ends of the range.
    half = int32(n >> int32(1))
    first = bits_float(int32(int32(half + int32(127)) << int32(23)))
    second = bits_float(int32(int32(int32(n - half) + int32(127)) << int32(23)))
    return value * first * second


@kernel
def copy(source: Any, target: Any) -> None:
    """Copy `source` to the beginning of `target` (a slice assignment would take seconds to compile)."""
    for i in range(source.size):
        target[i] = source[i]


@reduction
def _sum_of_squares(values: Any) -> Any:
    total = 0.0
    for i in range(values.size):
        wide = np.float64(values[i])
        total += wide * wide
    return total


@kernel
def _normalise(source: Any, weight: Any, target: Any, epsilon: float) -> None:
    scale = float32(_ONE / np.sqrt(float32(_sum_of_squares(source) / source.size) + float32(epsilon)))
    for i in range(source.size):
        target[i] = (source[i] * scale) * weight[i]


def rms_norm(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """RMSNorm (Zhang & Sennrich 2019) of each of `heads` runs of `width` channels; sum of squares in float64."""
    step = instruction(step_address)[0]
    weight = float32s(step.parameter, step.width)
    for token in range(begin, end):
        for head in range(step.heads):
            source = head_source(step, token, head)
            target = float32s(step.target + 4 * (token * step.target_stride + head * step.width), step.width)
            _normalise(source, weight, target, step.scalar)


@kernel
def head_source(step: Any, token: int, head: int) -> Any:
    """The channels of a head of the source, as an array."""
    return float32s(step.source + 4 * (token * step.source_stride + head * step.source_head_stride), step.width)


def head_l2_norm(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """Each of `heads` runs of `width` channels over the root of its sum of squares (in float64) and an epsilon."""
    step = instruction(step_address)[0]
    for token in range(begin, end):
        for head in range(step.heads):
            source = head_source(step, token, head)
            target = float32s(step.target + 4 * (token * step.target_stride + head * step.width), step.width)
            scale = float32(1.0 / np.sqrt(_sum_of_squares(source) + step.scalar))
            for i in range(step.width):
                target[i] = source[i] * scale


def sigmoid(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """1 / (1 + exp(−x)) of each of `heads` runs of `width` channels."""
    step = instruction(step_address)[0]
    for token in range(begin, end):
        for head in range(step.heads):
            source = head_source(step, token, head)
            target = float32s(step.target + 4 * (token * step.target_stride + head * step.width), step.width)
            for i in range(step.width):
                target[i] = _ONE / (_ONE + exponential(-source[i]))


def take_heads(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """Each of `heads` runs of `width` channels as it is, to the heads of the target."""
    step = instruction(step_address)[0]
    for token in range(begin, end):
        for head in range(step.heads):
            place = step.target + 4 * (token * step.target_stride + head * step.target_head_stride)
            copy(head_source(step, token, head), float32s(place, step.width))


def scale_rows(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """Each token's channels times the one number of it at `other`."""
    step = instruction(step_address)[0]
    for token in range(begin, end):
        source = float32s(step.source + 4 * token * step.source_stride, step.width)
        target = float32s(step.target + 4 * token * step.target_stride, step.width)
        factor = float32s(step.other + 4 * token * step.other_stride, 1)[0]
        for i in range(step.width):
            target[i] = source[i] * factor


def bias(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """Add the vector `parameter`."""
    step = instruction(step_address)[0]
    vector = float32s(step.parameter, step.width)
    for token in range(begin, end):
        source = float32s(step.source + 4 * token * step.source_stride, step.width)
        target = float32s(step.target + 4 * token * step.target_stride, step.width)
        for i in range(step.width):
            target[i] = source[i] + vector[i]


def add(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    step = instruction(step_address)[0]
    for token in range(begin, end):
        first = float32s(step.source + 4 * token * step.source_stride, step.width)
        second = float32s(step.other + 4 * token * step.other_stride, step.width)
        target = float32s(step.target + 4 * token * step.target_stride, step.width)
        for i in range(step.width):
            target[i] = first[i] + second[i]


def multiply(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    step = instruction(step_address)[0]
    for token in range(begin, end):
        first = float32s(step.source + 4 * token * step.source_stride, step.width)
        second = float32s(step.other + 4 * token * step.other_stride, step.width)
        target = float32s(step.target + 4 * token * step.target_stride, step.width)
        for i in range(step.width):
            target[i] = first[i] * second[i]


def silu(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """x / (1 + exp(-x))."""
    step = instruction(step_address)[0]
    for token in range(begin, end):
        source = float32s(step.source + 4 * token * step.source_stride, step.width)
        target = float32s(step.target + 4 * token * step.target_stride, step.width)
        for i in range(step.width):
            target[i] = source[i] / (_ONE + exponential(-source[i]))


def gelu(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """GELU by tanh, x / (1 + exp(−2u)) with u = √(2/π) · (x + 0.044715 x³).

    With `kind` 1 looked up by x in float16, in the table `parameter` `[65536]`; 0 or x itself from ∓10 on.
    """
    step = instruction(step_address)[0]
    table = float32s(step.parameter, 1 << 16) if step.kind else float32s(step.source, 0)
    for token in range(begin, end):
        source = float32s(step.source + 4 * token * step.source_stride, step.width)
        target = float32s(step.target + 4 * token * step.target_stride, step.width)
        if step.kind == 0:
            for i in range(step.width):
                x = source[i]
                target[i] = x / (_ONE + exponential(_GELU_LINEAR * x * (_ONE + _GELU_CUBE * x * x)))
        else:
            for i in range(step.width):
                x = source[i]
                found = table[half_from_float(x)]
                target[i] = np.float32(0) if x <= -_GELU_END else (x if x >= _GELU_END else found)


def swiglu_oai(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """(up + 1) · gate / (1 + exp(−alpha · gate)), of the gate at `source` and up at `other`, both clamped."""
    step = instruction(step_address)[0]
    for token in range(begin, end):
        gate = float32s(step.source + 4 * token * step.source_stride, step.width)
        up = float32s(step.other + 4 * token * step.other_stride, step.width)
        target = float32s(step.target + 4 * token * step.target_stride, step.width)
        for i in range(step.width):
            x, y = gate[i], up[i]
            x = _SWIGLU_LIMIT if x > _SWIGLU_LIMIT else x
            y = _SWIGLU_LIMIT if y > _SWIGLU_LIMIT else y
            y = -_SWIGLU_LIMIT if y < -_SWIGLU_LIMIT else y
            target[i] = x / (_ONE + exponential(-_SWIGLU_ALPHA * x)) * (y + _ONE)


@kernel
def softcapped(x: Any, cap: Any) -> Any:
    """cap · tanh(x / cap) by Cephes' tanhf (Moshier): a polynomial near 0, the exponential elsewhere."""
    y = x / cap
    magnitude = abs(y)
    z = y * y
    small = ((((_T4 * z + _T3) * z + _T2) * z + _T1) * z + _T0) * z * y + y
    large = _ONE - _TWO / (exponential(_TWO * magnitude) + _ONE)
    large = -large if y < 0 else large
    return cap * (small if magnitude < _TANH_SMALL else large)


def softcap_logits(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """Softcap the logits that are wanted of the tokens; `scalar` is the cap."""
    step = instruction(step_address)[0]
    control = control_record(control_address)[0]
    cap = float32(step.scalar)
    for token in range(begin, end):
        shift = 4 * (token - control.wanted) * step.width
        source = float32s(control.logits + shift, step.width)
        target = float32s(control.capped_logits + shift, step.width)
        for i in range(step.width):
            target[i] = softcapped(source[i], cap)


def rope(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """Rotary position embedding; `parameter` is the table `[context, 2, width / 2]` of cosines and sines.

    `kind` 0 turns channel i with i + width / 2, 1 turns 2i with 2i + 1, 2 turns nothing; what is behind these channels
    of a head is copied.
    """
    step = instruction(step_address)[0]
    control = control_record(control_address)[0]
    half = step.width // 2
    for token in range(begin, end):
        angles = step.parameter + 4 * (control.position + token) * step.width
        cosine, sine = float32s(angles, half), float32s(angles + 4 * half, half)
        for head in range(step.heads):
            size = step.target_head_stride
            source_at = step.source + 4 * (token * step.source_stride + head * step.source_head_stride)
            target_at = step.target + 4 * (token * step.target_stride + head * size)
            source, target = float32s(source_at, step.width), float32s(target_at, step.width)
            rest = size - step.width
            copy(float32s(source_at + 4 * step.width, rest), float32s(target_at + 4 * step.width, rest))
            if step.kind == 0:
                _turn_halves(source, target, cosine, sine)
            elif step.kind == 2:
                copy(source, target)
            else:
                _turn_neighbours(source, target, cosine, sine)


def scale_by_position(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """Multiply by the factor of the token's position, of which `parameter` has one for each."""
    step, position = instruction(step_address)[0], control_record(control_address)[0].position
    for token in range(begin, end):
        factor = float32s(step.parameter + 4 * (position + token), 1)[0]
        source = float32s(step.source + 4 * token * step.source_stride, step.width)
        target = float32s(step.target + 4 * token * step.target_stride, step.width)
        for i in range(step.width):
            target[i] = source[i] * factor


@kernel
def _turn_halves(source: Any, target: Any, cosine: Any, sine: Any) -> None:
    half = cosine.size
    for i in range(half):
        first, second = source[i], source[half + i]
        target[i] = first * cosine[i] - second * sine[i]
        target[half + i] = first * sine[i] + second * cosine[i]


@kernel
def _turn_neighbours(source: Any, target: Any, cosine: Any, sine: Any) -> None:
    for i in range(cosine.size):
        first, second = source[2 * i], source[2 * i + 1]
        target[2 * i] = first * cosine[i] - second * sine[i]
        target[2 * i + 1] = first * sine[i] + second * cosine[i]
