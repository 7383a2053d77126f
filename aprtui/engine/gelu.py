"""GELU by its approximation with tanh (Hendrycks & Gimpel 2016, arXiv:1606.08415), and as ggml's CPU looks it up.

ggml keeps a table of 65536 results: what goes in and what comes out is rounded to float16.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

_A = 0.044715
_ROOT = np.sqrt(2 / np.pi)
_END = np.float32(10)
"""From here on ggml gives x itself, and 0 for −x."""


def gelu_tanh(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))."""
    with np.errstate(over="ignore"):
        return np.asarray(x / (1.0 + np.exp(-2 * _ROOT * x * (1.0 + _A * x * x))))


@cache
def gelu_table() -> Array:
    """The result for every bit pattern of float16 `[65536]`, as ggml computes them in float32 (`ggml_gelu_f32`)."""
    x = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    one, half = np.float32(1), np.float32(0.5)
    with np.errstate(invalid="ignore", over="ignore"):
        # 1 + a·x² is rounded once, as compilers make one instruction of it: one of the 65536 results depends on it.
        factor = (1 + (np.float32(_A) * x).astype(np.float64) * x).astype(np.float32)
        inner = np.float32(_ROOT) * x * factor
        results = half * x * (one + np.tanh(inner.astype(np.float64)).astype(np.float32))
        return results.astype(np.float16).astype(np.float32)


def gelu_f16(x: Array) -> Array:
    """GELU of `x` through float16, as ggml's CPU backend computes it."""
    with np.errstate(over="ignore"):
        found = gelu_table()[x.astype(np.float16).view(np.uint16)]
    return np.where(x <= -_END, np.float32(0), np.where(x >= _END, x, found)).astype(np.float32)
