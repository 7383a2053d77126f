"""The gated delta rule as engines compute prompts: 64 tokens at a time, with matrix products, in float32.

The result is that of one token after the other (Yang et al. 2024, arXiv:2412.06464), but logarithms of the decay are
summed over a chunk first, and what float32 loses of the sum is a relative error of all that decays by it: 5e-6 where a
head forgets within a few tokens. transformers, FLA and llama.cpp on some devices do that.

Shape suffixes: H = value heads, C = tokens of a chunk, D = channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.protocol import NodeEvaluator
from aprtui.engine.reference.recurrence import by_value_head
from aprtui.model.model import Model
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node

Array = NDArray[np.float32]

_CHUNK = 64


@dataclass(frozen=True, slots=True)
class ChunkedNodes:
    """`NodeEvaluator` that computes states and outputs of recurrences in chunks, all else with another; the caller
    closes that one."""

    evaluator: NodeEvaluator
    model: Model

    def evaluate(self, node: Node, inputs: Sequence[Array], *, tokens: Sequence[int], position: int) -> Array:
        op, config = self.model.graph[node.stage].op, self.model.config.graph
        if op is Op.DELTA_STATE and len(tokens) == 1:
            return _states_and_outputs(inputs, inputs[0], config)[0]
        if op is Op.DELTA_OUTPUT and len(tokens) > 1:
            missing = len(inputs[2]) - len(inputs[1])
            queries = np.concatenate([np.zeros((missing, inputs[1].shape[1]), np.float32), inputs[1]])
            return _states_and_outputs(inputs[2:], queries, config)[1][missing:]
        return self.evaluator.evaluate(node, inputs, tokens=tokens, position=position)

    def close(self) -> None:
        """Nothing of its own to release."""


def has_recurrence(model: Model) -> bool:
    """Whether the model has an op that is computed in chunks."""
    return any(stage.op is Op.DELTA_STATE for stage in model.graph.stages)


def _states_and_outputs(inputs: Sequence[Array], queries: Array, config: GraphConfig) -> tuple[Array, Array]:
    """The last state `[1, …]` and the outputs of all tokens, from keys, values, decays, rates and queries."""
    heads, dim = config.linear_value_heads, config.linear_head_dim
    keys, values, decays, rates = inputs
    state = np.zeros((heads, dim, dim), np.float32)
    outputs = np.empty((len(keys), heads, dim), np.float32)
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        for begin in range(0, len(keys), _CHUNK):
            rows = slice(begin, begin + _CHUNK)
            k, q = (by_value_head(x[rows], config).astype(np.float32).swapaxes(0, 1) for x in (keys, queries))
            v = values[rows].reshape(-1, heads, dim).swapaxes(0, 1)
            state, found = _chunk(state, (q * np.float32(dim**-0.5), k, v), decays[rows].T, rates[rows].T[..., None])
            outputs[rows] = found.swapaxes(0, 1)
    return state.swapaxes(1, 2).reshape(1, -1), outputs.reshape(len(keys), -1)


def _chunk(
    state_HDD: Array, qkv_HCD: tuple[Array, Array, Array], decays_HC: Array, rates_HC1: Array
) -> tuple[Array, Array]:
    """The state `[H, D, D]` (key × value channels) after a chunk, and its outputs `[H, C, D]`."""
    q, k, v = qkv_HCD
    summed = np.cumsum(decays_HC, axis=1, dtype=np.float32)
    lower = np.tri(summed.shape[1], dtype=np.bool_)
    between = np.exp(np.where(lower, summed[:, :, None] - summed[:, None, :], -np.inf), dtype=np.float32)
    own = np.eye(summed.shape[1], dtype=np.float32)
    system = own + np.where(lower & (own == 0), (k * rates_HC1) @ k.swapaxes(1, 2) * between, np.float32(0))
    since = np.exp(summed, dtype=np.float32)[..., None]
    if not np.isfinite(system).all():
        return np.full_like(state_HDD, np.nan), np.full_like(v, np.nan)
    changes = np.linalg.solve(system, v * rates_HC1) - np.linalg.solve(system, k * rates_HC1 * since) @ state_HDD
    outputs = (q * since) @ state_HDD + (q @ k.swapaxes(1, 2) * between) @ changes
    until = np.exp(summed[:, -1:] - summed, dtype=np.float32)[..., None]
    state = state_HDD * since[:, -1:] + (k * until).swapaxes(1, 2) @ changes
    return np.asarray(state, np.float32), np.asarray(outputs, np.float32)
