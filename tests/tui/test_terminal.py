"""The installed program in a real terminal, driven by keys alone."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from aprtui.resources import embedded_model

pytestmark = pytest.mark.group("pty")

CHECKOUT = Path(__file__).parents[2]

LOADING_SECONDS = 120.0
"""Kernels are compiled on the first run after a change of theirs."""


class Terminal:
    """A tmux server of its own with one pane of 80×24."""

    def __init__(self, name: str, command: str, folder: Path = CHECKOUT, **environment: str) -> None:
        self._name = name
        variables = {
            "TERM": "xterm-256color", "COLORTERM": "truecolor", "PYTHONPATH": str(CHECKOUT), **environment
        }  # fmt: skip
        settings = " ".join(f"{key}={shlex.quote(value)}" for key, value in variables.items())
        script = f"echo before; {settings} {command}; echo exit code $?; stty -a; sleep 60"
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "-c", str(folder), script)
        self._tmux("set-option", "-g", "set-clipboard", "on")

    def clipboard(self) -> str:
        """What the program has copied (OSC 52), as a terminal gets it."""
        return self._tmux("show-buffer")

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            ["tmux", "-L", self._name, *arguments], capture_output=True, text=True, check=True, timeout=20
        )
        return done.stdout

    def press(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def screen(self, *, colours: bool = False) -> str:
        return self._tmux("capture-pane", "-p", *(["-e"] if colours else []))

    def flags(self) -> str:
        """Alternate screen, mouse and cursor, as the terminal sees them."""
        return self._tmux("display-message", "-p", "#{alternate_on} #{mouse_any_flag} #{cursor_flag}").strip()

    def until(self, pattern: str, seconds: float = 20.0) -> str:
        deadline = time.monotonic() + seconds
        while not re.search(pattern, text := self.screen()):
            assert "crashed" not in text, text
            assert time.monotonic() < deadline, f"no {pattern!r} within {seconds} s; on the screen:\n{text}"
            time.sleep(0.05)
        return text

    def close(self) -> None:
        # A server whose last pane has ended is gone already.
        with contextlib.suppress(subprocess.CalledProcessError):
            self._tmux("kill-server")


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    started: list[Terminal] = []
    yield started
    for terminal in started:
        terminal.close()


def start(terminals: list[Terminal], folder: Path = CHECKOUT, *words: str, **environment: str) -> Terminal:
    command = shlex.join([sys.executable, "-m", "aprtui", *words])
    terminal = Terminal(f"aprtui-test-{uuid.uuid4().hex}", command, folder, **environment)
    terminals.append(terminal)
    terminal.until(r"\d tok/s", LOADING_SECONDS)
    return terminal


def position(screen: str) -> int:
    found = re.search(r"context (\d+)/", screen)
    assert found, screen
    return int(found[1])


def test_tokens_arrive_pause_holds_them_and_quitting_restores_the_terminal(terminals: list[Terminal]) -> None:
    terminal = start(terminals)
    terminal.press("e", " ", "#")
    terminal.until(r"prompt ❯ def fib\(n\): #")
    terminal.press("Enter")
    terminal.until(r"▶ running.*tok/s(.|\n)*│ <.endoftext.>def fib\(n\): #")
    terminal.press("p")
    paused = terminal.until("‖ paused")
    time.sleep(0.5)
    assert position(terminal.screen()) == position(paused)
    assert "def fib(n):" in paused
    assert re.search(r"  3 +[\d.]+", paused), "the row of layer 3 has numbers"
    terminal.press("n")
    terminal.until(rf"context {position(paused) + 1}/")
    terminal.press("q")
    left = terminal.until("exit code 0")
    assert left.startswith("before\n")
    assert terminal.flags() == "0 0 1"
    assert re.search(r"(?<!-)\becho\b", terminal.screen()), "the terminal shows what is typed again"
    assert re.search(r"(?<!-)\bicanon\b", terminal.screen())


def test_lines_of_a_prompt_and_the_users_editor_which_gets_the_terminal(
    terminals: list[Terminal], tmp_path: Path
) -> None:
    script = tmp_path / "editor"
    script.write_text(
        '#!/bin/sh\necho "I have the terminal"; read answer; echo "# $answer" >> "$1"; [ "$answer" = yes ]\n'
    )
    script.chmod(0o755)
    terminal = start(terminals, tmp_path, EDITOR=str(script))
    terminal.press("e", "M-Enter", "x", "C-j", "y")
    terminal.until(r"prompt ❯ def fib\(n\):\n +x\n +y\n")
    terminal.press("C-o")
    terminal.until(r"I have the terminal")
    terminal.press("no", "Enter")
    terminal.until(r"EDITOR=")
    terminal.until(r"prompt ❯ def fib\(n\):\n +x\n +y\n")
    terminal.press("C-o")
    terminal.until(r"I have the terminal")
    terminal.press("yes", "Enter")
    terminal.until(r"prompt ❯ def fib\(n\):\n +x\n +y# yes\n")
    terminal.press("Enter")
    terminal.until(r"▶ running(.|\n)*│ <.endoftext.>def fib\(n\): .*\n│ x .*\n│ y# yes")


def test_conversation_of_two_turns_goes_on_while_the_first_answer_still_comes(
    terminals: list[Terminal], tmp_path: Path
) -> None:
    words = ["open", str(embedded_model()), "-p", "Return the sum.", "--system", "Be brief."]
    terminal = start(terminals, tmp_path, *words)
    terminal.until(r"chat ❯")
    terminal.press("home")
    terminal.until(r"│ system +Be brief.*\n│ user +Return the sum.*\n│ model +\S")
    terminal.press("G", "e", "and", "M-Enter", "more", "Enter")
    terminal.until(r"│ user +and .*\n│ +more ")
    terminal.press("c", "P")
    terminal.until(r"<.im_start.>user⏎")
    terminal.press(*["Down"] * 60)
    terminal.until(r"and⏎ +.*\n.*more<.im_end.>⏎ .*\n.*<.im_start.>assistant⏎")
    terminal.press("P")
    terminal.until("Pause/resume")
    terminal.press("q")
    terminal.until("exit code 0")


@pytest.mark.gate
def test_ctrl_c_leaves_with_the_code_for_interrupted(terminals: list[Terminal]) -> None:
    terminal = start(terminals)
    terminal.press("C-c")
    assert terminal.until("exit code 130").startswith("before\n")
    assert terminal.flags() == "0 0 1"


def test_no_color_is_honoured_in_the_bytes_that_are_sent(terminals: list[Terminal]) -> None:
    terminal = start(terminals, NO_COLOR="1")
    colours = set(re.findall(r"\x1b\[[\d;]*(?:[34]8[;:]|[39][0-7]\b|4[0-7]\b)[\d;:]*m", terminal.screen(colours=True)))
    assert not colours
    terminal.press("q")
    terminal.until("exit code 0")


def test_run_is_travelled_in_given_a_fault_and_captured(terminals: list[Terminal], tmp_path: Path) -> None:
    terminal = start(terminals, tmp_path)
    terminal.until(r"token [1-9]\d of")
    terminal.press("p")
    newest = int(re.findall(r"token (\d+) of", terminal.until("‖ paused"))[0])
    terminal.press("[", "S-Left", "{")
    terminal.until(rf"text: token {max(newest - 12, 1)} of {newest}, all kept")
    terminal.press("G", "M", "M", "M", "t", "L")
    terminal.until(r"% change of each stage's rms")
    terminal.press("n", "n")
    terminal.until(r"logit lens(.|\n)*  0 .* %")
    terminal.press("w")
    terminal.until(r"demo-qwen2-q4km-live-1(.|\n)*one by one", 60)
    assert (tmp_path / "demo-qwen2-q4km-live-1" / "manifest.json").is_file()
    terminal.press("1")
    terminal.until("‖ paused")
    terminal.press("j", "i")
    terminal.until("Inject a fault at layer 1 attn_norm")
    terminal.press("s", "c", "a", "l", "e", "Enter")
    terminal.until("magnitude +1")
    terminal.press("Enter")
    terminal.until("1 fault injected(.|\n)*▶ running", 60)
    terminal.press("q")
    terminal.until("exit code 0")


def test_ctrl_z_leaves_to_the_shell_and_fg_comes_back_to_a_screen_that_is_drawn_again(
    terminals: list[Terminal],
) -> None:
    terminal = Terminal(f"aprtui-test-{uuid.uuid4().hex}", "bash --norc -i")
    terminals.append(terminal)
    terminal.press(f"{shlex.quote(sys.executable)} -m aprtui", "Enter")
    terminal.until(r"token \d\d of", LOADING_SECONDS)
    terminal.press("C-z")
    shell = terminal.until("Stopped")
    assert "tok/s" not in shell and terminal.flags() == "0 0 1"
    terminal.press("clear; echo typed", "Enter")
    terminal.until("^typed")
    terminal.press("fg", "Enter")
    before = position(terminal.until(r"tok/s(.|\n)*layer 0 attn_norm(.|\n)*Help"))
    terminal.press("r")
    terminal.until(rf"▶ running(.|\n)*context (?!{before}/)\d+/")
    terminal.press("q")
    terminal.until(r"\$ exit|# *\n*$")
    terminal.press("exit", "Enter")
    terminal.until("exit code 0")


def test_ctrl_z_stays_where_no_shell_would_bring_the_app_back(terminals: list[Terminal]) -> None:
    terminal = start(terminals)
    terminal.press("C-z")
    terminal.until("No shell waits")
    terminal.press("q")
    terminal.until("exit code 0")
