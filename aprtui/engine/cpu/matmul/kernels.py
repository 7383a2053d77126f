"""The kernels that other compiled code calls, and what its planner asks about them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.cpu.jit import kernel
from aprtui.engine.cpu.matmul.dequantize import dequantize_row
from aprtui.engine.cpu.matmul.formats import FORMATS
from aprtui.engine.cpu.matmul.panel import SCRATCH_BYTES, matmul_float
from aprtui.engine.cpu.matmul.quantized import STRIP_TOKENS, matmul_rows_q8, matmul_strips_q8, scratch_bytes_q8
from aprtui.model.weight_types import InputRounding
from aprtui.model.weights import Weight

_QUANTIZED = tuple(int(kind) for kind in FORMATS if kind.format.cpu_input is not InputRounding.NONE)
"""Types with kernels for 8-bit activations."""


@kernel
def matmul_rows(
    weight_type: int, mode_is_q8: int, weights: int, row_bytes: int, columns: int, x: int, x_bytes: int, n_tokens: int,
    y: int, y_stride_floats: int, row_begin: int, row_end: int, scratch: int,
) -> None:  # fmt: skip
    """`y[t · y_stride_floats + r] = Σ w[r, k] · x[t, k]` for `row_begin ≤ r < row_end` and `t < n_tokens`, float32.

    `weights` points to row 0 of rows in their GGUF form (any alignment, no gaps); `x` to rows as `quantize_rows`
    left them for `activation_kind(weight_type, mode)`, `x_bytes` apart (plain float32 rows will do for F32); `scratch`
    to `scratch_bytes(columns)` bytes that no other thread uses. Columns are a multiple of 256 for K-quants, of 32 for
    the other quantised types. The bits of a result depend on its row and its token alone: not on `n_tokens`, nor on how
    the rows are split. NaN and Inf come out where they ought to.
    """
    if mode_is_q8 != 0 and weight_type in _QUANTIZED and n_tokens >= STRIP_TOKENS:
        matmul_strips_q8(
            weight_type, weights, row_bytes, columns, x, x_bytes, n_tokens, y, y_stride_floats, row_begin, row_end,
            scratch,
        )  # fmt: skip
    elif mode_is_q8 != 0 and weight_type in _QUANTIZED:
        matmul_rows_q8(
            weight_type, weights, row_bytes, columns, x, x_bytes, n_tokens, y, y_stride_floats, row_begin, row_end,
            scratch,
        )  # fmt: skip
    else:
        matmul_float(
            weight_type, weights, row_bytes, columns, x, x_bytes, n_tokens, y, y_stride_floats, row_begin, row_end,
            scratch,
        )  # fmt: skip


@kernel
def dequantize_rows(
    weight_type: int, weights: int, row_bytes: int, columns: int, row_begin: int, row_end: int, dst: int
) -> None:
    """Rows `row_begin … row_end - 1` as contiguous float32 `[rows, columns]` at `dst`; bits as `gguf.quants` gives."""
    for row in range(row_begin, row_end):
        dequantize_row(weight_type, weights + row * row_bytes, columns, dst + 4 * columns * (row - row_begin))


def decoded_rows(weight: Weight, begin: int, end: int) -> NDArray[np.float32]:
    """Rows `begin … end - 1` of `weight` as `dequantize_rows` gives them, float32 `[rows, columns]`."""
    values = np.empty((end - begin, weight.columns), np.float32)
    data = np.ascontiguousarray(weight.data)
    dequantize_rows(int(weight.type), data.ctypes.data, data.shape[1], weight.columns, begin, end, values.ctypes.data)
    return values


def scratch_bytes(columns: int) -> int:
    """Bytes of scratch that one thread needs for `matmul_rows` on weights of that many columns."""
    return max(SCRATCH_BYTES, scratch_bytes_q8(columns))
