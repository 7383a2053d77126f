"""Ops that move values and compute none, make them of nothing, or choose among neighbours."""

from __future__ import annotations

import numpy as np

from aprtui.recordings.element_types import BF16, PLAIN
from aprtui.recordings.memory import Values, values_of
from aprtui.recordings.ops.elementwise import repeated
from aprtui.recordings.ops.operands import Array, Operands


def copy(op: Operands) -> Values:
    return np.asarray(op.values(0).reshape(op.shape))


def repeat(op: Operands) -> Values:
    return repeated(op.values(0), op.shape)


def concat(op: Operands) -> Values:
    return np.concatenate([op.values(0), op.values(1)], 3 - op.whole("dimension"))


def fill(op: Operands) -> Array:
    return np.full(op.shape, op.number("value"))


def arange(op: Operands) -> Array:
    return (op.number("start") + op.number("step") * np.arange(op.shape[-1])).reshape(op.shape)


def diagonal(op: Operands) -> Array:
    values = op.values(0)
    return np.asarray(values * np.eye(values.shape[-1]))


def triangle(op: Operands) -> Array:
    """ggml_tri_type: upper with diagonal, upper, lower with diagonal, lower; the rest is 0."""
    values = op.values(0)
    row, column = np.ogrid[: values.shape[-2], : values.shape[-1]]
    kept = (column >= row, column > row, column <= row, column < row)[op.whole("kind")]
    return np.where(kept, values, 0.0)


def causal_mask(op: Operands) -> Array:
    values = op.values(0)
    row, column = np.ogrid[: values.shape[-2], : values.shape[-1]]
    return np.where(column > row + op.whole("past"), -np.inf, values)


def pad(op: Operands) -> Values:
    """Before and after each dimension, fastest first; zeros, or the values from the other end."""
    sides = [(op.whole(f"before_{axis}"), op.whole(f"after_{axis}")) for axis in (3, 2, 1, 0)]
    values = op.values(0)
    if any(a + n + b != size for (a, b), n, size in zip(sides, values.shape, op.shape, strict=True)):
        raise ValueError(f"padding {sides} of {list(values.shape)} does not give {list(op.shape)}")
    return np.pad(values, sides, mode="wrap" if op.whole("circular") else "constant")


def roll(op: Operands) -> Values:
    return np.roll(op.values(0), [op.whole(f"shift_{axis}") for axis in (3, 2, 1, 0)], (0, 1, 2, 3))


def write_part(op: Operands, *, adds: bool) -> Values:
    """The first source with the second written (or added) to a view of it."""
    values, part = np.array(op.values(0)), op.values(1)
    steps = [op.whole(f"stride_{axis}") for axis in (3, 2, 1)]
    places = np.full(part.shape, op.whole("offset") // 4)
    for axis, step in enumerate((*steps, 4)):
        places += (np.arange(part.shape[axis]) * (step // 4)).reshape([-1 if k == axis else 1 for k in range(4)])
    if places.size and not 0 <= places.min() <= places.max() < values.size:
        raise ValueError("the part lies beyond its target")
    flat = values.reshape(-1)
    flat[places] = flat[places] + part if adds else part
    return flat.reshape(values.shape)


def get_rows(op: Operands) -> Values:
    """Rows of the first source as the second names them, of each of its matrices."""
    tensor, table, ids = op.source(0), op.raw(0), op.values(1)
    chosen = np.stack(
        [
            table[i3 % table.shape[0], i2 % table.shape[1]][ids[0, i3, i2]]
            for i3 in range(ids.shape[1])
            for i2 in range(ids.shape[2])
        ]
    )
    if tensor.type in PLAIN or tensor.type == BF16:
        return values_of(chosen, tensor).reshape(op.shape)
    from aprtui.model.weights import dequantized

    rows = np.ascontiguousarray(chosen).reshape(-1, chosen.shape[-2] * chosen.shape[-1])
    return dequantized(tensor.type.upper(), rows, tensor.shape[-1]).astype(np.float64).reshape(op.shape)


def set_rows(op: Operands) -> Values:
    """The rows that are written, in the order of the source: their bytes alone are recorded."""
    return np.asarray(op.values(0))


def pool(op: Operands) -> Array:
    """The largest (kind 0) or the mean of windows over the two fastest dimensions; padding is no value, or 0.

    The largest begins at the lowest float32, as ggml does it: windows of −Inf alone give that.
    """
    largest = op.whole("kind") == 0
    width, height, step_x, step_y, before_x, before_y = (
        op.whole(name) for name in ("width", "height", "step_x", "step_y", "before_x", "before_y")
    )
    sides = [(0, 0), (0, 0), (before_y, before_y + height), (before_x, before_x + width)]
    values = np.pad(op.values(0), sides, constant_values=-np.inf if largest else 0)
    windows = np.lib.stride_tricks.sliding_window_view(values, (height, width), (2, 3))[:, :, ::step_y, ::step_x]
    lowest = float(np.finfo(np.float32).min)
    found = windows.max((-1, -2), initial=lowest) if largest else windows.sum((-1, -2)) / (width * height)
    return np.asarray(found[:, :, : op.shape[2], : op.shape[3]])
