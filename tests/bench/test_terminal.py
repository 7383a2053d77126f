from __future__ import annotations

import sys

import pytest

from aprtui.bench.terminal import PseudoTerminal
from aprtui.errors import EngineError

ECHO = r"""
import os, sys, time, tty
tty.setraw(0)
out = lambda text: os.write(1, text.encode())
out("\x1b[?2026$p")
assert os.read(0, 64) == b"\x1b[?2026;1$y", "the terminal takes synchronised output"
sum(range(3_000_000))
out("\x1b[1mready\x1b[0m")
while (key := os.read(0, 1)) != b"q":
    for _ in range(3 if key == b"3" else 1):
        if key != b"n":
            time.sleep(0.02)
            out("\x1b[?2026h" + key.decode() + "\x1b[?2026l")
"""


def test_frames_are_counted_and_a_key_is_answered_by_the_last_of_them() -> None:
    with PseudoTerminal([sys.executable, "-c", ECHO], 80, 24) as terminal:
        terminal.wait_for("ready")
        first, one = terminal.time_key("x")
        assert first == one
        assert len(terminal.frames) == 1
        first, three = terminal.time_key("3")
        assert first < three
        assert len(terminal.frames) == 4
        assert one >= 0.02 and three >= 0.06, "each frame takes that long to come"
        assert terminal.private_bytes() > 1e6
        assert terminal.processor_seconds() > 0


def test_a_key_that_changes_nothing_and_words_that_do_not_come_are_errors() -> None:
    with PseudoTerminal([sys.executable, "-c", ECHO], 80, 24) as terminal:
        terminal.wait_for("ready")
        with pytest.raises(EngineError, match="changed nothing"):
            terminal.time_key("n", seconds=0.1)
        with pytest.raises(EngineError, match=r"did not show 'later'.*ready"):
            terminal.wait_for("later", seconds=0.1)
