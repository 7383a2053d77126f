"""The whole way in a real terminal, by keys: from a conversation to the faulty stage, and the same verdict headless."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from aprtui.resources import embedded_model
from tests.tui.test_terminal import CHECKOUT, LOADING_SECONDS, Terminal, position

pytestmark = pytest.mark.group("pty")

REAL_MODELS = os.environ.get("APRTUI_REAL_MODELS", "")
MODELS = [
    embedded_model(),
    pytest.param(
        Path(REAL_MODELS, "qwen2.5-coder-0.5b-q4_k_m.gguf"),
        marks=[pytest.mark.slow, pytest.mark.skipif(not REAL_MODELS, reason="APRTUI_REAL_MODELS names no folder")],
    ),
]
CULPRIT = "layer 2 attn_out"
PATIENCE = 300.0
"""Seconds for what takes long on 24 layers: a capture with every tap, a comparison, a replay of two captures."""


@pytest.fixture(params=MODELS, ids=lambda path: path.stem)
def model(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.fixture
def terminal(tmp_path: Path, model: Path) -> Iterator[Terminal]:
    words = [sys.executable, "-m", "aprtui", "open", str(model)]
    opened = Terminal(
        f"aprtui-test-{uuid.uuid4().hex}",
        f"sh -c {shlex.quote(f'cd {shlex.quote(str(tmp_path))}; {shlex.join(words)}')}",
        PYTHONPATH=str(CHECKOUT),
        APRTUI_STATE_DIR=str(tmp_path / "state"),
    )
    yield opened
    opened.close()


def say(terminal: Terminal, first: str, second: str) -> None:
    """Send a prompt of two lines, and cancel the answer when some of it has come."""
    terminal.press("e")
    terminal.until(r"❯ ")
    terminal.press("-l", first)
    terminal.press("C-j")
    terminal.press("-l", second)
    terminal.until(re.escape(second))
    terminal.press("Enter")
    answered(terminal)


def answered(terminal: Terminal) -> None:
    """Wait until some tokens of an answer stand there, pause unless it has ended, then cancel the rest."""
    terminal.until(r"(running|ready).*tok/s", PATIENCE)
    start = position(terminal.until(r"context \d+/", PATIENCE))
    terminal.until(rf"■ ready|context (?!{start}/)\d+/", PATIENCE)
    terminal.press("Space")
    terminal.until("‖ paused|■ ready", PATIENCE)
    terminal.press("c")
    terminal.until("■ (ready|cancelled)", PATIENCE)


@pytest.mark.gate
def test_from_a_conversation_to_the_faulty_stage_and_the_same_verdict_headless(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    terminal.until("■ ready", LOADING_SECONDS)
    say(terminal, "Count from one to three,", "with digits only.")
    say(terminal, "And now", "the other way round.")
    terminal.until(r"user +And now")
    views = ["▀▀▀", r" 0 +\d*\.\d"]
    shown = terminal.until("|".join(views))
    terminal.press("v")
    terminal.until(views[0] if not re.search(views[0], shown) else views[1])
    terminal.press("L")
    terminal.until("logit lens")

    terminal.press(*["Down"] * 2, *["Right"] * 8)
    terminal.until(rf"{CULPRIT} +rms")
    terminal.press("i")
    terminal.until(f"Inject a fault at {CULPRIT}")
    terminal.press("s", "c", "a", "l", "e", "Enter")
    terminal.until("magnitude +1")
    terminal.press("Enter")
    terminal.until("1 fault injected", LOADING_SECONDS)
    answered(terminal)
    terminal.press("w")
    terminal.until("fault L2", PATIENCE)

    terminal.press("1", "i")
    terminal.until("remove +layer=2")
    terminal.press("Up", "Enter")
    terminal.until(r"(?s)^(?!.*fault injected).*(running|ready)", LOADING_SECONDS)
    answered(terminal)
    terminal.press("w")
    terminal.until("2 captures", PATIENCE)
    terminal.press("Home", "Down", "Space", "Home", "Space")
    terminal.until(r"B .*fault L2(.|\n)*A .*-live-2")

    terminal.press("d")
    terminal.until("FAIL|UNKNOWN", PATIENCE)
    terminal.press("R")
    terminal.until(rf"✗ FAIL +B: {CULPRIT}", PATIENCE)
    terminal.press("y")
    terminal.until("Copied")
    copied = terminal.clipboard()
    terminal.press("q")
    terminal.until("exit code 0")

    words = shlex.split(copied)
    assert words[:2] == ["aprtui", "diff"] and "--replay" in words
    again = subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 1, again.stdout + again.stderr
    assert re.search(rf"FAIL:? +B: {CULPRIT}", again.stdout)
