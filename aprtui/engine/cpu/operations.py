"""The kernel of each opcode, compiled when a program first needs it, to be called by address.

Those that touch weights stand here: matrix products, what their inputs are rounded to, and the embedding's rows.

Called by name, all kernels would be optimised once more inside every function above them: 26 s at a first start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import numba
import numpy as np
from numba import carray, types

from aprtui.engine.cpu import attention, rows, statistics
from aprtui.engine.cpu.matmul import dequantize_rows, matmul_rows, quantize_rows
from aprtui.engine.cpu.memory import control_record, first_token, instruction, pointer
from aprtui.engine.cpu.program import Opcode
from aprtui.progress import Progress

Operation = Callable[[int, int, int, int, int], None]
"""`(instruction, control record, begin, end, scratch)`: addresses, and which pieces of the instruction to do.

Pieces are tokens, weight rows, attention blocks or stage tensors, as the opcode cuts them; `scratch` is the thread's.
"""


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


OPERATIONS: Mapping[Opcode, Operation] = MappingProxyType(
    {
        Opcode.EMBED: embed,
        Opcode.RMS_NORM: rows.rms_norm,
        Opcode.BIAS: rows.bias,
        Opcode.ROPE: rows.rope,
        Opcode.ADD: rows.add,
        Opcode.SILU: rows.silu,
        Opcode.MULTIPLY: rows.multiply,
        Opcode.STORE_KEYS: attention.store_keys,
        Opcode.STORE_VALUES: attention.store_values,
        Opcode.QUANTIZE: quantize,
        Opcode.MATMUL: matmul,
        Opcode.ATTENTION: attention.attention,
        Opcode.STATISTICS: statistics.statistics,
    }
)


def compile_operations(progress: Progress) -> None:
    """Compile every kernel, or load it from numba's cache; `progress(what, done, total)` is called along the way."""
    for done, opcode in enumerate(OPERATIONS):
        progress("compiling kernels", done, len(OPERATIONS))
        operation_address(opcode)
    progress("compiling kernels", len(OPERATIONS), len(OPERATIONS))


def operation_address(opcode: Opcode) -> int:
    """Address of an opcode's kernel, compiled or loaded from numba's cache."""
    return int(_compiled(opcode).address)


@cache
def _compiled(opcode: Opcode) -> Any:
    return numba.cfunc(types.void(*[types.int64] * 5), cache=True, error_model="numpy")(OPERATIONS[opcode])
