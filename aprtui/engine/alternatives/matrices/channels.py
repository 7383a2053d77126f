"""Which channels of a product are off, and the rows of weights that they are computed with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.wording import ranges
from aprtui.engine.alternatives.alternative import MOST_VALUES
from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.model.model import Model
from aprtui.model.weights import Weight
from aprtui.trace.graph.stage import Node

Wide = NDArray[np.float64]
Places = NDArray[np.intp]

SAMPLED = 24
"""Channels that a number is solved for on."""
TOKENS = 16
"""Tokens of the same."""
BLOCK = 32
_OFF = 1e-4
"""Of a channel's size: what a channel must err by to be one of the wrong ones."""


def is_small(model: Model, node: Node) -> bool:
    """Whether all weights can be decoded as a whole."""
    return all(weight.rows * weight.columns <= MOST_VALUES for weight in model.params(node))


def wrong_channels(call: StageCall, found: Array) -> Places:
    own = call.honest().astype(np.float64)
    error = np.where(np.isfinite(found), found - own, 0.0)
    size = np.sqrt((own**2).mean()) or 1.0
    return np.flatnonzero(np.sqrt((error**2).mean(0)) > _OFF * size)


def offsets(weights: Sequence[Weight]) -> list[int]:
    return [0, *np.cumsum([weight.rows for weight in weights]).tolist()]


def rows_of(weights: Sequence[Weight], channels: Sequence[int]) -> Wide:
    """The rows `[channels, columns]` that channels of a product are computed with; fused ones have several weights."""
    starts = offsets(weights)
    parts = np.searchsorted(starts, np.asarray(channels), side="right") - 1
    rows = [weights[part].dequantize([channel - starts[part]]) for part, channel in zip(parts, channels, strict=True)]
    return np.concatenate(rows).astype(np.float64)


def some(places: Places, most: int) -> Places:
    return places[:: max(1, -(-len(places) // most))]


def channels_words(wrong: Places, width: int) -> str:
    return "" if wrong.size > width / 2 else f" in channels {ranges(wrong.tolist())}"


def in_channels(call: StageCall, x: Array, wrong: Places) -> Array:
    """The product of other inputs, where the wrong channels are few in these alone."""
    out, changed = call.honest().copy(), call.honest(x)
    if wrong.size > out.shape[1] / 2:
        return changed
    out[:, wrong] = changed[:, wrong]
    return out
