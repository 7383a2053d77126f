"""The driver's own functions, by ctypes on the library that PyCUDA has loaded: what PyCUDA does not offer.

That is graphs, and launches that may begin early (`cuLaunchKernelEx`), for which PyCUDA's functions have no handle: so
modules are loaded here too.

Calls that only queue something keep the interpreter's lock: giving it away can cost the switch interval, where another
thread is at work, and they are done in microseconds. All others give it away.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any, cast

from aprtui.engine.cuda.driver import Launch

_POINTER = ctypes.c_void_p
_POINTERS = ctypes.POINTER(_POINTER)


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute, with one number as its value."""

    _fields_ = (("id", ctypes.c_int), ("padding", ctypes.c_int), ("value", ctypes.c_int), ("rest", ctypes.c_byte * 60))


class _Configuration(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3), ("shared_bytes", ctypes.c_uint),
        ("stream", _POINTER), ("attributes", ctypes.POINTER(_Attribute)), ("attribute_count", ctypes.c_uint),
    )  # fmt: skip


_BEGINS_EARLY = _Attribute(6, 0, 1)
"""CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION."""

_BUFFER, _BUFFER_SIZE, _END = 1, 2, 0  # CU_LAUNCH_PARAM_…
_OUT_OF_MEMORY = 2

_QUEUEING = {
    "cuLaunchKernelEx": (ctypes.POINTER(_Configuration), _POINTER, _POINTERS, _POINTERS),
    "cuGraphLaunch": (_POINTER, _POINTER),
}
_SIGNATURES = {
    "cuModuleLoadData": (_POINTERS, ctypes.c_char_p),
    "cuModuleGetFunction": (_POINTERS, _POINTER, ctypes.c_char_p),
    "cuModuleUnload": (_POINTER,),
    "cuStreamBeginCapture_v2": (_POINTER, ctypes.c_int),
    "cuStreamEndCapture": (_POINTER, _POINTERS),
    "cuGraphInstantiateWithFlags": (_POINTERS, _POINTER, ctypes.c_ulonglong),
    "cuGraphExecDestroy": (_POINTER,),
    "cuGraphDestroy": (_POINTER,),
    "cuGetErrorString": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
}


class DriverCallError(Exception):
    """The driver refused a call; says which one and why."""

    def __init__(self, name: str, status: int) -> None:
        super().__init__(f"{name} failed: {_text(status)}")
        self.out_of_memory = status == _OUT_OF_MEMORY


def call(name: str, *arguments: object) -> None:
    """Call a function of the driver. Raises `DriverCallError` where it fails."""
    status = _function(name)(*arguments)
    if status:
        raise DriverCallError(name, status)


def load_module(image: bytes) -> int:
    """The handle of a module. Raises `DriverCallError`."""
    module = _POINTER()
    call("cuModuleLoadData", ctypes.byref(module), image)
    assert module.value is not None
    return module.value


def function_of(module: int, name: str) -> int:
    """The handle of a kernel. Raises `DriverCallError`."""
    function = _POINTER()
    call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
    assert function.value is not None
    return function.value


def queue_kernel(function: int, launch: Launch, stream: int, *, early: bool) -> None:
    """Queue a kernel; `early` lets it begin before the kernel in front of it has ended. Raises `DriverCallError`."""
    attributes = ctypes.pointer(_BEGINS_EARLY) if early else None
    configuration = _Configuration(launch.grid, launch.block, launch.shared_bytes, stream, attributes, int(early))
    size = ctypes.c_size_t(len(launch.arguments))
    packed = ctypes.cast(ctypes.c_char_p(launch.arguments), _POINTER).value
    extra = (_POINTER * 5)(_BUFFER, packed, _BUFFER_SIZE, ctypes.addressof(size), _END)
    call("cuLaunchKernelEx", ctypes.byref(configuration), function, None, extra)


@cache
def _function(name: str) -> Callable[..., int]:
    library = ctypes.PyDLL("libcuda.so.1") if name in _QUEUEING else ctypes.CDLL("libcuda.so.1")
    function: Any = getattr(library, name)
    function.argtypes, function.restype = (_QUEUEING | _SIGNATURES)[name], ctypes.c_int
    return cast(Callable[..., int], function)


def _text(status: int) -> str:
    text = ctypes.c_char_p()
    _function("cuGetErrorString")(status, ctypes.byref(text))
    return text.value.decode(errors="replace") if text.value else f"error {status}"
