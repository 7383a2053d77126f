"""RoPE (Su et al. 2021, arXiv:2104.09864): pairs or halves of a head, sections of positions, YaRN, factors."""

from __future__ import annotations

import math
from enum import IntFlag

import numpy as np

from aprtui.recordings.ops.operands import Array, Operands, OpWay, OpWays


class RopeMode(IntFlag):
    """Bits of ggml's `mode`."""

    HALVES = 2
    SECTIONS = 8
    VISION = 16
    INTERLEAVED = 32


_EXACT, _RECURRENCE, _POWERS = "", "angles by a recurrence in f32", "angles by powers in f32"


def rope(op: Operands, *, back: bool = False) -> OpWays:
    """Angles as llama.cpp's CPU computes them (each the one before times a factor, in float32), as CUDA does, exact."""
    values, mode, width = op.values(0), RopeMode(op.whole("mode")), op.whole("dimensions")
    vision = RopeMode.VISION in mode
    first, count = op.whole("first"), (values.shape[-1] if vision else width) // 2
    if mode & (RopeMode.HALVES | RopeMode.SECTIONS):
        apart = width if vision else width // 2
        low, high = slice(first, first + count), slice(first + apart, first + apart + count)
    else:
        low, high = slice(first, first + width, 2), slice(first + 1, first + width, 2)
    for words in (_EXACT,) if op.exact else (_RECURRENCE, _EXACT, _POWERS):
        angles, magnitude = _angles(op, mode, count, words)
        cosine, sine = (np.cos(angles) * magnitude)[:, None], (np.sin(angles) * magnitude)[:, None]
        sine = -sine if back else sine
        out = values.copy()
        out[..., low] = values[..., low] * cosine - values[..., high] * sine
        out[..., high] = values[..., low] * sine + values[..., high] * cosine
        yield OpWay(out, words)


def _angles(op: Operands, mode: RopeMode, count: int, words: str) -> tuple[Array, float]:
    """Of each position and pair `[positions, count]`, and what cosines and sines are multiplied by."""
    width, base = op.whole("dimensions"), np.float32(op.number("base"))
    positions, exponents = _positions(op, mode, count)
    factors = op.values(2).reshape(-1)[:count] if op.has(2) else np.ones(count)
    if words == _EXACT:
        angles = positions * np.float64(base) ** (-2.0 * exponents / width)
        return _extended(op, np.asarray(angles / factors), count)
    step = np.float32(np.float64(base) ** np.float64(np.float32(-2.0) / np.float32(width)))
    if words == _POWERS:
        rounded: Array = positions.astype(np.float32) * np.power(step, exponents.astype(np.float32))
    else:
        rounded = _recurrence(positions.astype(np.float32), exponents, step)
    return _extended(op, (rounded / factors.astype(np.float32)).astype(np.float32), count)


def _recurrence(positions: Array, exponents: Array, step: np.float32) -> Array:
    """Each angle is the one before times `step`, in float32."""
    out, current = np.empty(positions.shape, np.float32), positions.copy()
    for exponent in range(int(exponents.max(initial=0)) + 1):
        chosen = exponents == exponent
        out[:, chosen] = current[:, chosen]
        current = current * step
    return out


def _positions(op: Operands, mode: RopeMode, count: int) -> tuple[Array, Array]:
    """The position of each pair `[positions, count]`, and the exponent of its frequency `[count]`."""
    given, pair = op.values(1).reshape(-1).astype(np.float64), np.arange(count)
    if RopeMode.SECTIONS not in mode:
        return np.repeat(given[:, None], count, 1), pair
    sections = [op.whole(f"section_{index}") for index in range(4)]
    place = pair % max(1, sum(sections))
    if mode == RopeMode.INTERLEAVED | RopeMode.SECTIONS:
        axis = np.full(count, 3)
        for number in (1, 2, 0):
            axis[(place % 3 == number) & (place < 3 * sections[number])] = number
    else:
        axis = np.minimum(np.searchsorted(np.cumsum(sections), place, side="right"), 3)
    starts = np.concatenate([[0], np.cumsum(sections)[:3]])
    exponents = place - starts[axis] if RopeMode.VISION in mode else pair
    return given.reshape(4, -1)[axis].T, exponents


def _extended(op: Operands, angles: Array, count: int) -> tuple[Array, float]:
    """Angles scaled in their own type, by YaRN (Peng et al. 2023, arXiv:2309.00071) where it is on."""
    scale, mix, magnitude = op.number("scale"), op.number("extrapolation"), op.number("magnitude")
    kind = angles.dtype
    scaled: Array = angles * np.asarray(scale, kind)
    if mix:
        width, base, context = op.whole("dimensions"), op.number("base"), op.number("original_context")

        def turned(turns: float) -> float:
            return width * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(base))

        low = max(0.0, math.floor(turned(op.number("beta_fast"))))
        high = min(width - 1.0, math.ceil(turned(op.number("beta_slow"))))
        kept = (1 - np.clip((np.arange(count) - low) / max(0.001, high - low), 0, 1)) * mix
        scaled = scaled * (1 - kept).astype(kind) + angles * kept.astype(kind)
        magnitude *= 1 + 0.1 * math.log(1 / scale)
    return scaled.astype(np.float64), magnitude
