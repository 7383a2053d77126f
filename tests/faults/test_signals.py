"""A command that is told to end says so in one line, with exit code 130, and leaves nothing that passes for whole."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aprtui.errors import ExitCode
from aprtui.trace.capture import Capture

TOLD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SCRIPT = """
import os, signal, sys
import aprtui.engine.reference.engine as module
forward, calls = module.NumpyEngine.forward, 0
def told(self, *arguments, **named):
    global calls
    calls += 1
    if calls == 3:
        os.kill(os.getpid(), int(sys.argv[1]))
    return forward(self, *arguments, **named)
module.NumpyEngine.forward = told
from aprtui.cli.main import main
main(sys.argv[2:])
"""


def ended(number: signal.Signals, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, str(int(number)), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def require_interrupted(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == ExitCode.INTERRUPTED, done
    assert done.stderr.strip().splitlines()[-1] == "aprtui: interrupted" and "Traceback" not in done.stderr


@pytest.mark.parametrize("number", TOLD)
def test_a_trace_that_is_told_to_end_leaves_a_capture_that_says_so(
    number: signal.Signals, tmp_path: Path, tiny_model: Path
) -> None:
    tokens = ("--tokens", "1,2,3,4,5,6", "--decode-from", "1", "--backend", "numpy")
    require_interrupted(ended(number, "trace", tiny_model, *tokens, "--save-tensor-dir", tmp_path / "c"))
    assert Capture.open(tmp_path / "c").complete is False


@pytest.mark.slow
@pytest.mark.parametrize("number", TOLD)
@pytest.mark.parametrize(
    "words",
    [("run", "-n", "20"), ("run", "-n", "20", "--json"), ("scan",), ("parity", "--length", "12")],
    ids=" ".join,
)
def test_every_command_that_evaluates_is_interrupted_in_one_line(
    number: signal.Signals, words: tuple[str, ...], tiny_model: Path
) -> None:
    command, *more = words
    tokens = () if command == "parity" else ("--tokens", "1,2,3,4,5,6,7,8")
    require_interrupted(ended(number, command, tiny_model, *tokens, "--backend", "numpy", *more))
