"""The kernel of each opcode, compiled when a program first needs it, to be called by address.

Called by name, all kernels would be optimised once more inside every function above them: 26 s at a first start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import numba
from numba import types

from aprtui.engine.cpu import attention, products, rows, statistics
from aprtui.engine.cpu.program import Opcode
from aprtui.progress import Progress

Operation = Callable[[int, int, int, int, int], None]
"""`(instruction, control record, begin, end, scratch)`: addresses, and which pieces of the instruction to do.

Pieces are tokens, weight rows, attention blocks or stage tensors, as the opcode cuts them; `scratch` is the thread's.
"""

OPERATIONS: Mapping[Opcode, Operation] = MappingProxyType(
    {
        Opcode.EMBED: products.embed,
        Opcode.RMS_NORM: rows.rms_norm,
        Opcode.BIAS: rows.bias,
        Opcode.ROPE: rows.rope,
        Opcode.ADD: rows.add,
        Opcode.SILU: rows.silu,
        Opcode.MULTIPLY: rows.multiply,
        Opcode.STORE_KEYS: attention.store_keys,
        Opcode.STORE_VALUES: attention.store_values,
        Opcode.QUANTIZE: products.quantize,
        Opcode.MATMUL: products.matmul,
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
