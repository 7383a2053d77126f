"""What rounding to a storage type typically costs, read from the stored scales: the error an honest quantisation makes.

A value that is rounded to a grid of step s errs uniformly within ±s/2, so by s/√12 in rms (Bennett 1948). The step of a
quantised value is its sub-block's scale; K types round the scales and minimums of sub-blocks as well, which errs by
their own unit times the quant. A float16 value errs within 2⁻¹¹ of itself, bfloat16 within 2⁻⁸.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aprtui.model.weight_difference.stored import StoredTensor

# (largest relative step, smallest absolute step): the gap between neighbouring numbers.
_FLOATS = {"F32": (2.0**-23, 2.0**-149), "F16": (2.0**-10, 2.0**-24), "BF16": (2.0**-7, 2.0**-133)}

# Root mean square of uniform quants, which a rounded sub-block scale is multiplied with.
_K_QUANTS = {"Q4_K": 15 / 3**0.5, "Q5_K": 31 / 3**0.5, "Q6_K": 32 / 3**0.5}


def is_float(kind: str) -> bool:
    """Whether a type rounds each value for itself, so that no value can err by more than its own step."""
    return kind in _FLOATS


def expected_squares(tensor: StoredTensor, rows: slice, values: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """The mean square of the rounding error of each value, `[rows, columns]`; None for types it is not known of.

    `values` are the values of `rows`.
    """
    if tensor.type in _FLOATS:
        relative, least = _FLOATS[tensor.type]
        # An Inf that is stored has no error that could be expected.
        finite = np.where(np.isfinite(values), values, 0).astype(np.float64)
        return np.square(np.maximum(np.abs(finite, out=finite) * relative, least)) / 12
    squares = _block_squares(tensor.type, tensor.blocks(rows))
    if squares is None:
        return None
    repeats = tensor.columns // (squares.shape[1] * squares.shape[2])
    return np.repeat(squares.reshape(squares.shape[0], -1), repeats, axis=1)


def _block_squares(kind: str, blocks: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    """Mean squares of each sub-block, `[rows, blocks, sub-blocks]`."""
    if kind in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"):
        return np.square(_halves(blocks, 0)) / 12
    if kind == "Q6_K":
        unit = _halves(blocks, 208)
        scales = blocks[..., 192:208].view(np.int8).astype(np.float64)
        return np.square(unit) * (np.square(scales) + _K_QUANTS[kind] ** 2) / 12
    if kind in ("Q4_K", "Q5_K"):
        unit, minimum = _halves(blocks, 0), _halves(blocks, 2)
        scales = _six_bit_scales(blocks[..., 4:16]).astype(np.float64)
        return (np.square(unit) * (np.square(scales) + _K_QUANTS[kind] ** 2) + np.square(minimum)) / 12
    return None


def _halves(blocks: NDArray[np.uint8], offset: int) -> NDArray[np.float64]:
    """The float16 at `offset` of each block, `[rows, blocks, 1]`; one that is not finite expects no error."""
    values = np.ascontiguousarray(blocks[..., offset : offset + 2]).view(np.float16).astype(np.float64)
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def _six_bit_scales(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The eight six-bit scales in the twelve bytes that also hold the minimums (`get_scale_min_k4` of ggml)."""
    low = packed[..., 0:4] & 63
    high = (packed[..., 8:12] & 15) | (packed[..., 0:4] >> 6 << 4)
    return np.concatenate((low, high), axis=-1)
