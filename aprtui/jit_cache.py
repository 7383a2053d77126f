"""Kernels from numba's cache, without what numba would need to compile one. Imports numba."""

from __future__ import annotations

from typing import Any

from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc
from numba.core.runtime import rtsys


class KernelCache(FunctionCache):  # type: ignore[misc]  # numba has no types
    """numba's cache on disk, which loads machine code and nothing else.

    numba loads the rules by which it types and lowers all of Python and numpy before it looks into the cache: a quarter
    of a second, and most of a warm start after `import numba`. What is compiled needs its run time alone; a kernel that
    is not in the cache has the rules loaded when it is compiled.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)


class CachedCallback(CFunc):
    """What `numba.cfunc(signature, cache=True)` makes, with a `KernelCache`."""

    def enable_caching(self) -> None:
        self._cache = KernelCache(self.__wrapped__)


def cached(dispatcher: Any) -> Any:
    """What `numba.njit` has made, with a `KernelCache` in the folder that is configured now."""
    if hasattr(dispatcher, "_cache"):
        dispatcher._cache = KernelCache(dispatcher.py_func)  # noqa: SLF001 - numba has no name for another cache
    else:
        dispatcher.enable_caching()
    return dispatcher
