"""Running the command that a falsifier gives as its test: only when asked for by id, without a shell, with a timeout.

A contract is somebody's text. Nothing in it is run because it stands there.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys

from aprtui.compare.verdict import Verdict
from aprtui.contracts.document import Falsifier
from aprtui.contracts.judgement import Judgement, unknown

_SHELL = frozenset("|&;<>()$`*?[]#~{}\n")
"""What a shell would give a meaning to: such a test is not one command."""


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

    Its output goes to our stderr. UNKNOWN where it cannot be started or does not end in `timeout` seconds; its whole
    session is then killed.
    """
    try:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), start_new_session=True
        )  # fmt: skip
    except (OSError, ValueError) as error:
        return unknown(f"cannot be started: {getattr(error, 'strerror', None) or error}")
    try:
        code = process.wait(timeout)
    except BaseException as ended:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(ended, subprocess.TimeoutExpired):
            return unknown(f"did not end within {timeout:g} s")
        raise
    if code < 0:
        return unknown(f"was ended by signal {-code}")
    verdict = Verdict.FAIL if code else Verdict.PASS
    return Judgement(verdict, f"{words[0]} exited with {code}", "exit code", float(code), 0.0)
