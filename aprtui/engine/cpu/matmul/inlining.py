"""Kernels that are only called by other kernels, as parts of these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def inlined(function: Function) -> Function:
    """A function that numba copies into each kernel that calls it.

    A kernel of its own would be compiled, and then optimised once more inside its caller: a third of the time that the
    first run spends on compiling the kernels of this package.
    """
    compiled: Function = numba.njit(nogil=True, error_model="numpy", inline="always")(function)
    return compiled
