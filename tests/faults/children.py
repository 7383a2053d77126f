"""Work in a child process that is killed, or told to end, at a line of this package: a fork, which costs no start."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import Any

from aprtui.cli.main import main

PACKAGE = f"{os.sep}aprtui{os.sep}"


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a fork; the code or minus the signal that it ended by."""
    pid = os.fork()
    if not pid:
        try:
            work()
        except SystemExit as ended:
            os._exit(ended.code if isinstance(ended.code, int) else 1)
        except BaseException:  # noqa: BLE001 - the parent sees the exit code
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def count_lines(
    work: Callable[[], object], end_at: int = 0, half_write: int = 0, number: signal.Signals = signal.SIGKILL,
    within: str = PACKAGE,
) -> int:  # fmt: skip
    """Run `work`, and send this process a signal at a line of the package, or of the file that `within` names, or
    after half of a positional write.

    Returns how many lines there were.
    """
    lines = writes = 0
    real = os.pwrite

    def pwrite(descriptor: int, data: Any, offset: int) -> int:
        nonlocal writes
        writes += 1
        if writes == half_write:
            real(descriptor, data[: len(data) // 2], offset)
            os.kill(os.getpid(), number)
        return real(descriptor, data, offset)

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if within not in frame.f_code.co_filename:
            return None
        if event == "line":
            lines += 1
            if lines == end_at:
                os.kill(os.getpid(), number)
        return trace

    os.pwrite = pwrite
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
        os.pwrite = real
    return lines


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended, and what it wrote to stdout and stderr."""

    code: int
    text: str

    @property
    def last(self) -> str:
        return self.text.strip().rpartition("\n")[2]


def said(words: str, folder: Path, around: Callable[[Callable[[], None]], object] = lambda run: run()) -> Said:
    """Run a command in a child in `folder`, without a terminal; `around` is what is done with it there."""
    read_end, write_end = os.pipe()

    def command() -> None:
        main(shlex.split(words))

    def work() -> None:
        for descriptor in (1, 2):
            os.dup2(write_end, descriptor)
        sys.stdin = open(os.devnull)  # noqa: SIM115 - the process ends with it
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115 - the same
        os.chdir(folder)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
        try:
            around(command)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()

    chunks: list[bytes] = []
    reader = Thread(target=lambda: chunks.extend(iter(lambda: os.read(read_end, 65536), b"")))
    reader.start()
    code = in_child(work)
    os.close(write_end)
    reader.join()
    os.close(read_end)
    return Said(code, b"".join(chunks).decode(errors="replace"))
