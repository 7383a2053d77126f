"""The driver behind the CUDA engine: PyCUDA. Nothing else in the project imports it.

PyCUDA keeps its stack of contexts by thread: make, use and close a driver on one thread (`device_thread`). Kernels and
graphs go past it (`driver_library`). Capture is *relaxed*: the other modes forbid the capturing thread to free device
memory, which a garbage collection may do at any time.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pycuda.driver as cuda
from numpy.typing import DTypeLike, NDArray

from aprtui.engine.cuda.driver import Launch
from aprtui.engine.cuda.driver_library import DriverCallError, call, function_of, load_module, queue_kernel
from aprtui.errors import DeviceError, EngineError

_NON_BLOCKING = 1
"""Flag of a stream that does not wait for the null stream, which nothing of ours uses."""

_RELAXED = 2


class Graph:
    """What `work` queued on `stream` (a raw handle), to be launched there again and again.

    Raises `DriverCallError` where the driver refuses; the stream is then as before.
    """

    def __init__(self, stream: int, work: Callable[[], None]) -> None:
        self._stream = stream
        self._executable = ctypes.c_void_p()
        graph = _captured(stream, work)
        try:
            call("cuGraphInstantiateWithFlags", ctypes.byref(self._executable), graph, 0)
        finally:
            call("cuGraphDestroy", graph)

    def launch(self) -> None:
        call("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Free it; a second call does nothing."""
        if self._executable.value:
            call("cuGraphExecDestroy", self._executable)
            self._executable = ctypes.c_void_p()


def _captured(stream: int, work: Callable[[], None]) -> ctypes.c_void_p:
    call("cuStreamBeginCapture_v2", stream, _RELAXED)
    graph = ctypes.c_void_p()
    collecting = gc.isenabled()
    gc.disable()
    try:
        work()
    except BaseException:
        # The stream has to leave its capture, also when the work failed.
        with contextlib.suppress(DriverCallError):
            call("cuStreamEndCapture", stream, ctypes.byref(graph))
            call("cuGraphDestroy", graph)
        raise
    finally:
        if collecting:
            gc.enable()
    call("cuStreamEndCapture", stream, ctypes.byref(graph))
    return graph


class PyCudaDriver:
    """`Driver` of one device, on its primary context."""

    def __init__(self, ordinal: int) -> None:
        self._memory: dict[int, Any] = {}
        self._pinned: list[Any] = []
        self._graphs: list[Graph] = []
        self._stream: Any = None
        self._modules: list[int] = []
        self._functions: list[int] = []
        self._events: dict[int, Any] = {}
        self._begins_early = True
        """Whether kernels that wait themselves are put into graphs so that they may begin early."""
        self._early = self._behind_kernel = False
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
            self._modules.append(load_module(image))
            self._functions += [function_of(self._modules[-1], name) for name in names]
        return {name: first + index for index, name in enumerate(names)}

    def upload(self, address: int, values: NDArray[Any]) -> None:
        # On the stream: a copy outside of it may still be under way when the call returns, and order nothing here.
        whole = np.ascontiguousarray(values)  # named: it has to live until the copy is done
        self.copy_in(address, whole)
        self.synchronize()

    def copy_in(self, address: int, values: NDArray[Any]) -> None:
        self._behind_kernel = False
        with _told("copying to the device"):
            cuda.memcpy_htod_async(address, values, self._stream)

    def copy_out(self, values: NDArray[Any], address: int) -> None:
        self._behind_kernel = False
        with _told("copying from the device"):
            cuda.memcpy_dtoh_async(values, address, self._stream)

    def copy_within(self, target: int, source: int, size: int) -> None:
        self._behind_kernel = False
        with _told("copying on the device"):
            cuda.memcpy_dtod_async(target, source, size, self._stream)

    def launch(self, launch: Launch) -> None:
        function, stream = self._functions[launch.kernel], self._stream.handle
        if self._early and self._behind_kernel and launch.waits_itself:
            queue_kernel(function, launch, stream, early=True)  # a refusal ends the capture
        else:
            with _told("launching a kernel"):
                queue_kernel(function, launch, stream, early=False)
        self._behind_kernel = True

    def capture(self, work: Callable[[], None]) -> Graph | None:
        """See `Driver`. Where the driver refuses early beginnings, it is asked again without them, and no more."""
        graph = self._captured(work, early=True) if self._begins_early else None
        if graph is None:
            graph = self._captured(work, early=False)
            self._begins_early = self._begins_early and graph is None
        if graph is not None:
            self._graphs.append(graph)
        return graph

    def _captured(self, work: Callable[[], None], *, early: bool) -> Graph | None:
        self._early, self._behind_kernel = early, False
        try:
            return Graph(self._stream.handle, work)
        except DriverCallError:
            return None
        finally:
            self._early = self._behind_kernel = False

    def replay(self, graph: Graph) -> None:
        with _told("launching a graph"):
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
            for module in self._modules:
                call("cuModuleUnload", module)
        else:
            _abandon(*held, *self._events.values(), self._stream)
        self._memory, self._pinned, self._graphs, self._events = {}, [], [], {}
        self._modules, self._functions = [], []
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
    """Turn what PyCUDA and the driver raise into one line."""
    try:
        yield
    except (cuda.Error, DriverCallError) as error:
        if isinstance(error, cuda.MemoryError) or getattr(error, "out_of_memory", False):
            raise EngineError(
                f"the device has no memory left ({doing}): {error}: lower --context, or end other programs that use it"
            ) from error
        raise DeviceError(f"the device failed ({doing}): {error}: open the engine again in a new process") from error
