"""The trailing statistics kernel: what `trace.stats.accumulate` computes, over the stage buffers of a layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int32

from aprtui.engine.cpu.jit import kernel, reduction
from aprtui.engine.cpu.memory import array_at, bits_float, control_record, float32s, float_bits, instruction
from aprtui.engine.cpu.program import DESCRIPTOR, Where
from aprtui.trace.stats import SUMS

_FULL_EXPONENT = np.int32(0x7F800000)
_SIGN_MASK = np.int32(0x7FFFFFFF)
# -Inf and Inf as integers in the order of floats: what minimum and maximum start from.
_LOW, _HIGH = np.int32(-0x7F800001), np.int32(0x7F800000)


@reduction
def _row(values: Any, sums: Any) -> None:
    """Add one run of values to the sums. Minimum and maximum go by integers, so that the loop vectorises."""
    special, nan = int32(0), int32(0)
    low, high = _HIGH, _LOW
    total, squares = 0.0, 0.0
    for i in range(values.size):
        bits = float_bits(values[i])
        magnitude = int32(bits & _SIGN_MASK)
        finite = magnitude < _FULL_EXPONENT
        special = int32(special + int32(not finite))
        nan = int32(nan + int32(magnitude > _FULL_EXPONENT))
        ordered = int32(bits ^ int32(int32(bits >> int32(31)) & _SIGN_MASK))
        low = min(low, ordered if finite else _HIGH)
        high = max(high, ordered if finite else _LOW)
        wide = np.float64(bits_float(bits if finite else int32(0)))
        total += wide
        squares += wide * wide
    sums.count += values.size
    sums.nan += nan
    sums.inf += special - nan
    if special < values.size:
        sums.min = min(sums.min, _ordered_float(low))
        sums.max = max(sums.max, _ordered_float(high))
        sums.total += total
        sums.squares += squares


@kernel
def _ordered_float(ordered: Any) -> float:
    return np.float64(bits_float(int32(ordered ^ int32(int32(ordered >> int32(31)) & _SIGN_MASK))))


@kernel
def _describe(descriptor: Any, control: Any) -> None:
    """Statistics of one stage tensor into its row of the table; of maps, what has key ≤ query."""
    sums = array_at(control.statistics, descriptor.node + 1, SUMS)[descriptor.node]
    sums.count, sums.nan, sums.inf = 0, 0, 0
    sums.min, sums.max, sums.total, sums.squares = np.inf, -np.inf, 0.0, 0.0
    tokens, width = control.tokens, descriptor.width
    if descriptor.where == Where.STAGE:
        for token in range(tokens):
            _row(float32s(descriptor.source + 4 * token * width, width), sums)
    elif descriptor.where == Where.STATE:
        _row(float32s(descriptor.source, width), sums)
    elif descriptor.where == Where.LOGITS or descriptor.where == Where.CAPPED_LOGITS:  # noqa: PLR1714 – compiled
        logits = control.logits if descriptor.where == Where.LOGITS else control.capped_logits
        for token in range(tokens - control.wanted):
            _row(float32s(logits + 4 * token * width, width), sums)
    else:
        source = control.scores
        if descriptor.where != Where.SCORES:
            source = control.softmax if descriptor.where == Where.SOFTMAX else control.softcap
        keys = control.position + tokens
        for head in range(width):
            for token in range(tokens):
                _row(float32s(source + 4 * (head * tokens + token) * keys, control.position + token + 1), sums)


def statistics(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """Statistics of the stages with descriptors `begin … end - 1`."""
    step = instruction(step_address)[0]
    control = control_record(control_address)[0]
    descriptors = array_at(step.parameter, step.count, DESCRIPTOR)
    for index in range(begin, end):
        _describe(descriptors[index], control)
