"""numba's decorators with types, and one set of options for every kernel of the CPU backend.

Kernels take raw addresses and int64 sizes, so that each has one specialisation only, and never touch a Python object,
so that they run without the interpreter lock. Floating-point errors give Inf and NaN, as the hardware does, and raise
nothing: an exception in one thread would leave the others waiting at a barrier.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from numba import types
from numba.extending import intrinsic as _intrinsic

from aprtui.jit_cache import CachedCallback, cached

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile `function` on first use, cached on disk; callable from Python (lock released) and from other kernels."""
    compiled: Function = cached(numba.njit(nogil=True, error_model="numpy")(function))
    return compiled


def callback(function: Callable[..., None], arguments: int) -> CachedCallback:
    """`function`, which takes so many int64, to be called by its `address`, which is valid while this object lives:
    compiled now, or taken from the cache on disk."""
    signature = types.void(*[types.int64] * arguments)
    compiled = CachedCallback(function, (signature.args, signature.return_type), {}, {"error_model": "numpy"})
    compiled.enable_caching()
    compiled.compile()
    return compiled


def renamed(function: Function, suffix: object) -> Function:
    """`function` with a name of its own, where one `def` makes several: compiled code is found by its name, also that
    which comes from numba's cache."""
    function.__name__ += f"_{suffix}"
    function.__qualname__ += f"_{suffix}"
    return function


def inlined(function: Function) -> Function:
    """A function that numba copies into each kernel that calls it.

    A kernel of its own would be compiled, and then optimised once more inside its caller: a third of the time that the
    first run spends on compiling the matrix products.
    """
    compiled: Function = numba.njit(nogil=True, error_model="numpy", inline="always")(function)
    return compiled


def reduction(function: Function) -> Function:
    """Like `kernel`, for loops that sum: the compiler may spread a sum over vector lanes.

    The order of the sum is then the compiler's choice but fixed: it depends on the number of values alone, so threads
    and chunks change no bit. Values are still NaN and Inf where they ought to be.
    """
    fastmath = {"reassoc", "contract"}
    compiled: Function = cached(numba.njit(nogil=True, error_model="numpy", fastmath=fastmath)(function))
    return compiled


def typed_intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """An intrinsic that sees an argument which is known where it is compiled, such as a weight type, as a literal.

    Its signature has to name that literal: numba keeps one implementation for each signature.
    """
    wrapped: Callable[..., Any] = _intrinsic(prefer_literal=True)(function)
    return wrapped


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose machine code is given as LLVM IR; see `numba.extending.intrinsic`."""
    wrapped: Callable[..., Any] = _intrinsic(function)
    return wrapped
