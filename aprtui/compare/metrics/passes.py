"""Which pass adds a pair up: the compiled one, or numpy's for small pairs and where numba is missing.

Both have one definition; their sums differ by rounding alone (1e-12), as they add in another order.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cache
from importlib.util import find_spec

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from aprtui.compare.metrics import plain
from aprtui.compare.metrics.blocks import Rows, Values
from aprtui.compare.metrics.totals import BINS, PARTS, ROWS, Totals
from aprtui.machine import default_threads
from aprtui.progress import Progress

PIECE = 1 << 21
"""Values in one call of a kernel: some milliseconds, after which progress is reported and an interrupt is handled."""

MEASURING = "measuring values"


def add_up(a: Values, b: Values, totals: Totals, progress: Progress | None = None) -> None:
    """Add all of `a` and `b` (as `Rows.walked`) to `totals`."""
    if totals.parts > 1 and find_spec("numba") is not None:
        add_compiled(a, b, totals, most_threads(), progress)
        return
    for part in range(totals.parts):
        plain.add_part(a, b, totals, part)
        if progress:
            progress(MEASURING, totals.rows.size * (part + 1) // totals.parts, totals.rows.size)


def most_threads() -> int:
    """As many threads as this process has cores, at most one for each part."""
    return min(PARTS, default_threads())


def add_compiled(a: Values, b: Values, totals: Totals, threads: int, progress: Progress | None = None) -> None:
    """Add all of `a` and `b` to `totals` by compiled kernels in `threads` threads.

    An exception while it waits, an interrupt included, ends the threads after their current piece.
    """
    from aprtui.compare.metrics.fused import PartWorkspace, add_rows

    a, b = _rows_contiguous(a), _rows_contiguous(b)
    memory_a, memory_b = _memory(a), _memory(b)
    done = [0] * totals.parts
    stopped = threading.Event()

    def work(index: int) -> None:
        part = PartWorkspace.of(totals, index)
        for first, stop in _pieces(totals, index):
            if stopped.is_set():
                return
            places = _places(a, b, totals.rows, first, stop)
            for memory, begins in ((memory_a, places[:, 0]), (memory_b, places[:, 1])):
                _map_pages(memory[int(begins[0]) : int(begins[-1] + places[-1, 2])])
            add_rows(memory_a, memory_b, places, totals.sums[first:stop], part)
            done[index] += int(places[:, 2].sum())
        totals.histogram[index] += part.histogram.reshape(2, BINS).sum(0, dtype=np.int64)

    with ThreadPoolExecutor(threads) as pool:
        try:
            futures: set[Future[None]] = {pool.submit(work, part) for part in range(totals.parts)}
            while futures:
                finished, futures = wait(futures, timeout=0.1, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                if progress:
                    progress(MEASURING, sum(done), totals.rows.size)
        finally:
            stopped.set()


def _pieces(totals: Totals, part: int) -> list[tuple[int, int]]:
    """Ranges of rows of about `PIECE` values, `ROWS` or a multiple at a time."""
    first, end = totals.bounds[part : part + 2]
    step = ROWS * max(1, PIECE // (ROWS * max(1, totals.rows.width)))
    return [(at, min(at + step, end)) for at in range(first, end, step)]


_MADV_POPULATE_READ = 22
_PAGE = 4096


def _map_pages(memory: Values) -> None:
    """Enter the pages of a mapped file into the page table in one call, where the system (Linux 5.14) can.

    Otherwise every 64 kB cost a page fault, and two threads wait for each other at each.
    """
    advise = _madvise()
    if advise is not None and memory.size:
        begin = memory.ctypes.data & -_PAGE
        advise(begin, memory.ctypes.data + memory.nbytes - begin, _MADV_POPULATE_READ)


@cache
def _madvise() -> Callable[[int, int, int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    advise: Callable[[int, int, int], int] = function
    return advise


def _rows_contiguous(values: Values) -> Values:
    """`values`, copied where the values of a row do not lie side by side, or its rows backwards."""
    forward = min(values.strides) >= 0 and values.strides[-1] == values.itemsize
    return values if forward else np.ascontiguousarray(values)


def _memory(values: Values) -> Values:
    """The memory that `values` lie in, from the first value to the last, as one dimension."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(values.shape, values.strides, strict=True)) // 4
    return as_strided(values, (span,), (4,), writeable=False)


def _places(a: Values, b: Values, rows: Rows, first: int, stop: int) -> NDArray[np.int64]:
    """For each row: where it begins in the memory of a, and of b, its length, and its flat position."""
    index = np.arange(first, stop)
    position = index * rows.width
    if rows.flat:
        return np.stack([position, position, np.minimum(rows.width, rows.size - position), position], 1)
    group, token = np.divmod(index, rows.rows)
    begins = []
    for values in (a, b):
        steps = [stride // 4 for stride in values.strides]
        begins.append(group * steps[0] + token * steps[1] if rows.causal else token * steps[0])
    length = np.minimum(token + 1, rows.width) if rows.causal else np.full(index.size, rows.width)
    return np.stack([*begins, length, position], 1)
