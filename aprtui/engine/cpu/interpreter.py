"""The program's interpreter: every thread runs it over the same instructions and takes pieces of each.

Threads draw pieces from an atomic counter; which thread computes a piece changes no bit. Dependent instructions wait
for the pieces before them, not for the threads: a busy machine may suspend a thread for milliseconds. A waiting thread
spins for a few microseconds and then yields its time slice again and again.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numba import types

from aprtui.engine.cpu.attention import block_of
from aprtui.engine.cpu.experts import EXPERT_ROWS
from aprtui.engine.cpu.jit import kernel
from aprtui.engine.cpu.memory import (
    array_at,
    atomic_add,
    atomic_load,
    call,
    control_record,
    first_token,
    instruction,
    relax,
)
from aprtui.engine.cpu.program import INSTRUCTION, Opcode, control_offset

_SPINS = 200
"""Turns of about 13 ns. Longer spinning would keep the processor from the very thread that is waited for."""
_WEIGHT_ROWS = 64
"""Weight rows are cut at multiples of this: whole cache lines of results, whole strips of the matmul kernels."""
_MOST_ROWS = 4
"""Tokens that go through a run of row instructions at a time: few enough to stay in the second-level cache."""
_STEP = INSTRUCTION.itemsize
_ARRIVED, _QUIT, _MESSAGE = control_offset("arrived"), control_offset("quit"), control_offset("message")
_CLOCK = np.int32(time.CLOCK_MONOTONIC)

_sched_yield = types.ExternalFunction("sched_yield", types.int32())
_read = types.ExternalFunction("read", types.int64(types.int32, types.int64, types.int64))
_write = types.ExternalFunction("write", types.int64(types.int32, types.int64, types.int64))
_clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.int64))


@kernel
def _wait_until(place: int, count: int) -> None:
    """Wait until the int64 at address `place`, which only grows, has reached `count`."""
    spins = 0
    while atomic_load(place) < count:
        spins += 1
        if spins < _SPINS:
            relax()
        else:
            _sched_yield()


@kernel
def _charge(control: Any, index: int, since: int) -> int:
    """Add the nanoseconds since `since` to the duration of instruction `index` (−1: of none); returns the time.

    Reading the clock takes about 25 ns.
    """
    place = control.waits + 16
    _clock_gettime(_CLOCK, place)
    clock = array_at(place, 2, np.int64)
    now = clock[0] * 1_000_000_000 + clock[1]
    if index >= 0:
        durations = array_at(control.durations, index + 1, np.int64)
        durations[index] += now - since
    return int(now)


@kernel
def _cut(address: int, control: Any) -> Any:
    """How the instruction at `address` is cut: (first unit, end of its units, units of a piece)."""
    step = instruction(address)[0]
    if step.opcode == Opcode.ROWS:
        first = first_token(address, control)
        return first, control.tokens, min(_MOST_ROWS, max(1, (control.tokens - first) // (8 * control.threads)))
    if step.opcode == Opcode.MATMUL:
        share = step.heads // (8 * control.threads)
        return 0, step.heads, max(_WEIGHT_ROWS, (share + _WEIGHT_ROWS - 1) // _WEIGHT_ROWS * _WEIGHT_ROWS)
    if step.opcode == Opcode.EXPERT_MATMUL:
        # As many groups as there can be: a number that another instruction makes might be another one by now.
        groups = min(step.count, (control.tokens - first_token(address, control)) * step.kv_heads)
        return 0, groups * ((step.heads + EXPERT_ROWS - 1) // EXPERT_ROWS), 1
    if step.opcode == Opcode.ATTENTION:
        return 0, block_of(address, control)[2], 1
    return 0, step.count, 1


@kernel
def _treat(address: int, control: Any, begin: int, end: int, scratch: int) -> None:
    """Execute one piece of the instruction at `address`; of `ROWS`, through all instructions that follow it."""
    step = instruction(address)[0]
    if step.opcode == Opcode.ROWS:
        for part in range(1, step.count + 1):
            row_step = address + part * _STEP
            call(instruction(row_step)[0].function, row_step, control.address, begin, end, scratch)
    elif step.opcode == Opcode.ATTENTION:
        call(step.function, address, control.address, begin, end, scratch + control.attention_scratch)
    else:
        call(step.function, address, control.address, begin, end, scratch)


@kernel
def _execute(control: Any, thread: int) -> None:
    """Interpret the instructions `begin … end` as thread number `thread`; returns when all threads are done.

    An instruction with a barrier starts when all pieces of those before it are done. A thread that the system has
    suspended delays the others only while it owns a piece, and at the end of the run.

    Thread 0 takes the time. An instruction lasts until the next one starts, with the wait for its last piece;
    where two need no barrier between them, the first ends when thread 0 finds no more pieces of it.
    """
    scratch = control.scratch + thread * control.scratch_bytes
    index, done, pieces = control.begin, control.counters + 16 * control.begin + 8, 0
    timed, since = -1, 0
    while index < control.end:
        address, counter = control.program + index * _STEP, control.counters + 16 * index
        step = instruction(address)[0]
        if step.barrier:
            _wait_until(done, pieces)
            done, pieces = counter + 8, 0
        if thread == 0:
            since, timed = _charge(control, timed, since), index
        first, last, share = _cut(address, control)
        pieces += (last - first + share - 1) // share
        finished = 0
        begin = first + atomic_add(counter, 1) * share
        while begin < last:
            _treat(address, control, begin, min(begin + share, last), scratch)
            finished += 1
            begin = first + atomic_add(counter, 1) * share
        if finished:
            atomic_add(done, finished)
        index += 1 + (step.count if step.opcode == Opcode.ROWS else 0)
    arrivals = array_at(control.waits + 64 * thread, 1, np.int64)
    arrivals[0] += control.threads
    atomic_add(control.address + _ARRIVED, 1)
    _wait_until(control.address + _ARRIVED, arrivals[0])
    if thread == 0:
        _charge(control, timed, since)


@kernel
def wake(address: int, descriptor: int) -> None:
    """Wake every worker once, with a message of 8 bytes each on the channel `descriptor`."""
    control = control_record(address)[0]
    left = control.threads - 1
    while left > 0:
        left -= int(_write(np.int32(descriptor), address + _MESSAGE, 8) == 8)


@kernel
def enter(address: int, thread: int, descriptor: int) -> None:
    """Thread 0: one run of the instructions that the control record names, with the workers woken at its beginning.

    Any other: the loop of a worker. A message on the channel `descriptor` starts a run, or ends the thread if `quit` is
    set.
    """
    control = control_record(address)[0]
    if thread == 0:
        counters = array_at(control.counters, 2 * control.end, np.int64)
        for index in range(2 * control.begin, 2 * control.end):
            counters[index] = 0
        wake(address, descriptor)
        _execute(control, 0)
        return
    message = control.waits + 64 * thread + 8
    while True:
        if _read(np.int32(descriptor), message, 8) == 8:
            if atomic_load(address + _QUIT):
                return
            _execute(control, thread)


def compile_interpreter() -> None:
    """Compile `enter`, or load it from numba's cache."""
    enter.compile((types.int64,) * 3)  # type: ignore[attr-defined]
