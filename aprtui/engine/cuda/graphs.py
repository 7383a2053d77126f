"""CUDA graphs by ctypes, on the driver library that PyCUDA has loaded: PyCUDA itself does not offer them.

Capture is *relaxed*: the other modes forbid the capturing thread to free device memory, which a garbage collection may
do at any time.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from functools import cache

from aprtui.errors import DeviceError

_RELAXED = 2
_POINTER = ctypes.c_void_p
_SIGNATURES = {
    "cuStreamBeginCapture_v2": (_POINTER, ctypes.c_int),
    "cuStreamEndCapture": (_POINTER, ctypes.POINTER(_POINTER)),
    "cuGraphInstantiateWithFlags": (ctypes.POINTER(_POINTER), _POINTER, ctypes.c_ulonglong),
    "cuGraphLaunch": (_POINTER, _POINTER),
    "cuGraphExecDestroy": (_POINTER,),
    "cuGraphDestroy": (_POINTER,),
    "cuGetErrorString": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
}


class CaptureRefusedError(Exception):
    """The driver does not capture here; says which call it refused and why."""


class Graph:
    """What `work` queued on `stream` (a raw handle), to be launched there again and again.

    Raises `CaptureRefusedError` where the driver refuses; the stream is then as before.
    """

    def __init__(self, stream: int, work: Callable[[], None]) -> None:
        self._stream = _POINTER(stream)
        self._executable = _POINTER()
        graph = _captured(self._stream, work)
        try:
            _require("cuGraphInstantiateWithFlags", ctypes.byref(self._executable), graph, 0)
        finally:
            _driver().cuGraphDestroy(graph)

    def launch(self) -> None:
        status = _driver().cuGraphLaunch(self._executable, self._stream)
        if status:
            raise DeviceError(
                f"the device failed (launching a graph): cuGraphLaunch failed: {_text(status)}: open the engine again "
                "in a new process"
            )

    def close(self) -> None:
        """Free it; a second call does nothing."""
        if self._executable.value:
            _driver().cuGraphExecDestroy(self._executable)
            self._executable = _POINTER()


def _captured(stream: ctypes.c_void_p, work: Callable[[], None]) -> ctypes.c_void_p:
    _require("cuStreamBeginCapture_v2", stream, _RELAXED)
    graph = _POINTER()
    collecting = gc.isenabled()
    gc.disable()
    try:
        work()
    except BaseException:
        # The stream has to leave its capture, also when the work failed.
        _driver().cuStreamEndCapture(stream, ctypes.byref(graph))
        if graph.value:
            _driver().cuGraphDestroy(graph)
        raise
    finally:
        if collecting:
            gc.enable()
    _require("cuStreamEndCapture", stream, ctypes.byref(graph))
    return graph


@cache
def _driver() -> ctypes.CDLL:
    library = ctypes.CDLL("libcuda.so.1")
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, ctypes.c_int
    return library


def _require(name: str, *arguments: object) -> None:
    status = getattr(_driver(), name)(*arguments)
    if status:
        raise CaptureRefusedError(f"{name}: {_text(status)}")


def _text(status: int) -> str:
    text = ctypes.c_char_p()
    _driver().cuGetErrorString(status, ctypes.byref(text))
    return text.value.decode(errors="replace") if text.value else f"error {status}"
