"""The threads of an engine: started once, asleep on a pipe between runs.

numba's own threading layers are not used: one of them spins for milliseconds when the machine is busy, another aborts
the process when two threads use it. A run is one call for the caller, in which no signal handler can break in between
waking the workers and joining them.
"""

from __future__ import annotations

import os
import threading

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.cpu.interpreter import enter


class ThreadTeam:
    """`threads - 1` workers that run programs together with the thread that calls `run`."""

    def __init__(self, control: NDArray[np.void], threads: int) -> None:
        self._address = control.ctypes.data
        self._waits = np.zeros((threads, 8), np.int64)
        control["address"] = self._address
        control["waits"] = self._waits.ctypes.data
        control["threads"] = threads
        self._read_end, self._write_end = os.pipe()
        self._workers = [
            threading.Thread(target=enter, args=(self._address, index, self._read_end), daemon=True)
            for index in range(1, threads)
        ]
        for worker in self._workers:
            worker.start()

    def run(self) -> None:
        """Execute the instructions that the control record names; returns when all are done."""
        enter(self._address, 0, self._write_end)

    def close(self) -> None:
        """End the workers; a second call does nothing."""
        if self._write_end < 0:
            return
        os.close(self._write_end)
        self._write_end = -1
        for worker in self._workers:
            worker.join()
        os.close(self._read_end)
