"""A command that is told to end says so in one line, with exit code 130, and leaves nothing that passes for whole."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from aprtui.cli.main import COMMANDS
from aprtui.errors import ExitCode
from aprtui.trace.capture import Capture
from tests.faults.children import PACKAGE, Said, count_lines, said

TOLD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


TOKENS = "--tokens 1,2,3 --backend numpy"
WORDS = {
    "open": "open good", "tour": "tour --text", "run": f"run m.gguf {TOKENS} -n 3",
    "trace": f"trace m.gguf {TOKENS} --save-tensor-dir new --overwrite", "diff": "diff good bad",
    "replay": "replay good --backend numpy --model m.gguf", "scan": f"scan m.gguf {TOKENS}",
    "graft": "graft good --backend numpy --model m.gguf", "parity": "parity m.gguf --length 6 --backend numpy",
    "sweep": "sweep plan.yaml --workers 1",
    "bisect": "bisect --good HEAD~2 --reference ../good --capture 'sh -c \"cp -r ../$(head -n 1 which) {out}\"'",
    "contracts": "contracts validate c.yaml", "stats": "stats good", "models": "models",
    "info": "info m.gguf", "check": "check m.gguf", "qa": "qa m.gguf --backend numpy",
    "export": "export good --out good.npz --format safetensors --overwrite",
    "import": "import dump --out imported --overwrite", "ranks": "ranks ranks --guess --model m.gguf",
    "oracle": "oracle hf none.gguf --tokens 1", "record": "record torch none.gguf --tokens 1",
    "render": "render s.jsonl --svg s.svg", "bench": "bench verdicts m.gguf --part speed", "doctor": "doctor",
}  # fmt: skip
"""What each command is told to do. Those of other engines are told to end while they refuse a file."""
WRITER = f"{PACKAGE}trace{os.sep}writer.py"
FIRST_LINE = 60
"""Before it, handlers are not set yet: a signal ends the process as it ends any, and nothing has begun."""
IN_THE_GATE = ("stats", "import", "diff")
"""Those that print, write and compute; each of them with one signal."""


def told(
    words: str, house: Path, end_at: int, number: signal.Signals, within: str = PACKAGE
) -> tuple[Said, int]:  # fmt: skip
    """The command in a child that tells itself to end; and how many lines it ran, where it came to its end."""
    counted = house / "counted"
    counted.write_text("0")

    def around(run: Callable[[], None]) -> None:
        codes: list[int] = []

        def to_the_end() -> None:
            try:
                run()
            except SystemExit as ended:
                codes.append(int(ended.code or 0))

        counted.write_text(str(count_lines(to_the_end, end_at, number=number, within=within)))
        sys.exit(codes[0])

    found = said(words, house / "history" if words.startswith("bisect") else house, around)
    return found, int(counted.read_text())


@pytest.mark.parametrize("number", TOLD)
def test_a_trace_that_is_told_to_end_leaves_a_capture_that_says_so(number: signal.Signals, house: Path) -> None:
    words = f"trace m.gguf {TOKENS} --decode-from 1 --save-tensor-dir {number.name} --overwrite"
    _, total = told(words, house, 0, number, WRITER)
    assert Capture.open(house / number.name).complete
    found, _ = told(words, house, total // 2, number, WRITER)
    assert (found.code, found.last) == (ExitCode.INTERRUPTED, "aprtui: interrupted")
    assert Capture.open(house / number.name).complete is False


@pytest.mark.slow
@pytest.mark.parametrize("command", WORDS)
def test_a_command_that_is_told_to_end_at_any_line_says_so(command: str, house: Path) -> None:
    require_ends(command, house, TOLD, 6)


@pytest.mark.parametrize("command", IN_THE_GATE)
def test_a_command_that_is_told_to_end_says_so(command: str, house: Path) -> None:
    require_ends(command, house, TOLD[IN_THE_GATE.index(command) :][:1], 3)


def require_ends(command: str, house: Path, numbers: tuple[signal.Signals, ...], points: int) -> None:
    words, random = WORDS[command], Random(command)
    whole, total = told(words, house, 0, signal.SIGINT)
    assert whole.code not in (ExitCode.INTERNAL, ExitCode.INTERRUPTED), whole.text
    for number in numbers:
        for _ in range(points):
            at = random.randrange(FIRST_LINE, total - 4)
            found, _ = told(words, house, at, number)
            assert found.code == ExitCode.INTERRUPTED, (number.name, at, total, found)
            assert found.last.endswith("aprtui: interrupted"), (number.name, at, total, found)
            assert "Traceback" not in found.text and "Exception ignored" not in found.text, (number.name, at, found)


def test_every_command_has_words() -> None:
    assert list(WORDS) == list(COMMANDS)
