"""Single values at an address, for loops written in numba: `load_f32(base, index)` and the like.

The index goes into a pointer offset of its own, so that LLVM recognises a walk through memory and vectorises it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types

from aprtui.engine.cpu.emit import F32, I8, I16, I32, Emitter
from aprtui.engine.cpu.jit import intrinsic


def _loader(element: Any, result: Any) -> Callable[..., Any]:
    def load(typing_context: Any, base: Any, index: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = builder.gep(builder.inttoptr(args[0], element.as_pointer()), [args[1]])
            return builder.load(pointer, align=1)

        return result(types.int64, types.int64), emit

    return intrinsic(load)


def _storer(element: Any, value: Any) -> Callable[..., Any]:
    def store(typing_context: Any, base: Any, index: Any, new: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.store(args[2], builder.gep(builder.inttoptr(args[0], element.as_pointer()), [args[1]]), align=1)
            return context.get_dummy_value()

        return types.none(types.int64, types.int64, value), emit

    return intrinsic(store)


load_f32 = _loader(F32, types.float32)
load_i32 = _loader(I32, types.int32)
load_i16 = _loader(I16, types.int16)
load_i8 = _loader(I8, types.int8)
store_f32 = _storer(F32, types.float32)
store_i32 = _storer(I32, types.int32)
store_i16 = _storer(I16, types.int16)
store_i8 = _storer(I8, types.int8)


@intrinsic
def half_at(typing_context: Any, base: Any, index: Any) -> Any:
    """The float16 at `base[index]`, as float32."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.gep(builder.inttoptr(args[0], I16.as_pointer()), [args[1]])
        return Emitter(builder).half_to_float(builder.load(pointer, align=1))

    return types.float32(types.int64, types.int64), emit


@intrinsic
def prefetch(typing_context: Any, address: Any) -> Any:
    """Ask for the cache line at an address, which need not exist."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        Emitter(builder).prefetch(args[0], 64)
        return context.get_dummy_value()

    return types.none(types.int64), emit
