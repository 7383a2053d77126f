"""A terminal that sends nonsense, that goes away, and a process that is told to end, all over a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from textual.events import Key, Paste

from aprtui.errors import ExitCode
from aprtui.tui.frame.terminal import KeyParser
from tests.compare.recorded import two_captures
from tests.tui.test_terminal import CHECKOUT, LOADING_SECONDS

RESTORED = b"\x1b[?1049l"
"""The terminal leaves the alternate screen."""


class PseudoTerminal:
    """The program `aprtui` with `words`, in a terminal that the test is."""

    def __init__(self, folder: Path, *words: str) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": str(CHECKOUT),
            "TERM": "xterm-256color",
            "COLUMNS": "80",
            "LINES": "24",
        }
        environment |= {"APRTUI_STATE_DIR": str(folder / "state")}
        self.output = b""
        self.pid, self.terminal = pty.fork()
        if not self.pid:
            os.chdir(folder)
            os.execve(sys.executable, [sys.executable, "-m", "aprtui", *words], environment)  # noqa: S606

    def send(self, data: bytes) -> None:
        os.write(self.terminal, data)

    def until(self, pattern: bytes, seconds: float = 60.0) -> None:
        """Wait until what was written from now on matches."""
        self.output = b""
        self._read(lambda: re.search(pattern, self.output) is not None, seconds)

    def end(self, seconds: float = 20.0) -> int:
        """Wait for the end of the process; its exit code, or minus the signal that ended it."""
        ended: list[int] = []

        def has_ended() -> bool:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            ended.extend([os.waitstatus_to_exitcode(status)] if pid else [])
            return bool(ended)

        self._read(has_ended, seconds)
        self.pid = 0
        return ended[0]

    def hang_up(self) -> None:
        os.close(self.terminal)
        self.terminal = -1

    def _read(self, holds: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, self.output[-2000:].decode(errors="replace")
            if self.terminal < 0:
                time.sleep(0.05)
            elif select.select([self.terminal], [], [], 0.05)[0]:
                try:
                    self.output += os.read(self.terminal, 65536)
                except OSError:
                    time.sleep(0.05)  # the other end is closed

    def children(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        if self.terminal >= 0:
            os.close(self.terminal)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., PseudoTerminal]]:
    started: list[PseudoTerminal] = []

    def opened(*words: str) -> PseudoTerminal:
        started.append(PseudoTerminal(tmp_path, *words))
        return started[-1]

    yield opened
    for terminal in started:
        terminal.close()


def test_bytes_that_are_no_utf_8_and_sequences_without_sense_leave_the_keyboard_alive(
    start: Callable[..., PseudoTerminal], tmp_path: Path
) -> None:
    two_captures(tmp_path)
    terminal = start("open", ".")
    terminal.until(rb"good")
    terminal.send(b"\xe9\xff\x80")
    terminal.send(b"\x1b[99999999999999999999u\x1b[:u\x1b[200~caf\xe9\x1b[201~")
    terminal.send(b"?")
    terminal.until(rb"Browse: keys")
    terminal.send(b"\x1b")
    time.sleep(0.3)  # an escape is one only when nothing follows it
    terminal.send(b"q")
    assert terminal.end() == ExitCode.PASS
    assert RESTORED in terminal.output


@pytest.mark.gate
@pytest.mark.parametrize("ignored", [False, True])
def test_a_terminal_that_goes_away_ends_the_app_and_its_engine(
    start: Callable[..., PseudoTerminal], ignored: bool
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        terminal = start()
    finally:
        signal.signal(signal.SIGHUP, before)
    terminal.until(rb"tok/s", LOADING_SECONDS)
    children = terminal.children()
    assert children
    terminal.hang_up()
    assert terminal.end() == ExitCode.INTERRUPTED
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "the engine lives on"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_process_that_is_told_to_end_restores_the_terminal(
    start: Callable[..., PseudoTerminal], tmp_path: Path, number: signal.Signals
) -> None:
    two_captures(tmp_path)
    terminal = start("open", ".")
    terminal.until(rb"good")
    terminal.output = b""
    os.kill(terminal.pid, number)
    assert terminal.end() == ExitCode.INTERRUPTED
    assert RESTORED in terminal.output


@pytest.mark.parametrize("words", [["open", "."], []])
def test_without_an_input_the_app_says_what_it_needs(tmp_path: Path, words: list[str]) -> None:
    command = [sys.executable, "-m", "aprtui", *words]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *command],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == (ExitCode.ENGINE if words else ExitCode.PASS)
    assert "terminal" in done.stderr and "internal" not in done.stderr


@pytest.mark.parametrize("nonsense", ["\x1b[99999999999999999999u", "\x1b[1114112u", "\x1b[:u", "\x1b[1;:u"])
def test_a_sequence_without_sense_is_dropped_and_the_next_key_is_read(nonsense: str) -> None:
    assert keys_of(f"{nonsense}\x1b[Aq") == ["up", "q"]


def keys_of(*texts: str) -> list[str | None]:
    """The keys in what a terminal sends at once or in several pieces; then nothing comes for a while."""
    parser = KeyParser()
    return [getattr(message, "key", None) for text in (*texts, "") for message in parser.parsed(text)]


@pytest.mark.parametrize("key", ["d", "D", "4", "?", ":", "g", "]", "é"])
def test_escape_and_a_key_in_one_burst_are_two_keys(key: str) -> None:
    alone = keys_of(key)
    assert keys_of(f"\x1b{key}") == keys_of("\x1b", key) == ["escape", *alone]
    assert keys_of(f"\x1b\x1b{key}\x1b") == ["escape", "escape", *alone, "escape"]


def test_a_sequence_that_comes_in_pieces_is_one_key() -> None:
    assert keys_of("\x1b", "[A", "q") == keys_of("\x1b[", "A", "q") == ["up", "q"]
    assert keys_of("\x1b", "\x1b[A") == ["escape", "up"]


def test_alt_with_enter_and_with_arrows_keep_their_meaning() -> None:
    assert keys_of("\x1b\r") == keys_of("\x1b", "\r") == ["alt+enter"]
    assert keys_of("a\x1bb\x1bf") == ["a", "ctrl+left", "ctrl+right"]


def test_an_escape_in_a_pasted_text_is_no_key() -> None:
    text = "\x1b[200~red \x1b[31mapple\x1bd\x1b\x1b[201~q"
    for pieces in ([text], list(text)):
        parser = KeyParser()
        paste, key = (message for piece in [*pieces, ""] for message in parser.parsed(piece))
        assert isinstance(paste, Paste) and paste.text == "red [31mappled"
        assert isinstance(key, Key) and key.key == "q"
