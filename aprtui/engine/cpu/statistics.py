"""The trailing statistics kernel: what `trace.stats.accumulate` computes, over the stage buffers of a layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, int32

from aprtui.engine.cpu.jit import kernel, reduction
from aprtui.engine.cpu.memory import bits_float, control_record, float32s, float64s, float_bits, instruction, pointer
from aprtui.engine.cpu.program import DESCRIPTOR, STATISTICS_FIELDS, Where

FIELDS = len(STATISTICS_FIELDS)

_FULL_EXPONENT = np.int32(0x7F800000)
_SIGN_MASK = np.int32(0x7FFFFFFF)
# -Inf and Inf as integers in the order of floats: what minimum and maximum start from.
_LOW, _HIGH = np.int32(-0x7F800001), np.int32(0x7F800000)


@reduction
def _row(values: Any, table: Any) -> None:
    """Add one run of values to a row of the table. Minimum and maximum go by integers, so that the loop vectorises."""
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
    table[0] += values.size
    table[1] += nan
    table[2] += special - nan
    if special < values.size:
        table[3] = min(table[3], _ordered_float(low))
        table[4] = max(table[4], _ordered_float(high))
        table[5] += total
        table[6] += squares


@kernel
def _ordered_float(ordered: Any) -> float:
    return np.float64(bits_float(int32(ordered ^ int32(int32(ordered >> int32(31)) & _SIGN_MASK))))


@kernel
def _describe(descriptor: Any, control: Any) -> None:
    """Statistics of one stage tensor into its row of the table; of maps, what has key ≤ query."""
    table = float64s(control.statistics + 8 * FIELDS * descriptor.node, FIELDS)
    for i in range(FIELDS):
        table[i] = 0.0
    table[3], table[4] = np.inf, -np.inf
    tokens, width = control.tokens, descriptor.width
    if descriptor.where == Where.STAGE:
        for token in range(tokens):
            _row(float32s(descriptor.source + 4 * token * width, width), table)
    elif descriptor.where == Where.LOGITS:
        for token in range(tokens - control.wanted):
            _row(float32s(control.logits + 4 * token * width, width), table)
    else:
        source = control.scores if descriptor.where == Where.SCORES else control.softmax
        keys = control.position + tokens
        for head in range(width):
            for token in range(tokens):
                _row(float32s(source + 4 * (head * tokens + token) * keys, control.position + token + 1), table)


def statistics(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """Statistics of the stages with descriptors `begin … end - 1`."""
    step = instruction(step_address)[0]
    control = control_record(control_address)[0]
    descriptors = carray(pointer(step.parameter), (step.count,), DESCRIPTOR)
    for index in range(begin, end):
        _describe(descriptors[index], control)
