"""Weights as the compiled kernels decode them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.cpu.matmul import dequantize_rows
from aprtui.model.weights import Weight


def decoded_rows(weight: Weight, begin: int, end: int) -> NDArray[np.float32]:
    """Rows `begin … end - 1` of `weight` as float32 `[rows, columns]`."""
    values = np.empty((end - begin, weight.columns), np.float32)
    data = np.ascontiguousarray(weight.data)
    dequantize_rows(
        int(weight.type), data.ctypes.data, data.shape[1], weight.columns, begin, end, values.ctypes.data
    )  # fmt: skip
    return values
