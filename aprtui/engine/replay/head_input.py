"""What the input of the last matrix product was rounded to, as logits alone tell.

Logits are more than the channels that they are made of: these are solved from them, and lie on the levels of the type
that an engine rounds the inputs of its products to, to the last bits, or far off.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.replay.arithmetic import matmul_rounding
from aprtui.engine.replay.bounds import FLOAT32
from aprtui.engine.replay.recompute import CapturedStages
from aprtui.engine.rounding import ROUND
from aprtui.model.weights import Weight
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node

_ROWS = 3
"""Logits that are used, for each channel."""
_MOST_VALUES = 1 << 24
"""Of the weights of those: a second, and 128 MB in float64."""
_SOLVED = 1e-5
"""What the channels may leave of the logits: more where these were stored in 16 bits, which hides the levels."""
_SHARP = 1e-3
"""What the last bits of logits may move the channels by, relatively: levels are further apart."""
_OF_ALL_TOKENS = frozenset({"int8", "fp8"})
"""Types with one scale for all tokens, of which the last one does not tell it."""
_ON_LEVELS = 0.1
"""What rounding again may change, as a share of what it changes in values between levels."""


def is_rounded_to(stages: CapturedStages, stated: str) -> bool | None:
    """Whether the input of the product that makes the logits was rounded as `matmul_input=stated` says; None where the
    logits do not tell."""
    for node in stages.model.graph.nodes:
        stage = stages.model.graph[node.stage]
        if stage.holds_logits and stage.op is Op.MATMUL and stages.rows(node):
            weight, *more = stages.model.params(node)
            kind = matmul_rounding(stated, weight)
            if more or kind == "none" or (kind in _OF_ALL_TOKENS and stages.rows(node) > 1):
                return None
            channels = _channels(stages, node, weight)
            return None if channels is None else _is_on_levels(channels, kind)
    return None


def _channels(stages: CapturedStages, node: Node, weight: Weight) -> NDArray[np.float64] | None:
    """The input of the product `node` at the last token, solved from a part of its result."""
    logits = stages.values(node)[-1].astype(np.float64)
    usable = np.flatnonzero(stages.holds(node)[-1] & np.isfinite(logits))
    count = _ROWS * weight.columns
    if usable.size < count or count * weight.columns > _MOST_VALUES:
        return None
    tokens = np.sort(np.random.default_rng(0).permutation(usable)[:count])
    # The last number is what log-probabilities are less by.
    rows = np.pad(weight.dequantize(tokens.tolist()).astype(np.float64), ((0, 0), (0, 1)), constant_values=1.0)
    found, _, _, sizes = np.linalg.lstsq(rows, logits[tokens], rcond=None)
    left, size = np.linalg.norm(rows @ found - logits[tokens]), np.linalg.norm(logits[tokens])
    is_sharp = FLOAT32 * sizes[0] <= _SHARP * sizes[-1]
    return np.asarray(found[:-1]) if is_sharp and 0 < left <= _SOLVED * size else None


def _is_on_levels(channels: NDArray[np.float64], kind: str) -> bool:
    noise = np.random.default_rng(1).standard_normal(channels.shape) * channels.std() * 0.3
    return _moved_by(channels, kind) < _ON_LEVELS * _moved_by(channels + noise, kind)


def _moved_by(channels: NDArray[np.float64], kind: str) -> float:
    values = channels[None].astype(np.float32)
    return float(np.linalg.norm(ROUND[kind](values) - values))
