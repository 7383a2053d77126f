"""Kinds of faults that change values after the op: scales, noise, NaN, lost channels and tokens, stale rows, overflow.

Shapes: outputs are `[n, width]`, or `[heads, n, T]` with key ≤ query for attention maps.
"""

from __future__ import annotations

import numpy as np

from aprtui.engine.faults.setting import Array, FaultSetting
from aprtui.engine.protocol import NodeCall


def scale(setting: FaultSetting, call: NodeCall) -> Array:
    """The stage times 1 + magnitude."""
    return np.asarray(call.output * np.float32(1 + setting.parameters["magnitude"]), np.float32)


def noise(setting: FaultSetting, call: NodeCall) -> Array:
    """Normal noise of `magnitude` times each token's rms; of maps only where key ≤ query."""
    out, magnitude = call.output.copy(), setting.parameters["magnitude"]
    for row, position in enumerate(setting.positions(call)):
        seen = out[:, row, : position + 1] if out.ndim == 3 else out[row]
        drawn = setting.random(position).standard_normal(seen.shape)
        seen += (drawn * magnitude * np.sqrt(np.mean(seen.astype(np.float64) ** 2))).astype(np.float32)
    return out


def nan(setting: FaultSetting, call: NodeCall) -> Array:
    return _one_value(setting, call, np.float32(np.nan))


def inf(setting: FaultSetting, call: NodeCall) -> Array:
    return _one_value(setting, call, np.float32(np.inf))


def _one_value(setting: FaultSetting, call: NodeCall, value: np.float32) -> Array:
    """`value` at `token` and `channel` (of maps: `head`, query `token`, key 0).

    Stages of the whole model may be computed for the last tokens only: without a `token`, all computed tokens have it.
    """
    out, positions = call.output.copy(), setting.positions(call)
    everywhere = call.node.layer is None and "token" not in setting.parameters
    token = int(setting.parameters.get("token", 0))
    rows = [position - positions.start for position in positions if everywhere or position == token]
    if out.ndim == 3:
        out[setting.index("head", out.shape[0]), rows, 0] = value
    else:
        out[rows, setting.index("channel", out.shape[1])] = value
    return out


def zero_channel(setting: FaultSetting, call: NodeCall) -> Array:
    out = call.output.copy()
    out[:, setting.index("channel", out.shape[1])] = 0
    return out


def zero_tail(setting: FaultSetting, call: NodeCall) -> Array:
    """The last `count` channels are 0."""
    out = call.output.copy()
    out[:, max(0, out.shape[1] - int(setting.parameters["count"])) :] = 0
    return out


def stale_row(setting: FaultSetting, call: NodeCall) -> Array:
    """The token `token` has what belongs to the one before it; the first token its own."""
    out, positions = call.output.copy(), setting.positions(call)
    row = int(setting.parameters["token"]) - positions.start
    if row == 0 and call.position:
        out[:1] = setting.memory.get("row", call.output[:1])
    elif 0 < row < len(out):
        out[row] = call.output[row - 1]
    setting.memory["row"] = call.output[-1:].copy()
    return out


def stale_token(setting: FaultSetting, call: NodeCall) -> Array:
    """Each token has what belongs to the one before it; the first one its own."""
    before = setting.memory.get("row", call.output[:1]) if call.position else call.output[:1]
    setting.memory["row"] = call.output[-1:].copy()
    return np.concatenate([before, call.output[:-1]])


def fp16_overflow(setting: FaultSetting, call: NodeCall) -> Array:
    """Kept in float16: rounded, and Inf beyond `limit` (65504 unless an accumulator is scaled)."""
    gain = np.float32(65504 / setting.parameters["limit"])
    with np.errstate(over="ignore"):
        return np.asarray((call.output * gain).astype(np.float16).astype(np.float32) / gain, np.float32)


def head_swap(setting: FaultSetting, call: NodeCall) -> Array:
    """Two heads in each other's place."""
    out = call.output.copy()
    dim = setting.model.graph[call.node.stage].head_size
    heads = out if out.ndim == 3 else out.reshape(len(out), -1, dim).swapaxes(0, 1)
    heads[[0, 1]] = heads[[1, 0]]
    return out
