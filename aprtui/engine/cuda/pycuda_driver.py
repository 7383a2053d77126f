"""The driver behind the CUDA engine: PyCUDA. Nothing else in the project imports it.

PyCUDA keeps its stack of contexts by thread: make, use and close a driver on one thread (`device_thread`). It offers no
CUDA graphs: those are made by ctypes, on the driver library that it has loaded. Their capture is *relaxed*: the other
modes forbid the capturing thread to free device memory, which a garbage collection may do at any time.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pycuda.driver as cuda
from numpy.typing import DTypeLike, NDArray

from aprtui.engine.cuda.driver import Launch
from aprtui.errors import DeviceError, EngineError

_NON_BLOCKING = 1
"""Flag of a stream that does not wait for the null stream, which nothing of ours uses."""

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


class PyCudaDriver:
    """`Driver` of one device, on its primary context."""

    def __init__(self, ordinal: int) -> None:
        self._memory: dict[int, Any] = {}
        self._pinned: list[Any] = []
        self._graphs: list[Graph] = []
        self._stream: Any = None
        # What callers hold are numbers: a function that outlives the context would unload its module without one.
        self._functions: list[Any] = []
        self._events: dict[int, Any] = {}
        self._open = False
        with _told("making a context"):
            cuda.init()
            device = cuda.Device(ordinal)
            self._context = device.retain_primary_context()
            self._context.push()
            self._open = True
        try:
            self.memory, self.bus_id = int(device.total_memory()), str(device.pci_bus_id())
            self.multiprocessors = int(device.get_attribute(cuda.device_attribute.MULTIPROCESSOR_COUNT))
            with _told("making a stream"):
                self._stream = cuda.Stream(_NON_BLOCKING)
        except BaseException:
            self.close()
            raise

    def free_memory(self) -> int:
        with _told("asking for free memory"):
            return int(cuda.mem_get_info()[0])

    def allocate(self, size: int) -> int:
        with _told(f"allocating {size / 1e6:.1f} MB"):
            allocation = cuda.mem_alloc(size)
        self._memory[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        with _told("freeing memory"):
            self._memory.pop(address).free()

    def pinned(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        try:
            with _told("allocating pinned memory"):
                array: NDArray[Any] = cuda.pagelocked_empty(shape, dtype)
        except EngineError as error:
            if isinstance(error, DeviceError):
                raise
            size = np.dtype(dtype).itemsize * int(np.prod(shape))
            raise EngineError(
                f"this machine cannot lock {size / 1e6:.1f} MB of its own memory for copies to the device: "
                "end other programs, or raise the limit (ulimit -l)"
            ) from error
        self._pinned.append(array.base)
        return array

    def unpin(self, values: NDArray[Any]) -> None:
        memory: Any = values.base
        self._pinned.remove(memory)
        with _told("freeing pinned memory"):
            memory.free()

    def kernels(self, image: bytes, names: tuple[str, ...]) -> dict[str, int]:
        first = len(self._functions)
        with _told("loading kernels"):
            module = cuda.module_from_buffer(image)
            self._functions += [module.get_function(name) for name in names]
        return {name: first + index for index, name in enumerate(names)}

    def upload(self, address: int, values: NDArray[Any]) -> None:
        # On the stream: a copy outside of it may still be under way when the call returns, and order nothing here.
        whole = np.ascontiguousarray(values)  # named: it has to live until the copy is done
        self.copy_in(address, whole)
        self.synchronize()

    def copy_in(self, address: int, values: NDArray[Any]) -> None:
        with _told("copying to the device"):
            cuda.memcpy_htod_async(address, values, self._stream)

    def copy_out(self, values: NDArray[Any], address: int) -> None:
        with _told("copying from the device"):
            cuda.memcpy_dtoh_async(values, address, self._stream)

    def copy_within(self, target: int, source: int, size: int) -> None:
        with _told("copying on the device"):
            cuda.memcpy_dtod_async(target, source, size, self._stream)

    def launch(self, launch: Launch) -> None:
        # Not `prepared_async_call`: with packed arguments this one takes 0.5 µs instead of 3 to 6.
        with _told("launching a kernel"):
            self._functions[launch.kernel]._launch_kernel(  # noqa: SLF001
                launch.grid, launch.block, launch.arguments, launch.shared_bytes, self._stream
            )  # fmt: skip

    def capture(self, work: Callable[[], None]) -> Graph | None:
        try:
            graph = Graph(self._stream.handle, work)
        except CaptureRefusedError:
            return None
        self._graphs.append(graph)
        return graph

    def replay(self, graph: Graph) -> None:
        graph.launch()

    def discard(self, graph: Graph) -> None:
        self._graphs.remove(graph)
        graph.close()

    def mark(self, number: int) -> None:
        with _told("recording an event"):
            if number not in self._events:
                self._events[number] = cuda.Event(cuda.event_flags.DISABLE_TIMING)
            self._events[number].record(self._stream)

    def wait(self, number: int) -> None:
        with _told("waiting for kernels"):
            self._events[number].synchronize()

    def synchronize(self) -> None:
        with _told("waiting for kernels"):
            self._stream.synchronize()

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        held = (*self._memory.values(), *self._pinned)
        if self._works():
            for graph in self._graphs:
                graph.close()
            for allocation in held:
                allocation.free()
        else:
            _abandon(*held, *self._functions, *self._events.values(), self._stream)
        self._memory, self._pinned, self._graphs, self._functions, self._events = {}, [], [], [], {}
        self._stream = None
        with contextlib.suppress(cuda.Error):
            cuda.Context.pop()
        with contextlib.suppress(cuda.Error):
            self._context.detach()

    def _works(self) -> bool:
        try:
            if self._stream is not None:
                self._stream.synchronize()
        except cuda.Error:
            return False
        return True


def _abandon(*things: object) -> None:
    """Never free them: on a device that has failed PyCUDA would print a warning for each.

    The driver frees everything when the process ends.
    """
    for thing in things:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


@contextlib.contextmanager
def _told(doing: str) -> Iterator[None]:
    """Turn what PyCUDA raises into one line."""
    try:
        yield
    except cuda.MemoryError as error:
        raise EngineError(
            f"the device has no memory left ({doing}): {error}: lower --context, or end other programs that use it"
        ) from error
    except cuda.Error as error:
        raise DeviceError(f"the device failed ({doing}): {error}: open the engine again in a new process") from error
