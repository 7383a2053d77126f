"""A headless command that judges captures, run in a process of its own for a screen.

A screen shows what `aprtui diff … --json` or `aprtui replay … --json` prints, so the command that it copies says the
same. A crash ends the child and never the screen, the child's memory is freed when it ends, and killing it cancels.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from aprtui.errors import ExitCode
from aprtui.progress import RECORDS_VARIABLE, parse_progress_record

BYTES_A_POLL = 1 << 18
"""Read at once: records of 200 stages, 5 ms of parsing."""

_DONE = (ExitCode.PASS, ExitCode.DIVERGENCE, ExitCode.UNKNOWN)
_NAME = "aprtui: "


class Request(Protocol):
    """What a child is to do."""

    def words(self) -> list[str]:
        """The command as it would be typed, without how it reports."""


def path_word(path: Path) -> str:
    """A path that is not taken for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


@dataclass(frozen=True, slots=True)
class Record:
    """A record of the comparison (docs/diff-json.md)."""

    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Progressed:
    text: str


@dataclass(frozen=True, slots=True)
class Remark:
    """A warning of the command about its input, or the error that ended it."""

    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The comparison is over; `problem` says in one line why it has no verdict, empty where it has one."""

    problem: str = ""


Event = Record | Progressed | Remark | Ended


def _widen(pipe: int) -> None:
    """Let a pipe hold what a poll takes. One of the usual 64 KiB, emptied once a poll, is slower than the child.

    Only Linux can, and not where its limits of pipes are lower: then records come as they did.
    """
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, BYTES_A_POLL)


class ChildSource:
    """Runs one command at a time in a child process and reads its records as they come. Nothing here blocks."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._rests: dict[int, bytes] = {}
        self._last_remark = ""
        self._name = ""
        self._whole = False

    def start(self, request: Request) -> None:
        self.cancel()
        words = request.words()
        self._name = "the replay" if words[1] == "replay" else "the comparison"
        # The child finds the modules that this process finds. A session of its own keeps Ctrl-C in the terminal away.
        paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", *words, "--json"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths, RECORDS_VARIABLE: "1"}, start_new_session=True,
        )  # fmt: skip
        self._rests = {}
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            _widen(pipe.fileno())
            self._rests[pipe.fileno()] = b""
        self._last_remark, self._whole = "", False

    def poll(self) -> list[Event]:
        process = self._process
        if process is None:
            return []
        assert process.stdout is not None and process.stderr is not None
        events: list[Event] = [self._of_error(line) for line in self._lines(process.stderr.fileno())]
        events += [event for line in self._lines(process.stdout.fileno()) if (event := self._of_output(line))]
        if not self._rests and process.poll() is not None:
            events.append(Ended("" if self._whole and process.returncode in _DONE else self._cause(process.returncode)))
            self.cancel()
        return events

    def cancel(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()

    def _lines(self, pipe: int) -> list[bytes]:
        """Whole lines that have arrived on a pipe; at its end, what is left."""
        if pipe not in self._rests:
            return []
        try:
            data = os.read(pipe, BYTES_A_POLL)
        except BlockingIOError:
            return []
        if not data:
            rest = self._rests.pop(pipe)
            return [rest] if rest else []
        *lines, self._rests[pipe] = (self._rests[pipe] + data).split(b"\n")
        return lines

    def _of_output(self, line: bytes) -> Event | None:
        try:
            fields = json.loads(line)
        except ValueError:
            # Half a line of a child that died: its end tells why.
            return None
        self._whole |= fields.get("record") == "summary"
        return Record(fields)

    def _of_error(self, line: bytes) -> Event:
        text = line.decode(errors="replace").strip().removeprefix(_NAME)
        progress = parse_progress_record(text)
        if progress is not None:
            return Progressed(progress)
        self._last_remark = text or self._last_remark
        return Remark(text)

    def _cause(self, code: int) -> str:
        if code >= 0 and self._last_remark:
            return self._last_remark
        if code >= 0:
            return f"{self._name} ended with exit code {code} and no verdict"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = "unknown"
        return f"{self._name} was ended by signal {-code} ({name}): R or r runs it again"
