"""The whole way in a real terminal, by keys: from a prompt to the faulty stage, and to the same verdict headless."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tui.test_terminal import CHECKOUT, LOADING_SECONDS, Terminal, position

pytestmark = pytest.mark.group("pty")

FAULT = "layer=2,stage=ffn_gate,kind=scale,magnitude=0.5"


@pytest.fixture
def working(tmp_path: Path) -> Path:
    """A working directory in which a capture with a fault lies, on the tokens that the app will capture."""
    return tmp_path


@pytest.fixture
def terminal(working: Path) -> Iterator[Terminal]:
    program = f"cd {shlex.quote(str(working))}; {shlex.quote(sys.executable)} -m aprtui"
    opened = Terminal(
        f"aprtui-test-{uuid.uuid4().hex}",
        f"sh -c {shlex.quote(program)}",
        PYTHONPATH=str(CHECKOUT),
        APRTUI_STATE_DIR=str(working / "state"),
    )
    yield opened
    opened.close()


def aprtui(working: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aprtui", *words],
        cwd=working, env=None, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_from_a_prompt_to_the_faulty_stage_and_the_same_verdict_headless(
    terminal: Terminal, working: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    terminal.until(r"\d tok/s", LOADING_SECONDS)
    terminal.press("e", "Space", "#", "Enter")
    terminal.until(r"│ .*def fib\(n\): #")
    before = terminal.screen()
    terminal.until(rf"context (?!{position(before)}/)\d+/")
    terminal.press("p")
    paused = terminal.until("‖ paused")
    assert re.search(r" 3 +[\d.]+", paused), "the row of layer 3 has numbers"
    terminal.press("[", "[")
    terminal.until(r"token \d+ of \d+")
    terminal.press("G", "w")
    terminal.until("1 capture,", 60)

    # The capture is open in the browse screen; the one with the fault is made beside it and appears by itself.
    (written,) = (path.parent for path in working.glob("*/manifest.json"))
    manifest = (written / "manifest.json").read_text()
    found = re.search(r'"tokens": \[([\d, ]+)\]', manifest)
    prefill = re.search(r'"prefill_tokens": (\d+)', manifest)
    assert found and prefill
    tokens = found[1].replace(" ", "")
    done = aprtui(
        working, "trace", "--tokens", tokens, "--decode-from", prefill[1], "--logits", "all", "--mode", "q8",
        "--inject", FAULT, "--save-tensor-dir", "faulty",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    terminal.until("faulty", 30)
    terminal.press("Home", "Space")
    terminal.until(r"A +\S*qwen2")
    terminal.press("Home", "j", "Space")
    terminal.until("B +faulty")
    terminal.press("d")
    terminal.until("FAIL +layer 2 ffn_gate, token", 120)
    terminal.press("Home", "g", "d")
    terminal.until("layer 2 ffn_gate: FAIL")
    terminal.press("y")
    terminal.until("Copied")
    copied = terminal.clipboard()
    assert copied.startswith("aprtui diff ")
    terminal.press("q")
    terminal.until("exit code 0")

    words = shlex.split(copied)
    again = aprtui(working, *words[1:])
    assert again.returncode == 1, again.stdout + again.stderr
    assert "layer 2 ffn_gate" in again.stdout
