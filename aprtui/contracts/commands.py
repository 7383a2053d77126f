"""Running the command that a falsifier gives as its test: only when asked for by id, without a shell, with a timeout.

A contract is somebody's text. Nothing in it is run because it stands there.
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
"""What a shell would give a meaning to: such a test is not one command."""

_MOST_KEPT = 8192
_SECONDS_FOR_THE_REST = 1.0


def command_words(falsifier: Falsifier) -> tuple[str, ...] | str:
    """The words of the one command that `test` is, or why it is none."""
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
    """PASS where the command exits with 0, FAIL where with another code.

    Its output goes to our stderr, and the end of it into the judgement. UNKNOWN where it cannot be started or does not
    end in `timeout` seconds; its whole session is then killed.
    """
    try:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )  # fmt: skip
    except (OSError, ValueError) as error:
        return unknown(f"cannot be started: {getattr(error, 'strerror', None) or error}")
    assert process.stdout is not None
    kept = bytearray()
    echo = Thread(target=_echo, args=(process.stdout, kept), daemon=True)
    echo.start()
    try:
        code = process.wait(timeout)
    except BaseException as ended:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(ended, subprocess.TimeoutExpired):
            return unknown(f"did not end within {timeout:g} s")
        raise
    # What the command left running may hold its output open: that is not waited for.
    echo.join(_SECONDS_FOR_THE_REST)
    if code < 0:
        return unknown(f"was ended by signal {-code}")
    verdict = Verdict.FAIL if code else Verdict.PASS
    output = bytes(kept).decode(errors="replace")
    return Judgement(verdict, f"{words[0]} exited with {code}", "exit code", float(code), 0.0, output=output)


def _echo(output: IO[bytes], kept: bytearray) -> None:
    """Pass `output` on to our stderr, and keep its end."""
    while chunk := os.read(output.fileno(), 1 << 14):
        os.write(sys.stderr.fileno(), chunk)
        kept += chunk
        del kept[:-_MOST_KEPT]
