"""Recurrent ops: convolutions and states that go through the tokens one after the other.

Outputs of ggml's recurrent ops are results and states in one: the results of all tokens, then the states that are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from aprtui.recordings.ops.elementwise import softplus
from aprtui.recordings.ops.operands import Array, Operands


def _joined(op: Operands, results: Array, states: Array) -> Array:
    return np.concatenate([results.reshape(-1), states.reshape(-1)]).reshape(op.shape)


def _kept(op: Operands) -> int:
    """How many of the latest states are kept."""
    return op.whole("kept_states") or 1


def ssm_conv(op: Operands) -> Array:
    """A causal convolution of each channel; the first source begins with the tokens before."""
    values, taps = op.values(0), op.values(1)[0, 0]
    windows = np.lib.stride_tricks.sliding_window_view(values, taps.shape[-1], -1)
    return np.asarray(np.einsum("abctk,ck->abtc", windows, taps)).reshape(op.shape)


def ssm_scan(op: Operands) -> Array:
    """The selective scan of Mamba (Gu & Dao 2023, arXiv:2312.00752): states `[heads, channels, state]` of each
    sequence."""
    states, x, dt, decay, b, c = (op.values(index) for index in range(6))
    ids, kept = op.values(6).reshape(-1), _kept(op)
    sequences, tokens, heads, channels = x.shape
    group = np.arange(heads) // (heads // b.shape[2])
    out, last = np.empty(x.shape), np.zeros((kept, sequences, heads, channels, states.shape[-1]))
    dt = softplus(dt.reshape(sequences, tokens, heads))
    for sequence in range(sequences):
        state = states[ids[sequence]].copy()
        for token in range(tokens):
            step = dt[sequence, token]
            state = state * np.exp(step[:, None] * decay[0, 0])[:, None, :]
            state += (x[sequence, token] * step[:, None])[..., None] * b[sequence, token][group][:, None, :]
            out[sequence, token] = np.einsum("hrc,hc->hr", state, c[sequence, token][group])
            if tokens - 1 - token < kept:
                last[tokens - 1 - token, sequence] = state
    return _joined(op, out, last)


def gated_delta_net(op: Operands) -> Array:
    """The gated delta rule (Yang et al. 2024, arXiv:2412.06464): states `[heads, value, key]` of each sequence."""
    q, k, v, gate, beta, before = (op.values(index) for index in range(6))
    sequences, tokens, heads, width = v.shape
    kept = _kept(op)
    out, last = np.empty(v.shape), np.zeros((kept, sequences, heads, width, width))
    q_heads, k_heads = np.arange(heads) % q.shape[2], np.arange(heads) % k.shape[2]
    states = before.reshape(sequences, heads, width, width)
    for sequence in range(sequences):
        state = states[sequence].copy()
        q_from, k_from = sequence // (sequences // q.shape[0]), sequence // (sequences // k.shape[0])
        for token in range(tokens):
            key, query = k[k_from, token][k_heads], q[q_from, token][q_heads]
            factor = np.exp(gate[sequence, token])
            state = state * (factor[:, None, :] if gate.shape[-1] == width else factor[:, :, None])
            error = (v[sequence, token] - np.einsum("hji,hi->hj", state, key)) * beta[sequence, token]
            state = state + error[:, :, None] * key[:, None, :]
            out[sequence, token] = np.einsum("hji,hi->hj", state, query) / math.sqrt(width)
            if tokens - 1 - token < kept:
                last[tokens - 1 - token, sequence] = state
    return _joined(op, out, last)


def _steps(op: Operands, count: int) -> Iterator[tuple[int, int, list[Array]]]:
    """Of RWKV's ops: each token's number, its sequence, its rows `[heads, channels]` of the first `count` sources."""
    tokens, heads = op.source(1).shape[1:3]
    width = op.shape[-1] // heads
    sequences = op.source(len(op.sources) - 1).shape[2]
    rows = [op.values(index).reshape(tokens, heads, width) for index in range(count)]
    for token in range(tokens):
        yield token, token // (tokens // sequences), [values[token] for values in rows]


def _states(op: Operands) -> tuple[Array, Array]:
    """The states `[sequences, heads, channels, channels]` of the last source, and room for results."""
    tokens, heads = op.source(1).shape[1:3]
    width = op.shape[-1] // heads
    last = len(op.sources) - 1
    states = op.values(last).reshape(op.source(last).shape[2], heads, width, width).copy()
    return states, np.empty((tokens, heads, width))


def rwkv_wkv6(op: Operands) -> Array:
    """RWKV-6 (Peng et al. 2024, arXiv:2404.05892)."""
    states, out = _states(op)
    tokens, heads, width = out.shape
    decay, first = op.values(4).reshape(tokens, heads, width), op.values(3).reshape(heads, width)
    for token, sequence, (key, value, query) in _steps(op, 3):
        pair = key[:, :, None] * value[:, None, :]
        out[token] = np.einsum("hij,hi->hj", pair * first[:, :, None] + states[sequence], query)
        states[sequence] = states[sequence] * decay[token][:, :, None] + pair
    return _joined(op, out, states)


def gated_linear_attention(op: Operands) -> Array:
    """Gated linear attention (Yang et al. 2023, arXiv:2312.06635)."""
    states, out = _states(op)
    for token, sequence, (key, value, query, decay) in _steps(op, 4):
        states[sequence] = states[sequence] * decay[:, :, None] + key[:, :, None] * value[:, None, :]
        out[token] = np.einsum("hij,hi->hj", states[sequence], query) * op.number("scale")
    return _joined(op, out, states)


def rwkv_wkv7(op: Operands) -> Array:
    """RWKV-7 (Peng et al. 2025, arXiv:2503.14456)."""
    states, out = _states(op)
    for token, sequence, (query, decay, key, value, a, b) in _steps(op, 6):
        state = states[sequence]
        removed = np.einsum("hij,hj->hi", state, a)
        state = state * decay[:, None, :] + value[:, :, None] * key[:, None, :] + removed[:, :, None] * b[:, None, :]
        states[sequence] = state
        out[token] = np.einsum("hij,hj->hi", state, query)
    return _joined(op, out, states)
