"""The instructions that touch weights: matrix products, what their inputs are rounded to, and the embedding's rows."""

from __future__ import annotations

import numpy as np
from numba import carray

from aprtui.engine.cpu.matmul import dequantize_rows, matmul_rows, quantize_rows
from aprtui.engine.cpu.memory import control_record, first_token, instruction, pointer


def embed(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """Dequantise the embedding rows of the tokens `begin … end - 1`."""
    step = instruction(step_address)[0]
    control = control_record(control_address)[0]
    ids = carray(pointer(control.ids), (control.tokens,), np.int64)
    for token in range(begin, end):
        target = step.target + 4 * token * step.target_stride
        dequantize_rows(step.kind, step.other, step.other_stride, step.width, ids[token], ids[token] + 1, target)


def quantize(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """Round the rows `begin … end - 1` of a matmul's input, as far as they are wanted."""
    step = instruction(step_address)[0]
    control = control_record(control_address)[0]
    first = max(begin, first_token(step_address, control))
    quantize_rows(step.kind, step.source, step.width, first, end, step.target)


def matmul(step_address: int, control_address: int, begin: int, end: int, scratch: int) -> None:
    """Weight rows `begin … end - 1` times all tokens, or those that are wanted; logits go where the caller has them."""
    step = instruction(step_address)[0]
    control = control_record(control_address)[0]
    first = first_token(step_address, control)
    source = step.source + first * step.source_stride
    target = step.target + 4 * first * step.target_stride if step.target else control.logits
    if first < control.tokens:
        matmul_rows(
            step.kind, step.count, step.other, step.other_stride, step.width, source, step.source_stride,
            control.tokens - first, target, step.target_stride, begin, end, scratch,
        )  # fmt: skip
