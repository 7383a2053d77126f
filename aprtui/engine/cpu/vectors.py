"""Vector loops of the attention kernels as portable LLVM IR: the compiler maps 16 lanes onto what the CPU has.

Each lane is one sum, formed in order: over the channels of a head, or over the keys. So one row and four rows, one
token and many, and any number of threads give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types

from aprtui.engine.cpu.emit import F32, Emitter, Value, vector
from aprtui.engine.cpu.jit import intrinsic

LANES = 16
_VECTOR = vector(F32, LANES)


def _combination(rows: int) -> Callable[..., Any]:
    def combine(
        typing_context: Any, factors: Any, factor_stride: Any, count: Any, vectors: Any, vector_stride: Any,
        target: Any, target_stride: Any,
    ) -> Any:  # fmt: skip
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            e = Emitter(builder)
            factors, factor_stride, count, vectors, vector_stride, target, target_stride = args
            sources, targets = [factors], [target]
            for _ in range(rows - 1):
                sources.append(e.at(sources[-1], factor_stride))
                targets.append(e.at(targets[-1], target_stride))

            def body(index: Value, sums: list[Value]) -> list[Value]:
                values = e.load(e.at(vectors, builder.mul(index, vector_stride)), _VECTOR)
                shift = e.shifted(index, 2)
                factors = [e.load(e.at(source, shift), F32) for source in sources]
                return [
                    e.call(f"llvm.fmuladd.v{LANES}f32", _VECTOR, e.splat(factor, LANES), values, total)
                    for factor, total in zip(factors, sums, strict=True)
                ]

            start = [e.load(address, _VECTOR) for address in targets]
            for address, total in zip(targets, e.loop(count, start, body), strict=True):
                e.store(total, address)
            return context.get_dummy_value()

        return types.none(*[types.int64] * 7), emit

    return intrinsic(combine)


combine = _combination(1)
"""`combine(factors, factor_stride, count, vectors, vector_stride, target, target_stride)`: add `count` vectors of 16
float32, `vector_stride` bytes apart, each times its factor, to the vector at `target`, one after the other. (The other
strides are not used.)"""

combine_four = _combination(4)
"""The same for four rows of factors `factor_stride` bytes apart and four targets `target_stride` bytes apart."""
