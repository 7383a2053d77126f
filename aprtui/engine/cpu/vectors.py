"""Vector loops of the attention kernels as portable LLVM IR: the compiler maps 16 lanes onto what the CPU has.

A sum's order is fixed here, not by the compiler: it depends on the length alone, so that one query and many, and any
number of threads, give the same bits.
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


def _offset(builder: ir.IRBuilder, address: Any, offset: int) -> Any:
    return builder.add(address, ir.Constant(_I64, offset))


def _splat(builder: ir.IRBuilder, value: Any) -> Any:
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES))


def _multiply_add(builder: ir.IRBuilder, a: Any, b: Any, c: Any) -> Any:
    kind = ir.FunctionType(_VECTOR, (_VECTOR, _VECTOR, _VECTOR))
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
    return builder.call(function, (a, b, c))


def _lane_sum(builder: ir.IRBuilder, vector: Any) -> Any:
    """The sum of all lanes, by halves."""
    lanes = LANES
    while lanes > 1:
        lanes //= 2
        low, high = (
            builder.shuffle_vector(
                vector, vector, ir.Constant(ir.VectorType(_I32, lanes), list(range(start, start + lanes)))
            )
            for start in (0, lanes)
        )
        vector = builder.fadd(low, high)
    return builder.extract_element(vector, ir.Constant(_I32, 0))


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


def _dots(rows: int) -> Callable[..., Any]:
    def dots(typing_context: Any, x: Any, first: Any, stride: Any, vectors: Any, target: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            x, first, stride, vectors, target = args
            bases = [first]
            for _ in range(rows - 1):
                bases.append(builder.add(bases[-1], stride))

            def body(index: Any, sums: Sequence[Any]) -> list[Any]:
                shift = builder.mul(index, ir.Constant(_I64, 4 * LANES))
                value = _load(builder, builder.add(x, shift), _VECTOR)
                return [
                    _multiply_add(builder, value, _load(builder, builder.add(base, shift), _VECTOR), total)
                    for base, total in zip(bases, sums, strict=True)
                ]

            zero = ir.Constant(_VECTOR, [0.0] * LANES)
            for row, total in enumerate(_loop(builder, vectors, [zero] * rows, body)):
                _store(builder, _lane_sum(builder, total), _offset(builder, target, 4 * row))
            return context.get_dummy_value()

        return types.none(*[types.int64] * 5), emit

    return intrinsic(dots)


dot = _dots(1)
"""`dot(x, row, stride, vectors, target)`: the product of `x` and `row`, each of `vectors` × 16 float32, to `target`."""

four_dots = _dots(4)
"""The same for four rows `stride` bytes apart; each sum has the order that `dot` gives it."""


def _weighted_sums(width: int) -> Callable[..., Any]:
    def weighted_sums(typing_context: Any, weights: Any, count: Any, rows: Any, stride: Any, target: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            weights, count, rows, stride, target = args
            places = [4 * LANES * i for i in range(width)]

            def body(index: Any, sums: Sequence[Any]) -> list[Any]:
                weight = _splat(builder, _load(builder, builder.add(weights, builder.shl(index, _I64(2))), _F32))
                row = builder.add(rows, builder.mul(index, stride))
                return [
                    _multiply_add(builder, weight, _load(builder, _offset(builder, row, place), _VECTOR), total)
                    for place, total in zip(places, sums, strict=True)
                ]

            start = [_load(builder, _offset(builder, target, place), _VECTOR) for place in places]
            for place, total in zip(places, _loop(builder, count, start, body), strict=True):
                _store(builder, total, _offset(builder, target, place))
            return context.get_dummy_value()

        return types.none(*[types.int64] * 5), emit

    return intrinsic(weighted_sums)


weighted_sum = _weighted_sums(1)
"""`weighted_sum(weights, count, rows, stride, target)`: add to the 16 float32 at `target` `count` rows `stride` bytes
apart, each times its weight, row after row."""

four_weighted_sums = _weighted_sums(4)
"""The same for 64 float32."""
