"""One engine in a process of its own, driven from outside: engines that are compared never share a process.

A worker answers commands with seconds, and is idle in between, so that two workers can be measured in turns.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from aprtui.errors import EngineError

PROMPT_SEED = 1


class Contestant(Protocol):
    """An engine as a benchmark sees it."""

    def prefill(self, tokens: Sequence[int]) -> None:
        """Evaluate `tokens` from an empty context."""

    def decode(self, tokens: Sequence[int]) -> None:
        """Evaluate `tokens` one by one, after what is in the context."""


@dataclass(frozen=True, slots=True)
class Job:
    """A measurement: `work` of `tokens` random token ids, for decoding after a prompt of one."""

    work: str
    tokens: int


class Worker:
    """A process that holds the contestant which `build` makes; use as a context manager."""

    def __init__(self, build: Callable[[], Contestant], vocabulary: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(child, build, vocabulary), daemon=True)
        self._process.start()
        child.close()

    def __enter__(self) -> Self:
        self._receive()
        return self

    def measure(self, job: Job) -> float:
        """Seconds that the contestant needs for `job`."""
        self._pipe.send(job)
        seconds = self._receive()
        assert isinstance(seconds, float)
        return seconds

    def peak_memory(self) -> int:
        """Bytes of the process that were resident at most."""
        self._pipe.send(None)
        peak = self._receive()
        assert isinstance(peak, int)
        return peak

    def _receive(self) -> object:
        try:
            answer: object = self._pipe.recv()
        except EOFError:
            raise EngineError("a benchmark worker died: see the messages above") from None
        if isinstance(answer, str):
            raise EngineError(answer)
        return answer

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join(5)
        self._process.kill()


def _serve(pipe: Connection, build: Callable[[], Contestant], vocabulary: int) -> None:
    try:
        contestant = build()
        pipe.send(True)
        while True:
            job = pipe.recv()
            pipe.send(_peak_memory() if job is None else _timed(contestant, job, vocabulary))
    except (EOFError, KeyboardInterrupt):
        return
    except Exception as error:  # noqa: BLE001 - the benchmark says what happened here, whatever it was
        pipe.send(f"benchmark worker: {type(error).__name__}: {error}")


def _timed(contestant: Contestant, job: Job, vocabulary: int) -> float:
    tokens = np.random.default_rng(PROMPT_SEED).integers(0, vocabulary, job.tokens + 1).tolist()
    work = contestant.prefill
    if job.work == "decode":
        contestant.prefill(tokens[:1])
        work = contestant.decode
    started = time.perf_counter()
    work(tokens[1:])
    return time.perf_counter() - started


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def private_bytes(process: int | str = "self") -> int:
    """Bytes that a process has for itself: `RssAnon` + `RssShmem`, without the mapped pages of files."""
    lines = (line.split() for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return sum(1024 * int(fields[1]) for fields in lines if fields and fields[0] in ("RssAnon:", "RssShmem:"))


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
