"""What rounding to a storage type typically costs, read from the stored scales: the error an honest quantisation makes.

A value that is rounded to a grid of step s errs uniformly within ±s/2, so by s/√12 in rms (Bennett 1948). The step of a
quantised value is its sub-block's scale; K types round the scales and minimums of sub-blocks as well, which errs by
their own unit times the quant. A float16 value errs within 2⁻¹¹ of itself, bfloat16 within 2⁻⁸.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from aprtui.model.stored_tensor import StoredTensor
from aprtui.model.weight_types import BlockPart, ScalePacking, WeightFormat, format_named


def is_float(kind: str) -> bool:
    """Whether a type rounds each value for itself, so that no value can err by more than its own step."""
    row = format_named(kind)
    return row is not None and not row.is_quantised


def expected_squares(tensor: StoredTensor, rows: slice, values: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """The mean square of the rounding error of each value, `[rows, columns]`; None for types without a row.

    `values` are the values of `rows`.
    """
    row = format_named(tensor.type)
    if row is None:
        return None
    if row.float_step is not None:
        relative, least = row.float_step
        # An Inf that is stored has no error that could be expected.
        finite = np.where(np.isfinite(values), values, 0).astype(np.float64)
        return np.square(np.maximum(np.abs(finite, out=finite) * relative, least)) / 12
    squares = _block_squares(row, tensor.blocks(rows))
    return np.repeat(squares.reshape(squares.shape[0], -1), row.sub_block, axis=1)


def _block_squares(row: WeightFormat, blocks: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean squares of each sub-block, `[rows, blocks, sub-blocks]`."""
    parts = row.parts
    unit = _halves(blocks[..., parts[BlockPart.SCALE]])
    if row.scale_packing is None:
        return np.square(unit) / 12
    scales = _SCALES[row.scale_packing](blocks[..., parts[BlockPart.SUB_BLOCK_SCALES]]).astype(np.float64)
    # A rounded scale is multiplied with quants, whose root mean square is this where they are uniform.
    quants = max(abs(level - row.offset) for level in row.levels) / 3**0.5
    squares = np.square(unit) * (np.square(scales) + quants**2)
    if BlockPart.MINIMUM in parts:
        squares += np.square(_halves(blocks[..., parts[BlockPart.MINIMUM]]))
    return np.asarray(squares / 12, np.float64)


def _halves(part: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The float16 of each block, `[rows, blocks, 1]`; one that is not finite expects no error."""
    values = np.ascontiguousarray(part).view(np.float16).astype(np.float64)
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def _six_bit_scales(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The eight six-bit scales in the twelve bytes that also hold the minimums (`get_scale_min_k4` of ggml)."""
    low = packed[..., 0:4] & 63
    high = (packed[..., 8:12] & 15) | (packed[..., 0:4] >> 6 << 4)
    return np.concatenate((low, high), axis=-1)


def _signed_bytes(packed: NDArray[np.uint8]) -> NDArray[np.int8]:
    return packed.view(np.int8)


_SCALES: Mapping[ScalePacking, Callable[[NDArray[np.uint8]], NDArray[np.uint8] | NDArray[np.int8]]] = MappingProxyType(
    {ScalePacking.SIX_BITS: _six_bit_scales, ScalePacking.SIGNED_BYTES: _signed_bytes}
)
