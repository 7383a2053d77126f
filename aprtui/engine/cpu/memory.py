"""Memory by address inside kernels: array views, bit patterns, and the atomics that threads meet on.

float16 is made by integer arithmetic: any CPU can do it, and loops over it vectorise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import int32, types, uint16
from numba.core.typing.npydecl import parse_dtype

from aprtui.engine.cpu.jit import intrinsic, kernel
from aprtui.engine.cpu.program import CONTROL, INSTRUCTION

_I32, _I64, _F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()

_SIGN = np.int32(0x8000)
_INFINITY = np.int32(0x7F800000)
_LARGEST_NORMAL = np.int32(0x47800000)  # 65536.0: from here on a float16 is Inf
_SMALLEST_NORMAL = np.int32(0x38800000)  # 2**-14
_SUBNORMAL_ROUND = np.float32(0.5)  # its last bit is worth the float16 subnormal step 2**-24


@intrinsic
def array_at(typing_context: Any, address: Any, count: Any, dtype: Any) -> Any:
    """The `count` values of type `dtype` at the int64 `address`, as an array.

    `numba.carray` does the same through a function of numba's own: each kernel that is taken from the cache would load
    the modules around that.
    """
    array = types.Array(parse_dtype(dtype), 1, "C")

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        from numba.np.arrayobj import make_array, populate_array

        kind = context.get_data_type(array.dtype)
        size = context.get_constant(types.intp, context.get_abi_sizeof(kind))
        view = make_array(array)(context, builder)
        data = builder.inttoptr(args[0], kind.as_pointer())
        populate_array(view, data=data, shape=[args[1]], strides=[size], itemsize=size, meminfo=None)
        return view._getvalue()  # noqa: SLF001 - how numba's own code takes it

    return array(types.int64, types.int64, dtype), emit


@kernel
def float32s(address: int, count: int) -> Any:
    """The `count` float32 values at `address`, as an array."""
    return array_at(address, count, np.float32)


@kernel
def halves(address: int, count: int) -> Any:
    """The bit patterns of the `count` float16 values at `address`, as an array of uint16."""
    return array_at(address, count, np.uint16)


@kernel
def instruction(address: int) -> Any:
    return array_at(address, 1, INSTRUCTION)


@kernel
def control_record(address: int) -> Any:
    return array_at(address, 1, CONTROL)


@kernel
def first_token(step_address: int, control: Any) -> int:
    """The first token of the chunk that an instruction computes."""
    return int(control.wanted) if instruction(step_address)[0].wanted else 0


@intrinsic
def call(typing_context: Any, function: Any, step: Any, control: Any, begin: Any, end: Any, scratch: Any) -> Any:
    """Call the compiled kernel at address `function`; see `operations`."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), (_I64,) * 5)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.none(*[types.int64] * 6), emit


@intrinsic
def float_bits(typing_context: Any, value: Any) -> Any:
    """The bit pattern of a float32, as int32."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _I32)

    return types.int32(types.float32), emit


@intrinsic
def bits_float(typing_context: Any, bits: Any) -> Any:
    """The float32 with the bit pattern of an int32."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _F32)

    return types.float32(types.int32), emit


@kernel
def half_from_float(value: Any) -> Any:
    """The bit pattern of `value` rounded to float16, to nearest, ties to even; overflow gives Inf."""
    bits = float_bits(value)
    sign = int32(int32(bits >> int32(16)) & _SIGN)
    magnitude = int32(bits & int32(0x7FFFFFFF))
    if magnitude > _INFINITY:
        return uint16(sign | int32(0x7E00))
    if magnitude >= _LARGEST_NORMAL:
        return uint16(sign | int32(0x7C00))
    if magnitude < _SMALLEST_NORMAL:
        # The sum's unit in the last place is the subnormal step: the addition itself rounds.
        shifted = bits_float(magnitude) + _SUBNORMAL_ROUND
        return uint16(sign | int32(float_bits(shifted) - float_bits(_SUBNORMAL_ROUND)))
    odd = int32(int32(magnitude >> int32(13)) & int32(1))
    rounded = int32(int32(magnitude + int32(0xFFF)) + odd)
    return uint16(sign | int32(int32(rounded >> int32(13)) - int32(int32(112) << int32(10))))


@intrinsic
def atomic_add(typing_context: Any, address: Any, amount: Any) -> Any:
    """Add to the int64 at `address`, sequentially consistent; returns the value before."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", builder.inttoptr(args[0], _I64.as_pointer()), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), emit


@intrinsic
def atomic_load(typing_context: Any, address: Any) -> Any:
    """The int64 at `address`; everything that its writer wrote earlier is visible afterwards (acquire)."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.load_atomic(builder.inttoptr(args[0], _I64.as_pointer()), "acquire", 8)

    return types.int64(types.int64), emit


@intrinsic
def relax(typing_context: Any) -> Any:
    """Tell the CPU that this thread spins (`pause` on x86, nothing elsewhere)."""
    x86 = binding.get_process_triple().startswith("x86_64")

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        if x86:
            void = ir.FunctionType(ir.VoidType(), ())
            builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), void), ())
        return context.get_dummy_value()

    return types.none(), emit
