"""Kernels of recurrent layers: the causal convolution, and the gated delta rule token after token.

What earlier tokens left lies in the storage: the last rows that the convolution needs, and the state of each head as
`[value channels, key channels]`, so that what a state gives for a key is one dot product a value channel. A head is one
piece of work and goes through all tokens of a chunk, always in the same order: threads, chunks, and prompt against
decoding change no bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32

from aprtui.engine.cpu.jit import kernel, reduction
from aprtui.engine.cpu.memory import array_at, control_record, float32s, instruction
from aprtui.engine.cpu.program import DELTA_INPUTS, DeltaPart
from aprtui.engine.cpu.rows import copy, exponential

_ZERO = np.float32(0)
_STATE, _OUTPUT = np.int64(DeltaPart.STATE), np.int64(DeltaPart.OUTPUT)


@kernel
def delta_scratch_bytes(head_dim: int) -> int:
    """Bytes of scratch that a thread needs: the state of a head."""
    return 4 * head_dim * head_dim


@kernel
def _row(step: Any, token: int) -> int:
    """The address of a row of the source; those before the chunk are the `heads` − 1 rows at `other`."""
    if token >= 0:
        return int(step.source + 4 * token * step.source_stride)
    return int(step.other + 4 * (token + step.heads - 1) * step.width)


def convolution(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """Of each channel, the sum of `heads` weights times its values at this token and those before.

    `parameter` holds the weights `[heads, width]`, that of the token itself last.
    """
    step = instruction(step_address)[0]
    for token in range(begin, end):
        target = float32s(step.target + 4 * token * step.target_stride, step.width)
        for i in range(step.width):
            target[i] = _ZERO
        for tap in range(step.heads):
            source = float32s(_row(step, token - step.heads + 1 + tap), step.width)
            weights = float32s(step.parameter + 4 * tap * step.width, step.width)
            for i in range(step.width):
                target[i] = target[i] + source[i] * weights[i]


def keep_rows(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """Keep the last rows of the source for the next chunk. Each is read before its place is written."""
    step, control = instruction(step_address)[0], control_record(control_address)[0]
    for kept in range(step.heads - 1):
        source = float32s(_row(step, control.tokens - step.heads + 1 + kept), step.width)
        copy(source, float32s(step.other + 4 * kept * step.width, step.width))


def softplus(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """log(1 + exp(x + bias)); beyond the sum in float64."""
    step = instruction(step_address)[0]
    vector = float32s(step.parameter, step.width)
    for token in range(begin, end):
        source = float32s(step.source + 4 * token * step.source_stride, step.width)
        target = float32s(step.target + 4 * token * step.target_stride, step.width)
        for i in range(step.width):
            x = np.float64(source[i] + vector[i])
            target[i] = float32(max(x, 0.0) + np.log1p(np.exp(-abs(x))))


def decay(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """Times the vector `parameter`."""
    step = instruction(step_address)[0]
    vector = float32s(step.parameter, step.width)
    for token in range(begin, end):
        source = float32s(step.source + 4 * token * step.source_stride, step.width)
        target = float32s(step.target + 4 * token * step.target_stride, step.width)
        for i in range(step.width):
            target[i] = source[i] * vector[i]


@reduction
def _dot(first: Any, second: Any) -> Any:
    total = _ZERO
    for i in range(first.size):
        total += first[i] * second[i]
    return total


@reduction
def _decayed_dot(state: Any, factor: Any, key: Any) -> Any:
    """Multiply `state` by `factor`; the dot product of it with `key`."""
    total = _ZERO
    for i in range(state.size):
        state[i] *= factor
        total += state[i] * key[i]
    return total


@kernel
def _change(state: Any, change: Any, key: Any) -> None:
    """Add `change` times `key` to `state`."""
    for i in range(state.size):
        state[i] += change * key[i]


@kernel
def _go_on(step: Any, places: Any, token: int, head: int, state: int) -> None:
    """One token of one head: its state goes on, and the output is what that gives for the query."""
    dim, key_head = step.width, head // step.heads % step.kv_heads
    query = float32s(places.queries + 4 * (token * places.queries_stride + key_head * dim), dim)
    key = float32s(places.keys + 4 * (token * places.keys_stride + key_head * dim), dim)
    value = float32s(places.values + 4 * (token * places.values_stride + head * dim), dim)
    factor = exponential(float32s(places.decays + 4 * (token * places.decays_stride + head), 1)[0])
    rate = float32s(places.rates + 4 * (token * places.rates_stride + head), 1)[0]
    scale, out = float32(step.scalar), float32s(step.target + 4 * (token * step.target_stride + head * dim), dim)
    for channel in range(dim):
        row = float32s(state + 4 * channel * dim, dim)
        change = (value[channel] - _decayed_dot(row, factor, key)) * rate
        _change(row, change, key)
        if step.kind & _OUTPUT:
            out[channel] = _dot(row, query) * scale


@kernel
def _read(step: Any, places: Any, token: int, head: int, state: int) -> None:
    """The output of one token of one head from the state after it."""
    dim, key_head = step.width, head // step.heads % step.kv_heads
    query = float32s(places.queries + 4 * (token * places.queries_stride + key_head * dim), dim)
    scale, out = float32(step.scalar), float32s(step.target + 4 * (token * step.target_stride + head * dim), dim)
    for channel in range(dim):
        out[channel] = _dot(float32s(state + 4 * channel * dim, dim), query) * scale


def delta_rule(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """The heads `begin … end - 1`: their states and outputs, or one of them.

    With the output alone, the state of the last token is the stage's. With it, that goes on to the next chunk.
    """
    step, control = instruction(step_address)[0], control_record(control_address)[0]
    places = array_at(step.parameter, 1, DELTA_INPUTS)[0]
    size = step.width * step.width
    for head in range(begin, end):
        carried = float32s(places.carried + 4 * head * size, size)
        stage = float32s(places.state + 4 * head * size, size)
        copy(carried, float32s(scratch, size))
        own = control.tokens if step.kind & _STATE else control.tokens - 1
        for token in range(own):
            _go_on(step, places, token, head, scratch)
        if step.kind & _STATE:
            copy(float32s(scratch, size), stage)
        else:
            _read(step, places, own, head, places.state + 4 * head * size)
        if step.kind & _OUTPUT:
            copy(stage, carried)
