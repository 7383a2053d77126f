"""Bugs of RoPE and positions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.evaluation.porting_bugs.bug import Array, BugCall
from aprtui.engine.rounding import round_bf16
from aprtui.model.config import ModelConfig
from aprtui.trace.graph import Node, RopeLayout, TokenMixer

_USUAL, _LONG = 1e4, 5e5


def other_base(call: BugCall) -> Array:
    """The base of another family of models: 10⁴, or 5 · 10⁵ where that is the model's own."""
    own = call.model.config.rope_of(call.node.layer).theta
    return _turned(call, theta=_LONG if abs(own - _USUAL) < 1 else _USUAL)


def half_exponent(call: BugCall) -> Array:
    """Frequencies base^(−i/d) in place of base^(−2i/d)."""
    return _turned(call, theta=call.model.config.rope_of(call.node.layer).theta ** 0.5)


def backwards(call: BugCall) -> Array:
    """The sign of the sine is wrong."""
    return _rotated(call, -_angles(call))


def stretched(call: BugCall) -> Array:
    """Positions are halved, as for a context twice as long."""
    return _turned(call, scale=2 * call.model.config.rope_of(call.node.layer).scale)


def other_layout(call: BugCall) -> Array:
    """Pairs of neighbours in place of halves, or the other way round."""
    graph = call.model.config.graph
    split = graph.rope_layout is RopeLayout.HALF_SPLIT
    layout = RopeLayout.INTERLEAVED if split else RopeLayout.HALF_SPLIT
    return call.with_config(graph=replace(graph, rope_layout=layout))


def of_other_kind(call: BugCall) -> Array:
    """As in the first layer of another kind: with its base, or turned at all where this layer turns nothing."""
    config = call.model.config
    others = (layer for layer in range(config.graph.layers) if is_other_kind(config, call.layer, layer))
    return call.honest(node=Node(next(others), call.node.stage))


def is_other_kind(config: ModelConfig, layer: int, other: int) -> bool:
    """Whether the two layers turn queries and keys, and otherwise."""
    graph = config.graph
    attends = graph.mixer(other) is TokenMixer.ATTENTION
    differs = config.rope_of(layer) != config.rope_of(other) or graph.has_rope(layer) != graph.has_rope(other)
    return attends and differs and graph.has_rope(other)


def one_later(call: BugCall) -> Array:
    """Positions start at 1."""
    return call.honest(shift=1)


def not_turned(call: BugCall) -> Array:
    return call.x


def turned_twice(call: BugCall) -> Array:
    return call.honest(call.honest())


def half_of_the_head(call: BugCall) -> Array:
    """Only the first half of each head's channels is turned."""
    graph = call.model.config.graph
    heads = call.heads(call.x)
    half = graph.head_dim // 2
    cut = np.ascontiguousarray(heads[..., :half]).reshape(len(heads), -1)
    turned = call.with_config(cut, graph=replace(graph, head_dim=half))
    return np.concatenate([turned.reshape(*heads.shape[:2], half), heads[..., half:]], -1).reshape(call.x.shape)


def bf16_angles(call: BugCall) -> Array:
    """Angles are computed in bfloat16: position times frequency has eight bits left."""
    return _rotated(call, round_bf16(_angles(call).astype(np.float32)).astype(np.float64))


def _angles(call: BugCall) -> NDArray[np.float64]:
    rope = call.model.config.rope_of(call.node.layer)
    return rope.angles(call.position, len(call.x), call.model.config.graph.head_dim, call.angles)


def _rotated(call: BugCall, angles: NDArray[np.float64]) -> Array:
    """Each head turned by `angles` `[T, dim / 2]`."""
    heads = call.heads(call.x).astype(np.float64)
    dim = heads.shape[-1]
    interleaved = call.model.config.graph.rope_layout is RopeLayout.INTERLEAVED
    first, second = (
        (slice(0, None, 2), slice(1, None, 2)) if interleaved else (slice(0, dim // 2), slice(dim // 2, None))
    )
    magnitude = call.model.config.rope_of(call.node.layer).magnitude
    cos, sin = np.cos(angles)[:, None] * magnitude, np.sin(angles)[:, None] * magnitude
    out = np.empty_like(heads)
    out[..., first] = heads[..., first] * cos - heads[..., second] * sin
    out[..., second] = heads[..., first] * sin + heads[..., second] * cos
    return out.reshape(call.x.shape).astype(np.float32)


def _turned(call: BugCall, **changes: float) -> Array:
    rope = replace(call.model.config.rope_of(call.node.layer), **changes)  # type: ignore[arg-type]
    return call.with_config(rope=rope, window_rope=None)
