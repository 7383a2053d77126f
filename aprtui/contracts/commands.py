"""Running the command that a falsifier gives as its test: only when the user names the falsifier, without a shell, and
with a timeout.

A contract may come from anyone: nothing in it is run merely because it is written there.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from threading import Thread
from typing import IO

from aprtui.compare.verdict import Verdict
from aprtui.contracts.checks.judgement import Judgement, unknown
from aprtui.contracts.documents.document import Falsifier

_SHELL = frozenset("|&;<>()$`*?[]#~{}\n")
"""Characters with a meaning to a shell: a test that holds one is not a single command."""

_OUTPUT_BYTES = 8192
_SECONDS_TO_DRAIN = 1.0


def command_words(falsifier: Falsifier) -> tuple[str, ...] | str:
    """The words of the command in `test`, or a text that says why it is not a single command."""
    text = falsifier.test.strip()
    if not text:
        return "it gives no test"
    odd = sorted(_SHELL & set(text))
    if odd:
        return f"its test needs a shell ({odd[0]!r}): run it yourself"
    try:
        words = shlex.split(text)
    except ValueError as error:
        return f"its test is no command ({error})"
    if "=" in words[0]:
        return "its test sets variables of a shell: run it yourself"
    return tuple(words)


def run_command(words: tuple[str, ...], timeout: float) -> Judgement:
    """PASS where the command exits with 0, FAIL where it exits with another code.

    Its output goes to our stderr, and the last `_OUTPUT_BYTES` of it into the judgement. UNKNOWN where the command
    cannot be started, or does not end within `timeout` seconds: then its whole session is killed.
    """
    try:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )  # fmt: skip
    except (OSError, ValueError) as error:
        return unknown(f"cannot be started: {getattr(error, 'strerror', None) or error}")
    assert process.stdout is not None
    tail = bytearray()
    echo = Thread(target=_echo, args=(process.stdout, tail), daemon=True)
    echo.start()
    try:
        code = process.wait(timeout)
    except BaseException as ended:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(ended, subprocess.TimeoutExpired):
            return unknown(f"did not end within {timeout:g} s")
        raise
    # A process that the command left running may hold the output open: we do not wait for it.
    echo.join(_SECONDS_TO_DRAIN)
    if code < 0:
        return unknown(f"was ended by signal {-code}")
    verdict = Verdict.FAIL if code else Verdict.PASS
    output = bytes(tail).decode(errors="replace")
    return Judgement(verdict, f"{words[0]} exited with {code}", "exit code", float(code), 0.0, output=output)


def _echo(output: IO[bytes], tail: bytearray) -> None:
    """Copy `output` to our stderr, and its end to `tail`."""
    while chunk := os.read(output.fileno(), 1 << 14):
        os.write(sys.stderr.fileno(), chunk)
        tail += chunk
        del tail[:-_OUTPUT_BYTES]
