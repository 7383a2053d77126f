"""Channels turned by a Walsh-Hadamard matrix, as engines turn them before they quantise keys and values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TURNED_CHANNELS = 64
"""Channels of values that llama.cpp turns together (`llama_kv_cache::build_input_v_rot`)."""


def hadamard(x: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """`x` `[n, columns]`, each block of `size` channels (a power of two) turned by the orthonormal Walsh-Hadamard
    matrix, which is its own inverse."""
    turned = x.reshape(-1, size)
    width = 1
    while width < size:
        pairs = turned.reshape(-1, size // (2 * width), 2, width)
        turned = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], 2).reshape(-1, size)
        width *= 2
    return np.asarray(turned.reshape(x.shape) / np.float32(np.sqrt(size)), np.float32)
