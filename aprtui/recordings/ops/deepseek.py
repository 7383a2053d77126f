"""Ops that one family of models has: DeepSeek's indexer, and the hyper-connections of its fourth version."""

from __future__ import annotations

import numpy as np

from aprtui.recordings.ops.elementwise import repeated, sigmoid
from aprtui.recordings.ops.operands import Array, Operands

_STREAMS = 4


def lightning_indexer(op: Operands) -> Array:
    """Scores of keys for each query: heads' products, none below zero, weighted and summed, plus the mask."""
    q, k, weights, mask = (op.values(index) for index in range(4))
    scores = np.maximum(np.einsum("bthd,bsd->bths", q, k[:, :, 0]), 0)
    total = np.einsum("bths,bth->bts", scores, weights[:, 0])
    return np.asarray(total + repeated(mask[:, 0], (*q.shape[:2], mask.shape[-1])))[:, None].reshape(op.shape)


def hyper_connection_in(op: Operands) -> Array:
    """The weighted sum of the streams."""
    streams, weights = op.values(0)[0], op.values(1)[0]
    weights = sigmoid(weights) if op.whole("gated") else weights[0][:, :, None]
    return np.asarray(op.number("scale") * (streams * weights).sum(1)).reshape(op.shape)


def hyper_connection_out(op: Operands) -> Array:
    """A layer's output to each stream, beside the mixed streams."""
    values, streams, shares = op.values(0)[0, 0], op.values(1)[0], op.values(2)[0, 0]
    mixed = np.einsum("tse,tsd->tde", streams, op.values(3)[0]) if op.has(3) else streams
    return np.asarray(values[:, None] * shares[:, :, None] + mixed).reshape(op.shape)


def hyper_connection_mix(op: Operands) -> Array:
    """Sinkhorn's normalisation of how streams are mixed."""
    mixes, scales, biases = op.values(0)[0, 0], op.values(1).reshape(-1), op.values(2).reshape(-1)
    epsilon = op.number("epsilon")
    first = 2 * _STREAMS
    mixed = (mixes[:, first:] * scales[2] + biases[first:]).reshape(-1, _STREAMS, _STREAMS)
    mixed = np.exp(mixed - mixed.max(-1, keepdims=True))
    mixed = mixed / mixed.sum(-1, keepdims=True) + epsilon
    mixed = mixed / (mixed.sum(1, keepdims=True) + epsilon)
    for _ in range(1, op.whole("rounds")):
        mixed = mixed / (mixed.sum(2, keepdims=True) + epsilon)
        mixed = mixed / (mixed.sum(1, keepdims=True) + epsilon)
    return np.asarray(mixed).reshape(op.shape)
