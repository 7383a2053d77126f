"""A program in a pseudo-terminal, measured from outside: frames as they are sent, processor time, private memory.

The program is told that the terminal takes synchronised output (mode 2026), so every frame it sends is delimited and
can be counted: what is timed is the frame as a terminal gets it.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from aprtui.bench.worker import private_bytes
from aprtui.errors import EngineError

FRAME_END = b"\x1b[?2026l"
_QUERY, _REPLY = b"\x1b[?2026$p", b"\x1b[?2026;1$y"
_ESCAPES = re.compile(rb"\x1b(\[[0-9;?<>=]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\-_])")

QUIET = 0.06
"""Seconds without another frame after which a key is taken to be answered in full."""


def _take_terminal() -> None:
    """Make the terminal the session's own: if this process is killed, the program gets a hang-up signal."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class PseudoTerminal:
    """Runs `command` in a terminal of the given size; everything that it sends is read as fast as it comes."""

    def __init__(self, command: Sequence[str], columns: int, rows: int) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509  # no threads yet, and it makes one system call
            env={**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"},
        )  # fmt: skip
        os.close(slave)
        self.frames: list[float] = []
        """When each frame had been received whole."""
        self.received = 0
        self._text = bytearray()
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        rest = b""
        while True:
            try:
                data = os.read(self._master, 1 << 16)
            except OSError:
                data = b""
            now = time.perf_counter()
            if not data:
                break
            if _QUERY in data:
                os.write(self._master, _REPLY)
            with self._changed:
                self.received += len(data)
                self.frames += [now] * (rest + data).count(FRAME_END)
                self._text += data
                del self._text[: -(1 << 20)]
                self._changed.notify_all()
            rest = data[-len(FRAME_END) + 1 :]
        with self._changed:
            self._changed.notify_all()

    def text(self) -> str:
        """The end of the output, without escape sequences: words of one run stand together, positions are lost."""
        with self._changed:
            sent = bytes(self._text)
        return _ESCAPES.sub(b"\n", sent).decode(errors="replace")

    def wait_for(self, pattern: str, seconds: float = 60.0) -> re.Match[str]:
        """Wait until `pattern` has been sent; gives the newest match. Raises `EngineError` where it does not come."""
        deadline = time.perf_counter() + seconds
        while True:
            found = list(re.finditer(pattern, self.text()))
            if found:
                return found[-1]
            if self._process.poll() is not None or time.perf_counter() > deadline:
                shown = " ".join(self.text().split())[-300:]
                raise EngineError(f"the app did not show {pattern!r} within {seconds:.0f} s: it showed {shown!r}")
            time.sleep(0.01)

    def forget(self) -> None:
        with self._changed:
            self._text.clear()

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def time_key(self, keys: str, seconds: float = 10.0, quiet: float = QUIET) -> tuple[float, float]:
        """Seconds from pressing `keys` until the first frame of the answer had been received, and until the last one,
        `quiet` after which none comes."""
        before = len(self.frames)
        pressed = time.perf_counter()
        self.press(keys)
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.frames) > before, seconds):
                raise EngineError(f"{keys!r} changed nothing on the screen within {seconds:.0f} s")
            seen = 0
            while seen != len(self.frames):
                seen = len(self.frames)
                self._changed.wait_for(lambda: len(self.frames) > seen, quiet)  # noqa: B023  # called before seen changes
            return self.frames[before] - pressed, self.frames[-1] - pressed

    def processor_seconds(self) -> float:
        """Processor time of the program's own process so far, that of its engine process not counted."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def private_bytes(self) -> int:
        """Memory that the program's own process has for itself."""
        return private_bytes(self._process.pid)

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(2)
        os.close(self._master)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
