"""The ops of a recurrent layer in plain numpy: float64 inside, float32 out.

Shape suffixes: N = positions evaluated, the last ones, T = all positions so far (T ≥ N), C = channels, H = value heads,
D = channels of a head, S = numbers of a state, `[H, D, D]` as value channels × key channels. The key head of value head
h is h modulo the number of key heads, since converters put value heads in that order, or, with `grouped_value_heads`, h
divided by how many share one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from aprtui.model.weights import Weight
from aprtui.trace.graph.config import GraphConfig

Array = NDArray[np.float32]
Wide = NDArray[np.float64]


def convolution(x_TC: Array, weight: Weight, count: int) -> Array:
    """Each channel of the last `count` positions: weights `[C, K]` times those of the last K, zero before the first."""
    kernel = weight.dequantize().astype(np.float64).T
    first = x_TC.shape[0] - count
    padded = np.concatenate([np.zeros((len(kernel) - 1, x_TC.shape[1])), x_TC.astype(np.float64)])
    taps = [padded[first + tap : first + tap + count] * kernel[tap] for tap in range(len(kernel))]
    return np.asarray(np.sum(taps, axis=0), np.float32)


def head_l2_norm(x_NC: Array, head_dim: int, epsilon: float) -> Array:
    """Each head divided by the root of its sum of squares and `epsilon`."""
    heads = x_NC.reshape(x_NC.shape[0], -1, head_dim).astype(np.float64)
    scale = 1.0 / np.sqrt((heads * heads).sum(-1, keepdims=True) + epsilon)
    return np.asarray((heads * scale).reshape(x_NC.shape), np.float32)


def softplus(x_NH: Array, bias: Weight) -> Array:
    """log(1 + exp(x + bias)); the sum in float32."""
    x = (x_NH + bias.dequantize().reshape(-1)).astype(np.float64)
    return np.logaddexp(0.0, x).astype(np.float32)


def decay(x_NH: Array, factors: Weight) -> Array:
    """The logarithm of what a state is multiplied by at each position: `x` times a negative factor of each head."""
    return np.asarray(x_NH * factors.dequantize().reshape(-1), np.float32)


def delta_state(inputs: Sequence[Array], config: GraphConfig, count: int, initial: Array | None = None) -> Array:
    """The state after each of the last `count` positions, `[count, S]`.

    `inputs` are keys, values, logarithms of the decay and learning rates of all positions (Yang et al. 2024,
    arXiv:2412.06464): the state decays, and what it gives for the key goes towards the value by the learning rate. It
    begins with zeros, or with `initial`.
    """
    states = deque(_states(inputs, config, initial), count)
    return np.stack(states).reshape(count, -1).astype(np.float32)


def delta_output(
    state: Array, q_NC: Array, inputs: Sequence[Array], config: GraphConfig, initial: Array | None = None
) -> Array:
    """What the state after each position gives for its query over √D, `[N, C]`; `state` are those of the last ones.

    `inputs` and `initial` are as in `delta_state`, and not read where `state` has those of all rows.
    """
    count, dim = q_NC.shape[0], config.linear_head_dim
    given = state.reshape(-1, config.linear_value_heads, dim, dim).astype(np.float64)[-count:]
    q = by_value_head(q_NC, config) / np.sqrt(dim)
    missing = count - len(given)
    first = len(inputs[0]) - count if missing else 0
    computed = (wide for at, wide in enumerate(_states(inputs, config, initial) if missing else ()) if at >= first)
    rows = [np.einsum("hvk,hk->hv", next(computed), q[row]) for row in range(missing)]
    rows += [np.einsum("hvk,hk->hv", wide, q[missing + at]) for at, wide in enumerate(given)]
    return np.stack(rows).reshape(count, -1).astype(np.float32)


def _states(inputs: Sequence[Array], config: GraphConfig, initial: Array | None) -> Iterator[Wide]:
    """The state `[H, D, D]` after each position."""
    keys, values, decays, rates = inputs
    dim = config.linear_head_dim
    k = by_value_head(keys, config)
    v = values.reshape(len(values), -1, dim).astype(np.float64)
    state = np.zeros((config.linear_value_heads, dim, dim))
    if initial is not None:
        state = initial.reshape(state.shape).astype(np.float64)
    for at in range(len(k)):
        state = state * np.exp(decays[at].astype(np.float64))[:, None, None]
        held = np.einsum("hvk,hk->hv", state, k[at])
        change = (v[at] - held) * rates[at].astype(np.float64)[:, None]
        state = state + change[:, :, None] * k[at][:, None, :]
        yield state


def by_value_head(x_NC: Array, config: GraphConfig) -> Wide:
    """Queries or keys `[N, H, D]`, those of a key head for each of its value heads."""
    heads = x_NC.reshape(len(x_NC), config.linear_key_heads, config.linear_head_dim).astype(np.float64)
    each = config.linear_value_heads // config.linear_key_heads
    return np.repeat(heads, each, axis=1) if config.grouped_value_heads else np.tile(heads, (1, each, 1))
