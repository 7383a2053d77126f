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
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from textual._parser import ParseError
from textual._xterm_parser import XTermParser
from textual.app import App
from textual.drivers.linux_driver import LinuxDriver
from textual.events import Event, Key
from textual.message import Message

_BYTES_AT_ONCE = 4096
_LOOK_SECONDS = 0.1

ESC = "\x1b"
PASTE, PASTE_END = f"{ESC}[200~", f"{ESC}[201~"
ALT_ENTER = f"{ESC}\r"
INTRODUCERS = "[O"
"""Begin a sequence after an escape: those of keys, clicks and replies."""

WORD_KEYS = "bf"
"""What terminals on a Mac send after an escape for alt and an arrow: the word before, the next one."""


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
    """Keys, clicks and pasted texts of what a terminal sends; what makes no sense is dropped.

    Where escape and a key come in one burst, Textual reads the key with alt, or another one. Here they are two keys:
    nothing in the app is on alt and a letter. An escape in a pasted text is left out: it is no key.
    """

    def __init__(self, debug: bool = False) -> None:
        self._debug = debug
        self._parser = XTermParser(debug)
        self._held = ""
        self._pasting = False

    def parsed(self, text: str) -> Iterable[Message]:
        """The messages that have become complete with `text`, which is empty where nothing came for a while."""
        sequences = list(filter(None, re.split(f"(?={ESC})", self._held + text)))
        # What stands at the end may begin a sequence whose rest is still to come.
        self._held = sequences.pop() if text and sequences and _may_go_on(sequences[-1]) else ""
        for sequence in sequences:
            yield from self._messages(sequence)
        yield from self._parser.tick()

    def _messages(self, sequence: str) -> Iterator[Message]:
        """The messages of one sequence, or of an escape key and what was typed after it."""
        if sequence.startswith((PASTE, PASTE_END)):
            self._pasting = sequence.startswith(PASTE)
        elif self._pasting:
            sequence = sequence.removeprefix(ESC)
        elif sequence.startswith(ALT_ENTER):
            yield Key("alt+enter", None)
            sequence = sequence.removeprefix(ALT_ENTER)
        elif _is_escape_key(sequence):
            yield Key("escape", ESC)
            sequence = sequence.removeprefix(ESC)
        try:
            # Nothing at all would be the end of the input.
            yield from self._parser.feed(sequence) if sequence else ()
        except (ArithmeticError, LookupError, ValueError, ParseError):
            self._parser = XTermParser(self._debug)


def _may_go_on(sequence: str) -> bool:
    return any(mark.startswith(sequence) and mark != sequence for mark in (PASTE, PASTE_END))


def _is_escape_key(sequence: str) -> bool:
    """Whether a sequence is the escape key, with other keys after it or none."""
    after = sequence[1:2]
    return sequence.startswith(ESC) and (not after or (after.isprintable() and after not in INTRODUCERS + WORD_KEYS))


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
