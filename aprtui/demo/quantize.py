"""Quantisers for the Q4_K and Q6_K block formats (ggml's `block_q4_K` and `block_q6_K`), which gguf-py can only read.

Each block's scales are searched, not read off the extremes: several starting scales, least squares for the scale given
the integers, then small steps of every integer scale, always keeping what lowers the weighted squared error. An error's
weight is the mean square of the activation that the value multiplies where that is known, else sigma + |x|.

Dimension letters: N blocks of 256, S sub-blocks, L values of a sub-block.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

BLOCK = 256
_TINY = 1e-30


def quantize_q4_k(values: F32, importance: F32 | None = None) -> Bytes:
    """Quantise [rows, columns] float32 to Q4_K bytes [rows, columns / 256 * 144].

    `importance` [columns] weighs the squared error of each column (mean square of the activation that meets it).
    Raises ValueError where columns is no multiple of 256 or a value is not finite.
    """
    x_NSL, w_NSL = _blocks(values, importance, 32)
    scale_NS, minimum_NS = _search_affine(x_NSL, w_NSL)
    d_N1 = _to_half(scale_NS.max(1, keepdims=True) / 63.0)
    m_N1 = _to_half(minimum_NS.max(1, keepdims=True) / 63.0)
    sc_NS = _steps(scale_NS, d_N1, 0, 63)
    mn_NS = _steps(minimum_NS, m_N1, 0, 63)
    error_N1 = _affine_error(x_NSL, w_NSL, d_N1 * sc_NS, m_N1 * mn_NS).sum(1, keepdims=True)
    for _ in range(3):
        sc_new, mn_new = _refine_affine(x_NSL, w_NSL, d_N1, m_N1, sc_NS, mn_NS)
        d_new, m_new = _fit_affine(x_NSL, w_NSL, d_N1, m_N1, sc_new, mn_new)
        error_new = _affine_error(x_NSL, w_NSL, d_new * sc_new, m_new * mn_new).sum(1, keepdims=True)
        old, new = (error_N1, d_N1, m_N1, sc_NS, mn_NS), (error_new, d_new, m_new, sc_new, mn_new)
        error_N1, d_N1, m_N1, sc_NS, mn_NS = _better(old, new)
    q_NSL = _affine_levels(x_NSL, d_N1 * sc_NS, m_N1 * mn_NS).astype(np.uint8)
    return _pack_q4_k(d_N1, m_N1, sc_NS.astype(np.uint8), mn_NS.astype(np.uint8), q_NSL).reshape(len(values), -1)


def quantize_q6_k(values: F32, importance: F32 | None = None) -> Bytes:
    """Quantise [rows, columns] float32 to Q6_K bytes [rows, columns / 256 * 210]; arguments as for `quantize_q4_k`."""
    x_NSL, w_NSL = _blocks(values, importance, 16)
    scale_NS = _search_symmetric(x_NSL, w_NSL)
    widest = np.take_along_axis(scale_NS, np.abs(scale_NS).argmax(1, keepdims=True), 1)
    d_N1 = _to_half(widest / -128.0)
    sc_NS = _steps(scale_NS, d_N1, -128, 127)
    for _ in range(2):
        sc_NS = _refine_symmetric(x_NSL, w_NSL, d_N1, sc_NS)
        unit_NSL = sc_NS[:, :, None] * _symmetric_levels(x_NSL, d_N1 * sc_NS)
        fitted = (w_NSL * x_NSL * unit_NSL).sum((1, 2)) / np.maximum((w_NSL * unit_NSL**2).sum((1, 2)), _TINY)
        d_new = _to_half(fitted[:, None].astype(np.float32))
        old, new = (_symmetric_error(x_NSL, w_NSL, d * sc_NS).sum(1, keepdims=True) for d in (d_N1, d_new))
        d_N1 = np.where(new < old, d_new, d_N1)
    levels = (_symmetric_levels(x_NSL, d_N1 * sc_NS) + 32).astype(np.uint8).reshape(-1, BLOCK)
    return _pack_q6_k(d_N1, sc_NS.astype(np.int8), levels).reshape(len(values), -1)


def _blocks(values: F32, importance: F32 | None, length: int) -> tuple[F32, F32]:
    """Values and error weights as [N, S, L]."""
    if values.ndim != 2 or values.shape[1] % BLOCK:
        raise ValueError(f"expected [rows, columns] with columns a multiple of {BLOCK}, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("expected finite values only")
    x = np.ascontiguousarray(values, dtype=np.float32).reshape(-1, BLOCK)
    sigma = np.sqrt((x * x).mean(1, keepdims=True))
    if importance is None:
        weight = sigma + np.abs(x)
    else:
        columns = np.broadcast_to(importance.astype(np.float32), values.shape).reshape(-1, BLOCK)
        weight = columns * np.sqrt(sigma * sigma + x * x)
    shape = (-1, BLOCK // length, length)
    return x.reshape(shape), (weight + np.float32(_TINY)).reshape(shape)


def _to_half(values: F32) -> F32:
    """Round to what a float16 field of the block can hold."""
    return np.clip(values, -65504.0, 65504.0).astype(np.float16).astype(np.float32)


def _steps(values: F32, unit: F32, least: int, most: int) -> F32:
    divisor = np.where(unit == 0.0, 1.0, unit)
    return np.where(unit == 0.0, 0.0, np.clip(np.rint(values / divisor), least, most)).astype(np.float32)


def _better(old: tuple[F32, ...], new: tuple[F32, ...]) -> tuple[F32, ...]:
    """Arrays of `new` where its error, the first of them, is smaller than that of `old`; else those of `old`."""
    smaller = new[0] < old[0]
    return tuple(np.where(smaller, after, before) for before, after in zip(old, new, strict=True))


def _affine_levels(x_NSL: F32, scale_NS: F32, minimum_NS: F32) -> F32:
    """Integers 0..15 nearest to x = scale * q - minimum."""
    scale = np.where(scale_NS == 0.0, np.inf, scale_NS)[:, :, None]
    return np.clip(np.rint((x_NSL + minimum_NS[:, :, None]) / scale), 0, 15).astype(np.float32)


def _affine_error(x_NSL: F32, w_NSL: F32, scale_NS: F32, minimum_NS: F32) -> F32:
    """Weighted squared error of each sub-block [N, S]."""
    restored = scale_NS[:, :, None] * _affine_levels(x_NSL, scale_NS, minimum_NS) - minimum_NS[:, :, None]
    error: F32 = (w_NSL * (x_NSL - restored) ** 2).sum(2)
    return error


def _solve_affine(x_NSL: F32, w_NSL: F32, q_NSL: F32) -> tuple[F32, F32]:
    """Weighted least squares of x = scale * q - minimum for given integers, with scale and minimum >= 0."""
    sw, sq, sx = w_NSL.sum(2), (w_NSL * q_NSL).sum(2), (w_NSL * x_NSL).sum(2)
    sqq, sqx = (w_NSL * q_NSL * q_NSL).sum(2), (w_NSL * q_NSL * x_NSL).sum(2)
    determinant = sw * sqq - sq * sq
    safe = np.where(determinant > 0.0, determinant, 1.0)
    scale = np.where(determinant > 0.0, (sw * sqx - sq * sx) / safe, 0.0)
    minimum = np.where(determinant > 0.0, (sq * sqx - sqq * sx) / safe, -sx / sw)
    without = np.maximum(sqx, 0.0) / np.maximum(sqq, _TINY)
    scale = np.where(minimum < 0.0, without, scale)
    return np.maximum(scale, 0.0).astype(np.float32), np.maximum(minimum, 0.0).astype(np.float32)


def _search_affine(x_NSL: F32, w_NSL: F32) -> tuple[F32, F32]:
    """Best real-valued scale and minimum of each sub-block over starts that use 11 to 18 levels of its range."""
    low, high = np.minimum(x_NSL.min(2), 0.0), np.maximum(x_NSL.max(2), 0.0)
    scale, minimum = (high - low) / 15.0, -low
    best: tuple[F32, ...] = (_affine_error(x_NSL, w_NSL, scale, minimum), scale, minimum)
    for levels in np.arange(11.0, 18.01, 0.5, dtype=np.float32):
        scale, minimum = (high - low) / levels, -low
        for _ in range(3):
            scale, minimum = _solve_affine(x_NSL, w_NSL, _affine_levels(x_NSL, scale, minimum))
            best = _better(best, (_affine_error(x_NSL, w_NSL, scale, minimum), scale, minimum))
    return best[1].astype(np.float32), best[2].astype(np.float32)


def _refine_affine(x_NSL: F32, w_NSL: F32, d_N1: F32, m_N1: F32, sc_NS: F32, mn_NS: F32) -> tuple[F32, F32]:
    """Move each sub-block's integer scale and minimum by up to one (scale) and two (minimum) steps where that helps."""
    best: tuple[F32, ...] = (_affine_error(x_NSL, w_NSL, d_N1 * sc_NS, m_N1 * mn_NS), sc_NS, mn_NS)
    for scale_step, minimum_step in itertools.product((-1, 0, 1), (-2, -1, 0, 1, 2)):
        sc, mn = np.clip(sc_NS + scale_step, 0, 63), np.clip(mn_NS + minimum_step, 0, 63)
        best = _better(best, (_affine_error(x_NSL, w_NSL, d_N1 * sc, m_N1 * mn), sc, mn))
    return best[1], best[2]


def _fit_affine(x_NSL: F32, w_NSL: F32, d_N1: F32, m_N1: F32, sc_NS: F32, mn_NS: F32) -> tuple[F32, F32]:
    """Least squares for the block's two float16 units, given every integer; the units themselves where that fails."""
    a_NSL = sc_NS[:, :, None] * _affine_levels(x_NSL, d_N1 * sc_NS, m_N1 * mn_NS)
    b_NSL = np.broadcast_to(-mn_NS[:, :, None], a_NSL.shape)
    pairs = ((a_NSL, a_NSL), (b_NSL, b_NSL), (a_NSL, b_NSL))
    aa, bb, ab = ((w_NSL * left * right).sum((1, 2)) for left, right in pairs)
    ax, bx = (w_NSL * a_NSL * x_NSL).sum((1, 2)), (w_NSL * b_NSL * x_NSL).sum((1, 2))
    determinant = aa * bb - ab * ab
    solvable = determinant > 1e-6 * aa * bb
    safe = np.where(solvable, determinant, 1.0)
    d, m = (bb * ax - ab * bx) / safe, (aa * bx - ab * ax) / safe
    usable = (solvable & (d > 0.0) & (m >= 0.0))[:, None]
    return np.where(usable, _to_half(d[:, None]), d_N1), np.where(usable, _to_half(m[:, None]), m_N1)


def _symmetric_levels(x_NSL: F32, scale_NS: F32) -> F32:
    """Integers -32..31 nearest to x = scale * q."""
    scale = np.where(scale_NS == 0.0, np.inf, scale_NS)[:, :, None]
    return np.clip(np.rint(x_NSL / scale), -32, 31).astype(np.float32)


def _symmetric_error(x_NSL: F32, w_NSL: F32, scale_NS: F32) -> F32:
    """Weighted squared error of each sub-block [N, S]."""
    error: F32 = (w_NSL * (x_NSL - scale_NS[:, :, None] * _symmetric_levels(x_NSL, scale_NS)) ** 2).sum(2)
    return error


def _search_symmetric(x_NSL: F32, w_NSL: F32) -> F32:
    """Best real-valued scale of each sub-block; the extreme value starts at levels -36 to -28."""
    extreme = np.take_along_axis(x_NSL, np.abs(x_NSL).argmax(2)[:, :, None], 2)[:, :, 0]
    scale = extreme / np.float32(-32.0)
    best: tuple[F32, ...] = (_symmetric_error(x_NSL, w_NSL, scale), scale)
    for level in np.arange(-36.0, -27.9, 0.5, dtype=np.float32):
        q_NSL = _symmetric_levels(x_NSL, extreme / level)
        scale = (w_NSL * x_NSL * q_NSL).sum(2) / np.maximum((w_NSL * q_NSL * q_NSL).sum(2), _TINY)
        best = _better(best, (_symmetric_error(x_NSL, w_NSL, scale), scale))
    return best[1].astype(np.float32)


def _refine_symmetric(x_NSL: F32, w_NSL: F32, d_N1: F32, sc_NS: F32) -> F32:
    """Move each sub-block's integer scale by up to two steps where that lowers its error."""
    best: tuple[F32, ...] = (_symmetric_error(x_NSL, w_NSL, d_N1 * sc_NS), sc_NS)
    for step in (-2, -1, 1, 2):
        sc = np.clip(sc_NS + step, -128, 127)
        best = _better(best, (_symmetric_error(x_NSL, w_NSL, d_N1 * sc), sc))
    return best[1]


def _half_bytes(values_N1: F32) -> Bytes:
    return np.ascontiguousarray(values_N1.astype("<f2")).view(np.uint8)


def _pack_q4_k(d_N1: F32, m_N1: F32, sc: Bytes, mn: Bytes, q_NSL: Bytes) -> Bytes:
    """144 bytes a block: two float16 units, 8 + 8 six-bit steps in 12 bytes, then pairs of sub-blocks as nibbles."""
    low_scales = sc[:, :4] | (sc[:, 4:] >> 4 << 6)
    low_minimums = mn[:, :4] | (mn[:, 4:] >> 4 << 6)
    high = (sc[:, 4:] & 15) | (mn[:, 4:] & 15) << 4
    pairs = q_NSL.reshape(-1, 4, 2, 32)
    nibbles = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)
    return np.concatenate((_half_bytes(d_N1), _half_bytes(m_N1), low_scales, low_minimums, high, nibbles), axis=1)


def _pack_q6_k(d_N1: F32, sc: npt.NDArray[np.int8], levels: Bytes) -> Bytes:
    """210 bytes a block: low nibbles (128), high bit pairs (64), 16 int8 steps, one float16 unit; two halves of 128."""
    quarters = levels.reshape(-1, 2, 4, 32)
    low = quarters & 15
    nibbles = (low[:, :, :2] | low[:, :, 2:] << 4).reshape(-1, 128)
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8)[None, None, :, None]
    pairs = np.bitwise_or.reduce(quarters >> 4 << shifts, axis=2).reshape(-1, 64)
    return np.concatenate((nibbles, pairs, sc.view(np.uint8), _half_bytes(d_N1)), axis=1)
