"""The program's interpreter: every thread runs it over the same instructions and takes pieces of each.

Threads draw pieces from an atomic counter, so that a thread that the system holds up delays the others by one piece at
most; which thread computes a piece changes no bit. Between dependent instructions they meet at a barrier: they spin
for a few microseconds and then give up their time slice again and again, since the machine may be busy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, types

from aprtui.engine.cpu.attention import block_of
from aprtui.engine.cpu.jit import kernel
from aprtui.engine.cpu.memory import atomic_add, atomic_load, call, control_record, instruction, pointer, relax
from aprtui.engine.cpu.program import CONTROL, INSTRUCTION, Opcode

_SPINS = 2000
_WEIGHT_ROWS = 32
"""Weight rows are cut at multiples of this, so that two threads never write to one cache line."""
_MOST_ROWS = 4
"""Tokens that go through a run of row instructions at a time: few enough to stay in the second-level cache."""
_STEP = np.int64(INSTRUCTION.itemsize)
_ARRIVED = np.int64(CONTROL.fields["arrived"][1])

_sched_yield = types.ExternalFunction("sched_yield", types.int32())
_read = types.ExternalFunction("read", types.int64(types.int32, types.int64, types.int64))
_write = types.ExternalFunction("write", types.int64(types.int32, types.int64, types.int64))


@kernel
def _meet(control: Any, arrived: int, waits: Any) -> None:
    """A barrier. The count of arrivals only grows, so nobody resets what a late thread still looks at."""
    waits[0] += control.threads
    atomic_add(arrived, 1)
    spins = 0
    while atomic_load(arrived) < waits[0]:
        spins += 1
        if spins < _SPINS:
            relax()
        else:
            _sched_yield()


@kernel
def _take_rows(first: int, control: Any, counter: int, scratch: int) -> None:
    """The instructions that follow the `ROWS` instruction at address `first`, a few tokens at a time."""
    count = instruction(first)[0].count
    share = min(_MOST_ROWS, max(1, control.tokens // (8 * control.threads)))
    while True:
        begin = atomic_add(counter, 1) * share
        if begin >= control.tokens:
            return
        end = min(begin + share, control.tokens)
        for part in range(1, count + 1):
            step = first + part * _STEP
            call(instruction(step)[0].function, step, control.address, begin, end, scratch)


@kernel
def _take_pieces(step: int, control: Any, pieces: int, share: int, counter: int, scratch: int) -> None:
    """Pieces of the instruction at address `step`, `share` at a time."""
    function = instruction(step)[0].function
    while True:
        begin = atomic_add(counter, 1) * share
        if begin >= pieces:
            return
        call(function, step, control.address, begin, min(begin + share, pieces), scratch)


@kernel
def _take(address: int, control: Any, counter: int, scratch: int) -> None:
    """This thread's part of the instruction at `address`."""
    step = instruction(address)[0]
    if step.opcode == Opcode.ROWS:
        _take_rows(address, control, counter, scratch)
    elif step.opcode == Opcode.MATMUL:
        share = step.heads // (8 * control.threads)
        share = max(_WEIGHT_ROWS, (share + _WEIGHT_ROWS - 1) // _WEIGHT_ROWS * _WEIGHT_ROWS)
        _take_pieces(address, control, step.heads, share, counter, scratch)
    elif step.opcode == Opcode.ATTENTION:
        pieces = block_of(step, control)[2]
        _take_pieces(address, control, pieces, 1, counter, scratch + control.attention_scratch)
    elif step.opcode == Opcode.STATISTICS:
        _take_pieces(address, control, step.count, 1, counter, scratch)


@kernel
def _execute(control: Any, thread: int) -> None:
    """Interpret the instructions `begin … end` as thread number `thread`; returns when all threads are done."""
    waits = carray(pointer(control.waits + 64 * thread), (1,), np.int64)
    arrived = control.address + _ARRIVED
    scratch = control.scratch + thread * control.scratch_bytes
    index = control.begin
    while index < control.end:
        address = control.program + index * _STEP
        step = instruction(address)[0]
        if step.barrier:
            _meet(control, arrived, waits)
        _take(address, control, control.counters + 8 * index, scratch)
        index += 1 + (step.count if step.opcode == Opcode.ROWS else 0)
    _meet(control, arrived, waits)


@kernel
def _wake(control: Any, descriptor: int) -> None:
    """Start the workers on a run."""
    counters = carray(pointer(control.counters), (control.end,), np.int64)
    counters[control.begin :] = 0
    left = control.threads - 1
    while left > 0:
        left -= max(0, _write(np.int32(descriptor), control.counters, left))


@kernel
def enter(address: int, thread: int, descriptor: int) -> None:
    """Thread 0: one run of the instructions that the control record names; `descriptor` is the pipe's end to write to.

    Any other: a worker's life; `descriptor` is the end to read from. A byte starts a run, the end of file ends the
    thread.
    """
    control = control_record(address)[0]
    if thread == 0:
        _wake(control, descriptor)
        _execute(control, 0)
        return
    while True:
        count = _read(np.int32(descriptor), control.waits + 64 * thread + 8, 1)
        if count == 0:
            return
        if count == 1:
            _execute(control, thread)
