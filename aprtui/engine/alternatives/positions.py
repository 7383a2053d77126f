"""Wrong ways of RoPE and positions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.engine.rounding import round_bf16
from aprtui.model.config import ModelConfig, Rope
from aprtui.trace.graph.config import RopeLayout
from aprtui.trace.graph.stage import Node, TokenMixer

Wide = NDArray[np.float64]

_USUAL, _LONG = 1e4, 5e5


def own_rope(call: StageCall) -> Rope:
    """The RoPE of the model, as the engine of the capture takes the file to say."""
    return call.model.config.rope_of(call.node.layer).as_read(call.angles)


def other_base(call: StageCall) -> Array:
    """The base of another family of models: 10⁴, or 5 · 10⁵ where that is the model's own."""
    own = own_rope(call).theta
    return turned(call, theta=_LONG if abs(own - _USUAL) < 1 else _USUAL)


def half_exponent(call: StageCall) -> Array:
    """Frequencies base^(−i/d) in place of base^(−2i/d)."""
    return turned(call, theta=own_rope(call).theta ** 0.5)


def backwards(call: StageCall) -> Array:
    """The sign of the sine is wrong."""
    return rotated(call, -angles(call))


def stretched(call: StageCall) -> Array:
    """Positions are halved, as for a context twice as long."""
    return turned(call, scale=2 * own_rope(call).scale)


def other_layout(call: StageCall) -> Array:
    """Pairs of neighbours in place of halves, or the other way round."""
    return call.with_config(**of_other_layout(call))


def of_other_layout(call: StageCall) -> dict[str, object]:
    """The configuration of `other_layout`."""
    graph = call.model.config.graph
    split = graph.rope_layout is RopeLayout.HALF_SPLIT
    return {"graph": replace(graph, rope_layout=RopeLayout.INTERLEAVED if split else RopeLayout.HALF_SPLIT)}


def of_other_kind(call: StageCall) -> Array:
    """As in the first layer of another kind: with its base, or turned at all where this layer turns nothing."""
    config = call.model.config
    others = (layer for layer in range(config.graph.layers) if is_other_kind(config, call.layer, layer))
    return call.honest(node=Node(next(others), call.node.stage))


def is_other_kind(config: ModelConfig, layer: int, other: int) -> bool:
    """Whether the other layer turns queries and keys, and otherwise than this one."""
    graph = config.graph
    attends = graph.mixer(other) is TokenMixer.ATTENTION
    differs = config.rope_of(layer) != config.rope_of(other) or graph.has_rope(layer) != graph.has_rope(other)
    return attends and differs and graph.has_rope(other)


def one_later(call: StageCall) -> Array:
    """Positions start at 1."""
    return call.honest(shift=1)


def not_turned(call: StageCall) -> Array:
    return call.x


def turned_twice(call: StageCall) -> Array:
    return call.honest(call.honest())


def half_of_the_head(call: StageCall) -> Array:
    """Only the first half of each head's channels is turned."""
    return call.with_config(graph=replace(call.model.config.graph, rope_dim=call.head_dim // 2))


def bf16_angles(call: StageCall) -> Array:
    """Angles are computed in bfloat16: position times frequency has eight bits left."""
    return rotated(call, round_bf16(angles(call).astype(np.float32)).astype(np.float64))


def angles(call: StageCall) -> Wide:
    """What the model turns each pair by, `[T, pairs]`."""
    return own_rope(call).angles(call.position, len(call.x), call.model.config.graph.rotated, call.angles)


def moved(call: StageCall, shift: int) -> Array:
    """As at positions that are off by as much, before the first one as well: no engine's cache has room for those."""
    shifted = own_rope(call).angles(call.position + shift, len(call.x), call.model.config.graph.rotated, call.angles)
    return rotated(call, shifted)


def angles_at(call: StageCall, position: int) -> Wide:
    """The same at one position, `[1, pairs]`."""
    return own_rope(call).angles(position, 1, call.model.config.graph.rotated)


def pairs_of(call: StageCall, x: Array) -> NDArray[np.complex128]:
    """The channels of `x` that are turned together, as complex numbers `[T, heads, pairs]`."""
    first, second = _halves(call)
    heads = call.heads(x).astype(np.float64)
    return np.asarray(heads[..., first] + 1j * heads[..., second])


def _halves(call: StageCall) -> tuple[slice, slice]:
    graph = call.model.config.graph
    dim = graph.rotated
    if graph.rope_layout is RopeLayout.INTERLEAVED:
        return slice(0, dim, 2), slice(1, dim, 2)
    return slice(0, dim // 2), slice(dim // 2, dim)


def rotated(call: StageCall, angles: Wide) -> Array:
    """Each head turned by `angles` `[T, pairs]`."""
    return multiplied(call, np.exp(1j * angles))


def multiplied(call: StageCall, turns: NDArray[np.complex128]) -> Array:
    """The channel pairs of each head times `turns` `[T, pairs]`."""
    turned = pairs_of(call, call.x) * turns[:, None]
    turned *= own_rope(call).magnitude
    first, second = _halves(call)
    out = call.heads(call.x).astype(np.float64)
    out[..., first], out[..., second] = turned.real, turned.imag
    return out.reshape(call.x.shape).astype(np.float32)


def turned(call: StageCall, **changes: object) -> Array:
    """As a RoPE of other numbers turns."""
    return call.with_config(**of_other_rope(call, **changes))


def of_other_rope(call: StageCall, **changes: object) -> dict[str, object]:
    """The configuration of a RoPE of other numbers."""
    rope = replace(own_rope(call), **changes)  # type: ignore[arg-type]
    return {"rope": rope, "window_rope": None}
