"""The comparison in a child process: what it says is what the command says, and its end is never the screen's."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aprtui.compare.report.records import read_comparison
from aprtui.config import Config
from aprtui.trace.graph.stage import Node
from aprtui.tui.app import AprtuiApp
from aprtui.tui.frame.child import BYTES_A_POLL, ChildSource, Ended, Event, Progressed, Record
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenName, screen_state
from aprtui.tui.screens.diff.grid import DiffGrid
from aprtui.tui.screens.diff.screen import DiffScreen
from aprtui.tui.screens.diff.source import DiffRequest
from aprtui.tui.screens.diff.verdict import VerdictLines
from tests.compare.recorded import records_of, two_captures
from tests.recordings.made import attention_recording
from tests.tui.screens.live.recorded import RecordedSource

SECONDS = 120.0


def all_events(source: ChildSource) -> list[Event]:
    events: list[Event] = []
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        events += source.poll()
        if any(isinstance(event, Ended) for event in events):
            return events
        time.sleep(0.01)
    raise AssertionError(events)


def headless(words: list[str]) -> tuple[int, dict[str, object]]:
    """Exit code and summary of a command as it was copied."""
    assert words[0] == "aprtui"
    done = subprocess.run(
        [sys.executable, "-m", *words, "--json"], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(not hasattr(fcntl, "F_GETPIPE_SZ"), reason="only Linux tells how much a pipe holds")
def test_a_poll_can_take_all_that_it_may(tmp_path: Path) -> None:
    source = ChildSource()
    source.start(DiffRequest(tmp_path, tmp_path))
    process = source._process
    assert process is not None and process.stdout is not None
    held = fcntl.fcntl(process.stdout.fileno(), fcntl.F_GETPIPE_SZ)
    source.cancel()
    assert held >= BYTES_A_POLL


def test_where_pipes_may_not_be_widened_records_arrive_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(fcntl, "fcntl", refused)
    source = ChildSource()
    source.start(DiffRequest(*two_captures(tmp_path), tolerance="rel_l2=0.1"))
    assert all_events(source)[-1] == Ended()


def test_records_arrive_as_the_command_writes_them(tmp_path: Path) -> None:
    a, b = two_captures(tmp_path)
    source = ChildSource()
    source.start(DiffRequest(a, b, tolerance="rel_l2=0.1"))
    *records, ended = [event for event in all_events(source) if not isinstance(event, Progressed)]
    assert ended == Ended()
    read = [event.fields for event in records if isinstance(event, Record)]
    assert read[-1]["next"]
    assert [*read[:-1], {**read[-1], "next": []}] == records_of(a, b, "rel_l2=0.1")
    assert source.poll() == [], "the end is told once"


def test_a_capture_that_is_gone_is_told_in_one_line(tmp_path: Path) -> None:
    source = ChildSource()
    source.start(DiffRequest(tmp_path / "gone", tmp_path))
    ended = all_events(source)[-1]
    assert isinstance(ended, Ended) and ended.problem.startswith(f"{tmp_path / 'gone'}: does not exist")


def test_a_child_that_is_killed_is_told_and_a_new_one_can_be_started(tmp_path: Path) -> None:
    a, b = two_captures(tmp_path)
    source = ChildSource()
    source.start(DiffRequest(a, b))
    assert source._process is not None
    os.kill(source._process.pid, signal.SIGKILL)
    ended = all_events(source)[-1]
    assert isinstance(ended, Ended) and "signal 9 (SIGKILL)" in ended.problem
    source.start(DiffRequest(a, b))
    assert all_events(source)[-1] == Ended()


def test_a_comparison_that_is_cancelled_leaves_no_process(tmp_path: Path) -> None:
    a, b = two_captures(tmp_path)
    source = ChildSource()
    source.start(DiffRequest(a, b))
    process = source._process
    assert process is not None
    source.cancel()
    assert process.returncode == -signal.SIGKILL and source.poll() == []


def test_paths_that_look_like_options_are_paths() -> None:
    assert DiffRequest(Path("-a"), Path("b c")).words() == ["aprtui", "diff", "./-a", "b c"]


def test_of_two_recordings_the_stages_are_compared(tmp_path: Path) -> None:
    a, b = (attention_recording(tmp_path / name) for name in "ab")
    assert DiffRequest(a, b).words()[4:] == ["--as-captures"]
    assert not DiffRequest(a, tmp_path).words()[4:]


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A capture of the embedded model, and one with a fault in layer 2 ffn_gate by another arithmetic."""
    folder = tmp_path_factory.mktemp("embedded")
    fault = ["--mode", "q8", "--inject", "layer=2,stage=ffn_gate,kind=scale,magnitude=0.5"]
    for name, options in (("good", []), ("bad", fault)):
        words = ["trace", "-p", "def fib(n):", "--logits", "all", "--save-tensor-dir", str(folder / name), *options]
        subprocess.run([sys.executable, "-m", "aprtui", *words], check=True, capture_output=True, timeout=SECONDS)
    return folder / "good", folder / "bad"


@pytest.mark.slow
async def test_a_planted_fault_is_reached_and_the_copied_commands_give_the_same_verdicts(
    captures: tuple[Path, Path],
) -> None:
    a, b = captures
    app = AprtuiApp(Session(RecordedSource()), screen_state(ScreenName.DIFF, a=a, b=b), Config(Path("none")))
    async with app.run_test(size=(120, 40)) as pilot:

        async def until(holds: Callable[[str, str], bool]) -> tuple[str, str]:
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                await pilot.pause(0.05)
                if isinstance(app.screen, DiffScreen) and not app.screen.comparing:
                    shown = app.screen.query_one(VerdictLines).text
                    words = "\n".join((shown.sentence, *shown.details))
                    if holds(shown.word, words):
                        return shown.word, words
            raise AssertionError("no verdict")

        async def same_headless(word: str) -> None:
            await pilot.press("y")
            code, summary = headless(shlex.split(app.clipboard))
            assert (code, summary["verdict"]) == ({"PASS": 0, "FAIL": 1, "UNKNOWN": 125}[word], word)

        word, lines = await until(lambda word, _: word == "FAIL")
        assert "by the noise floor of demo-qwen2-q4km.gguf" in lines, "both sides are captures of the embedded model"
        await pilot.press("home", "g", "d")
        assert app.screen.query_one(DiffGrid).node == Node(2, "ffn_gate")
        await same_headless(word)
        await pilot.press("R")
        word, lines = await until(lambda _, lines: "by a replay" in lines)
        assert "layer 2 ffn_gate" in lines and "injected, certain" in lines
        await same_headless(word)
        await pilot.press("M", "b")
        word, lines = await until(lambda word, _: word == "PASS")
        await same_headless(word)
        await pilot.press("B", "B")
        word, lines = await until(lambda word, _: word == "FAIL")
        await same_headless(word)


def test_records_of_a_child_make_a_comparison(tmp_path: Path) -> None:
    a, b = two_captures(tmp_path)
    source = ChildSource()
    source.start(DiffRequest(a, b))
    comparison = read_comparison([event.fields for event in all_events(source) if isinstance(event, Record)])
    assert comparison.verdict == "UNKNOWN"
    assert comparison.focus is not None and comparison.focus.node == Node(1, "ffn_gate")
