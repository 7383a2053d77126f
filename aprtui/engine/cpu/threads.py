"""The threads of an engine: started once, asleep between runs.

numba's own threading layers are not used: one of them spins for milliseconds when the machine is busy, another aborts
the process when two threads use it. A run is one call for the caller, in which no signal handler can break in between
waking the workers and joining them.
"""

from __future__ import annotations

import os
import threading
import weakref

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.cpu.interpreter import enter, wake


class ThreadTeam:
    """`threads - 1` workers that run programs together with the thread that calls `run`."""

    def __init__(self, control: NDArray[np.void], threads: int) -> None:
        self._address = control.ctypes.data
        waits = np.zeros((threads, 8), np.int64)
        control["address"] = self._address
        control["waits"] = waits.ctypes.data
        control["message"] = 1
        read_end, write_end = _channel()
        control["threads"] = 1
        enter(self._address, 0, write_end)  # an empty run: compiled by this thread, where an error can be reported
        control["threads"] = threads
        control["arrived"], waits[:] = 0, 0
        self._write_end = write_end
        workers = [
            threading.Thread(target=enter, args=(self._address, index, read_end), daemon=True)
            for index in range(1, threads)
        ]
        for worker in workers:
            worker.start()
        self._end = weakref.finalize(self, _end, control, waits, workers, (read_end, write_end))

    def run(self) -> None:
        """Execute the instructions that the control record names; returns when all are done."""
        assert self._end.alive, "the engine is closed"
        enter(self._address, 0, self._write_end)

    def close(self) -> None:
        """End the workers; a second call does nothing."""
        self._end()


def _end(
    control: NDArray[np.void], waits: NDArray[np.int64], workers: list[threading.Thread], channel: tuple[int, int]
) -> None:
    """End the workers. Holds the arrays until then, because the workers read them."""
    control["quit"] = 1
    wake(control.ctypes.data, channel[1])
    for worker in workers:
        worker.join()
    for descriptor in set(channel):
        os.close(descriptor)


def _channel() -> tuple[int, int]:
    """Descriptors to read and to write; each message of 8 bytes that is written can be read once.

    An event counter where the system has one. Writing to a pipe tells Linux that the writer is about to sleep, so that
    it puts the woken thread on the writer's own processor, where the two then wait for each other (1.9 times slower).
    """
    if hasattr(os, "eventfd"):
        descriptor = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_CLOEXEC)
        return descriptor, descriptor
    return os.pipe()
