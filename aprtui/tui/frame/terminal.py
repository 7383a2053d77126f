"""The terminal, as Textual drives it, but not at the mercy of what comes from it.

Bytes that are no UTF-8, escape sequences that make no sense, a terminal that goes away, a process that is told to end:
none of them leaves the app without a keyboard, or the shell in a terminal that shows nothing of what is typed.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import sys
from codecs import getincrementaldecoder
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from textual._parser import ParseError
from textual._xterm_parser import XTermParser
from textual.app import App
from textual.drivers.linux_driver import LinuxDriver
from textual.events import Event
from textual.message import Message

_BYTES_AT_ONCE = 4096
_LOOK_SECONDS = 0.1


class TerminalGone(Event):
    """There is no terminal any more, or the process was told to end."""


class TerminalDriver(LinuxDriver):
    """Textual's driver, with an input that does not end before the terminal does."""

    def __init__(self, app: App[Any], **options: Any) -> None:
        super().__init__(app, **options)
        error, output = sys.__stderr__, sys.__stdout__
        file = error if error is not None and error.isatty() else output
        assert file is not None  # a terminal, else there is no app
        self._file = _Output(file)  # type: ignore[assignment]  # writes and flushes are all that is asked of it

    def start_application_mode(self) -> None:
        super().start_application_mode()  # type: ignore[no-untyped-call]
        loop = asyncio.get_running_loop()
        for number in (signal.SIGHUP, signal.SIGTERM):
            loop.add_signal_handler(number, self.send_message, TerminalGone())

    def run_input_thread(self) -> None:
        """Read until the app leaves the terminal, or the terminal is gone."""
        decoder = getincrementaldecoder("utf-8")("replace")
        keys = KeyParser(self._debug)
        while not self.exit_event.is_set():
            data: bytes | None = b""
            if select.select([self.fileno], [], [], _LOOK_SECONDS)[0]:
                data = _read(self.fileno)
            if data is None:
                self.send_message(TerminalGone())
                return
            for message in keys.parsed(decoder.decode(data)):
                self.process_message(message)

    def _sigcont_application(self, *arguments: object) -> None:
        # A process that was stopped by force has never left the terminal.
        if self._must_signal_resume:
            super()._sigcont_application(*arguments)


class KeyParser:
    """Keys, clicks and pasted texts of what a terminal sends; what makes no sense is dropped."""

    def __init__(self, debug: bool = False) -> None:
        self._debug = debug
        self._parser = XTermParser(debug)

    def parsed(self, text: str) -> Iterable[Message]:
        """The messages that have become complete with `text`."""
        for sequence in filter(None, re.split("(?=\x1b)", text)):
            try:
                yield from self._parser.feed(sequence)
            except (ArithmeticError, LookupError, ValueError, ParseError):
                self._parser = XTermParser(self._debug)
        yield from self._parser.tick()


class _Output:
    """The terminal as a file; what cannot be written, because the terminal is gone, is dropped."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._file.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._file.flush()

    def fileno(self) -> int:
        return self._file.fileno()


def _read(terminal: int) -> bytes | None:
    """What has come from a terminal; None where it is gone."""
    try:
        return os.read(terminal, _BYTES_AT_ONCE) or None
    except BlockingIOError:
        return b""
    except OSError:
        return None


def shell_waits() -> bool:
    """Whether a shell with job control would bring this process back from a stop: it started the process group."""
    group = os.getpgrp()
    try:
        # The name of the program, in parentheses, may hold anything; behind it come the state and the parent.
        parent = int(Path(f"/proc/{group}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        return os.getsid(parent) == os.getsid(0) and os.getpgid(parent) != group
    except (OSError, ValueError, IndexError):
        return False
