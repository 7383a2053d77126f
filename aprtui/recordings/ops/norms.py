"""Norms of rows, and of groups of them."""

from __future__ import annotations

import numpy as np

from aprtui.recordings.ops.operands import Array, Operands


def rms_norm(op: Operands) -> Array:
    return _normalised(op.values(0), op.number("epsilon"))


def _normalised(values: Array, epsilon: float) -> Array:
    return np.asarray(values / np.sqrt((values * values).mean(-1, keepdims=True) + epsilon))


def layer_norm(op: Operands) -> Array:
    values = op.values(0)
    return _normalised(values - values.mean(-1, keepdims=True), op.number("epsilon"))


def l2_norm(op: Operands) -> Array:
    values = op.values(0)
    return np.asarray(values / np.maximum(np.sqrt((values * values).sum(-1, keepdims=True)), op.number("epsilon")))


def group_norm(op: Operands) -> Array:
    """Groups of channels, which are the third dimension, slowest but one."""
    values, groups = op.values(0), op.whole("groups")
    size = -(-values.shape[1] // groups)
    out = np.empty_like(values)
    for start in range(0, values.shape[1], size):
        part = values[:, start : start + size]
        part = part - part.mean((1, 2, 3), keepdims=True)
        spread = (part * part).mean((1, 2, 3), keepdims=True)
        out[:, start : start + size] = part / np.sqrt(spread + op.number("epsilon"))
    return out
