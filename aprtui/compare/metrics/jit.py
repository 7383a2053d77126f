"""numba's decorators with types, for the kernels of this room. Imports numba: only `fused` imports this module.

Compiled code is kept on disk. numba notices changes of a kernel's own file only, so the folder is named by a digest of
all that the kernels are made from. It is set for the moment of decorating alone, because an engine that is loaded in
the same process has a folder of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.extending import intrinsic as _intrinsic

from aprtui.jit_cache import cached
from aprtui.resources import kernel_cache

Function = TypeVar("Function", bound=Callable[..., Any])

_SOURCES = ("fused.py", "jit.py", "totals.py")


def kernel(function: Function) -> Function:
    """Compile `function` on first use, kept on disk; runs without the interpreter lock, and cannot make arrays."""
    return _compiled(function, fastmath=False)


def reduction(function: Function) -> Function:
    """Like `kernel`, for loops over finite values that sum: the compiler may spread a sum over vector lanes.

    The order of the sum is then the compiler's choice, but depends on the number of values alone.
    """
    return _compiled(function, fastmath={"reassoc", "contract", "nnan", "ninf", "nsz"})


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose machine code is given as LLVM IR; see `numba.extending.intrinsic`."""
    wrapped: Callable[..., Any] = _intrinsic(function)
    return wrapped


def _compiled(function: Function, **options: Any) -> Function:
    # Without numba's memory management (`_nrt`), which counts every view of an array: 110 ns for a block of two rows.
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = _folder() or before
    try:
        compiled: Function = cached(numba.njit(nogil=True, error_model="numpy", _nrt=False, **options)(function))
    finally:
        numba.config.CACHE_DIR = before
    return compiled


@cache
def _folder() -> str | None:
    """The folder of these kernels; None where it cannot be made, and numba then looks for another."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((Path(__file__).parent / name).read_bytes())
    folder = kernel_cache() / f"compare-{digest.hexdigest()[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return str(folder)
