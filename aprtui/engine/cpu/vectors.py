"""Vector loops of the attention kernels as portable LLVM IR: the compiler maps 16 lanes onto what the CPU has.

Each lane is one sum, formed in order: over the channels of a head, or over the keys. So one row and four rows, one
token and many, and any number of threads give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from aprtui.engine.cpu.jit import intrinsic

LANES = 16
_I32, _I64, _F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()
_VECTOR = ir.VectorType(_F32, LANES)


def _load(builder: ir.IRBuilder, address: Any, kind: ir.Type) -> Any:
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = 4
    return value


def _store(builder: ir.IRBuilder, value: Any, address: Any) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = 4


def _splat(builder: ir.IRBuilder, value: Any) -> Any:
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES))


def _multiply_add(builder: ir.IRBuilder, a: Any, b: Any, c: Any) -> Any:
    kind = ir.FunctionType(_VECTOR, (_VECTOR, _VECTOR, _VECTOR))
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
    return builder.call(function, (a, b, c))


def _loop(
    builder: ir.IRBuilder, count: Any, carried: Sequence[Any], body: Callable[[Any, Sequence[Any]], Sequence[Any]]
) -> list[Any]:
    """`for i in range(count)` with values carried from turn to turn; returns their final values. `count` may be 0."""
    before = builder.block
    head = builder.append_basic_block("head")
    inside = builder.append_basic_block("body")
    after = builder.append_basic_block("after")
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(_I64)
    state = [builder.phi(value.type) for value in carried]
    builder.cbranch(builder.icmp_signed("<", index, count), inside, after)
    builder.position_at_end(inside)
    results = body(index, state)
    index.add_incoming(ir.Constant(_I64, 0), before)
    index.add_incoming(builder.add(index, ir.Constant(_I64, 1)), builder.block)
    for phi, first, later in zip(state, carried, results, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(later, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return state


def _combination(rows: int) -> Callable[..., Any]:
    def combine(
        typing_context: Any, factors: Any, factor_stride: Any, count: Any, vectors: Any, vector_stride: Any,
        target: Any, target_stride: Any,
    ) -> Any:  # fmt: skip
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            factors, factor_stride, count, vectors, vector_stride, target, target_stride = args
            sources, targets = [factors], [target]
            for _ in range(rows - 1):
                sources.append(builder.add(sources[-1], factor_stride))
                targets.append(builder.add(targets[-1], target_stride))

            def body(index: Any, sums: Sequence[Any]) -> list[Any]:
                vector = _load(builder, builder.add(vectors, builder.mul(index, vector_stride)), _VECTOR)
                shift = builder.mul(index, ir.Constant(_I64, 4))
                factors = [_load(builder, builder.add(source, shift), _F32) for source in sources]
                return [
                    _multiply_add(builder, _splat(builder, factor), vector, total)
                    for factor, total in zip(factors, sums, strict=True)
                ]

            start = [_load(builder, address, _VECTOR) for address in targets]
            for address, total in zip(targets, _loop(builder, count, start, body), strict=True):
                _store(builder, total, address)
            return context.get_dummy_value()

        return types.none(*[types.int64] * 7), emit

    return intrinsic(combine)


combine = _combination(1)
"""`combine(factors, factor_stride, count, vectors, vector_stride, target, target_stride)`: add `count` vectors of 16
float32, `vector_stride` bytes apart, each times its factor, to the vector at `target`, one after the other. (The other
strides are not looked at.)"""

combine_four = _combination(4)
"""The same for four rows of factors `factor_stride` bytes apart and four targets `target_stride` bytes apart."""
