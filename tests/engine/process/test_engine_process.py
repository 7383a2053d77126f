from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from aprtui.engine.generation import StopReason
from aprtui.engine.process import engine_process
from aprtui.engine.process.engine_process import EngineProcess, EngineState
from aprtui.engine.process.loading import LoadedEngine, Opener, load_engine
from aprtui.engine.process.messages import (
    EngineSettings,
    Event,
    Failed,
    Finished,
    Loaded,
    LoadingCancelled,
    Paused,
    Resumed,
    Started,
    StepProgress,
    TokenText,
)
from aprtui.engine.protocol import KvType, Mode
from aprtui.engine.sampling import GREEDY, NO_TOKEN
from aprtui.errors import EngineError
from aprtui.progress import Progress
from aprtui.resources import embedded_model
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import graph_for
from tests.engine.fake_engine import open_fake
from tests.hangs import no_hang

CHECKOUT = Path(__file__).parents[3]

E = TypeVar("E", bound=Event)


def open_and_raise(progress: object, settings: EngineSettings, error: Exception) -> LoadedEngine:
    raise error


def open_and_fault(progress: object, settings: EngineSettings) -> LoadedEngine:
    return LoadedEngine(ctypes.string_at(0), None, None, None, settings)  # type: ignore[arg-type]


def open_and_print(progress: Progress, settings: EngineSettings) -> LoadedEngine:
    os.write(1, b"to stdout\n")
    os.write(2, b"to stderr\n")
    return open_fake(progress, settings)


@contextlib.contextmanager
def running(opener: Opener, log: Path | None = None, settings: EngineSettings | None = None) -> Iterator[EngineProcess]:
    process = EngineProcess(opener, settings, log)
    process.start()
    try:
        yield process
    finally:
        process.close()


def until(process: EngineProcess, wanted: type[E], seconds: float = 20.0) -> list[Event]:
    """Events up to and with the first of type `wanted`."""
    events: list[Event] = []
    deadline = time.monotonic() + seconds
    while not any(isinstance(event, wanted) for event in events):
        assert time.monotonic() < deadline, f"no {wanted.__name__} within {seconds} s, only {events}"
        events += process.poll()
        time.sleep(0.002)
    return events


def pid(process: EngineProcess) -> int:
    assert process._process is not None
    return process._process.pid


def descriptors() -> int:
    """How many files this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def gone(number: int, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_generation_arrives_as_events_in_order() -> None:
    with running(open_fake) as process:
        loaded = until(process, Loaded)
        assert loaded[0] == StepProgress("compiling kernels", 1, 2)
        assert process.info is not None
        assert process.info.backend == "fake"
        run = process.generate("abc", GREEDY, 3)
        events = until(process, Finished)
        started = next(event for event in events if isinstance(event, Started))
        assert started == Started(run, "abc", (97, 98, 99), 0)
        assert [event.text for event in events if isinstance(event, TokenText)] == ["d", "e", "f"]
        assert events[-1] == Finished(run, StopReason.LENGTH, "")
        assert process.state is EngineState.READY


NUMPY = EngineSettings("numpy", Mode.EXACT, KvType.F16, threads=1, context=32)


def test_model_file_is_opened_as_asked_for_and_generates() -> None:
    with running(partial(load_engine, path=embedded_model()), settings=NUMPY) as process:
        until(process, Loaded, 60)
        info = process.info
        assert info is not None
        assert (info.backend, info.mode, info.kv, info.context) == ("numpy", Mode.EXACT, KvType.F16, 32)
        assert info.temperature == pytest.approx(0.7)
        process.generate("def f(", GREEDY, 2)
        events = until(process, Finished, 60)
        started = next(event for event in events if isinstance(event, Started))
        latest = process.latest()
        assert latest is not None
        assert latest.position == len(started.tokens) + 1
        assert (latest.stats["count"] > 0).all()


def test_model_file_that_is_missing_is_named() -> None:
    with running(partial(load_engine, path=Path("missing.gguf")), settings=NUMPY) as process:
        failed = until(process, Failed)[-1]
        assert isinstance(failed, Failed)
        assert failed.fatal
        assert "missing.gguf" in failed.message


def test_records_hold_statistics_of_every_node_and_the_engines_own_times() -> None:
    with running(partial(open_fake, delay=0.01)) as process:
        until(process, Loaded)
        process.generate("abc", GREEDY, 3)
        until(process, Finished)
        first, last = process.record(0), process.latest()
        assert first is not None
        assert last is not None
        assert (first.index, first.token, first.position, first.evaluated) == (0, ord("d"), 3, 3)
        assert (last.index, last.token, last.position, last.evaluated) == (2, ord("f"), 5, 1)
        assert (last.stats["count"] > 0).all()
        # The fake engine fills each node with (1 + its place) × (1 + 0.1 × position of the pass).
        assert last.stats["rms"] == pytest.approx([(1 + place) * 1.4 for place in range(len(last.stats))], rel=1e-6)
        assert 0 < last.tokens_per_second <= 100
        assert first.time_to_first_token >= 0.03


def test_pause_rests_step_makes_one_token_and_resume_goes_on() -> None:
    with running(partial(open_fake, delay=0.02)) as process:
        until(process, Loaded)
        process.generate("A", GREEDY, 30)
        until(process, TokenText)
        process.pause()
        until(process, Paused)
        assert process.state is EngineState.PAUSED
        resting = process.written
        time.sleep(0.1)
        assert process.written == resting
        process.step()
        until(process, Paused)
        assert process.written == resting + 1
        process.resume()
        until(process, Resumed)
        until(process, Finished)
        assert process.written == 30


def test_cancel_ends_a_paused_generation() -> None:
    with running(partial(open_fake, delay=0.02)) as process:
        until(process, Loaded)
        process.generate("A", GREEDY, 50)
        process.pause()
        until(process, Paused)
        process.cancel()
        finished = until(process, Finished)[-1]
        assert isinstance(finished, Finished)
        assert finished.reason is StopReason.CANCELLED


def test_new_prompt_replaces_the_generation_that_is_going_on() -> None:
    with running(partial(open_fake, delay=0.02)) as process:
        until(process, Loaded)
        process.generate("A", GREEDY, 50)
        until(process, TokenText)
        second = process.generate("a", GREEDY, 2)
        events = [*until(process, Finished), *until(process, Finished)]
        assert [event.text for event in events if isinstance(event, TokenText) and event.run == second] == ["b", "c"]


def test_prompt_that_is_too_long_is_reported_and_the_engine_goes_on() -> None:
    with running(partial(open_fake, context=4)) as process:
        until(process, Loaded)
        process.generate("abcdef", GREEDY, 2)
        failed = until(process, Failed)[-1]
        assert isinstance(failed, Failed)
        assert "6 tokens, the context has room for 4" in failed.message
        assert not failed.fatal
        process.generate("ab", GREEDY, 2)
        until(process, Finished)


def test_pass_without_usable_logits_still_shows_its_stages() -> None:
    bad = Node(1, "ffn_up")
    with running(partial(open_fake, poisoned=frozenset({bad}), nan_logits_after=2)) as process:
        until(process, Loaded)
        assert process.info is not None
        process.generate("ab", GREEDY, 9)
        failed = until(process, Failed)[-1]
        assert isinstance(failed, Failed)
        assert "logits are NaN" in failed.message
        latest = process.latest()
        assert latest is not None
        assert latest.token == NO_TOKEN
        assert latest.index == 2
        assert list(latest.stats["nan"].nonzero()[0]) == [graph_for(process.info.graph).order[bad]]


@pytest.mark.parametrize("during", ["loading", "generation", "pause"])
def test_killed_engine_is_reported_in_one_line_and_can_be_restarted(during: str) -> None:
    with running(partial(open_fake, delay=0.02)) as process:
        if during != "loading":
            until(process, Loaded)
            process.generate("A", GREEDY, 50)
            until(process, TokenText)
        if during == "pause":
            process.pause()
            until(process, Paused)
        os.kill(pid(process), signal.SIGKILL)
        failed = until(process, Failed)[-1]
        assert failed == Failed("the engine process was ended by signal 9 (SIGKILL)", fatal=True)
        assert process.state is EngineState.CRASHED
        process.generate("a", GREEDY, 1)
        assert process.poll() == []
        process.restart()
        until(process, Loaded)
        process.generate("a", GREEDY, 1)
        until(process, Finished)


def test_frozen_engine_is_replaced_without_waiting_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(open_fake) as process:
        until(process, Loaded)
        frozen = pid(process)
        os.kill(frozen, signal.SIGSTOP)
        assert process.poll() == []
        with no_hang(), monkeypatch.context() as patched:
            patched.setattr(engine_process, "QUIT_SECONDS", None)  # waiting for it would never end
            process.restart()
        assert gone(frozen)
        until(process, Loaded)


def test_segmentation_fault_is_named_and_leaves_its_trace_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    with running(open_and_fault, log) as process:
        failed = until(process, Failed)[-1]
    assert failed == Failed(f"the engine process was ended by signal 11 (SIGSEGV); see {log}", fatal=True)
    assert "Segmentation fault" in log.read_text()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (EngineError("no room for 9 GB"), "no room for 9 GB"),
        (ValueError("bad\nluck"), "internal error in the engine: ValueError: bad luck"),
    ],
)
def test_failure_while_opening_is_reported_in_one_line(error: Exception, said: str) -> None:
    with running(partial(open_and_raise, error=error)) as process:
        assert until(process, Failed)[-1] == Failed(said, fatal=True)


def test_output_of_the_engine_goes_to_the_log_and_never_to_the_screen(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "engine.log"
    with running(open_and_print, log) as process:
        until(process, Loaded)
    assert log.read_text() == "to stdout\nto stderr\n"
    assert capfd.readouterr() == ("", "")


def test_closing_ends_a_hanging_engine_and_leaves_no_descriptor_open() -> None:
    before = descriptors()
    with running(partial(open_fake, delay=60.0)) as process:
        until(process, Loaded)
        process.generate("a", GREEDY, 2)
        number = pid(process)
    assert gone(number)
    assert descriptors() == before


@pytest.mark.parametrize("how", ["return", "kill"])
def test_engine_ends_with_its_app_without_a_word_on_stderr(how: str) -> None:
    script = (
        "import os, sys, time\n"
        "from functools import partial\n"
        "from aprtui.engine.process.engine_process import EngineProcess\n"
        "from aprtui.engine.process.messages import Loaded\n"
        "from aprtui.engine.sampling import GREEDY\n"
        "from tests.engine.fake_engine import open_fake\n"
        "process = EngineProcess(partial(open_fake, delay=60.0))\n"
        "process.start()\n"
        "while not any(isinstance(event, Loaded) for event in process.poll()): time.sleep(0.01)\n"
        "process.generate('a', GREEDY, 2)\n"
        "print(process._process.pid, flush=True)\n"
        f"{'os.kill(os.getpid(), 9)' if how == 'kill' else ''}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, cwd=CHECKOUT, capture_output=True, text=True, timeout=30
    )
    assert gone(int(done.stdout))
    assert done.stderr == ""


def open_and_sleep(progress: Progress, settings: EngineSettings) -> LoadedEngine:
    progress("compiling kernels", 1, 2)
    time.sleep(600)
    return open_fake(progress, settings)


def test_a_loading_is_cancelled_with_its_process_and_begun_again() -> None:
    with running(open_and_sleep) as process:
        until(process, StepProgress)
        number = pid(process)
        process.cancel()
        assert str(process.state) == "closed" and gone(number)
        assert process.poll() == [LoadingCancelled()] and process.poll() == []
        process.restart()
        until(process, StepProgress)
        assert process.state is EngineState.LOADING and pid(process) != number


def test_a_cancelled_reopening_leaves_the_settings_of_the_engine_before() -> None:
    with running(open_fake) as process:
        until(process, Loaded)
        before = process.settings
        process.reopen(EngineSettings(threads=7))
        process.state = EngineState.LOADING  # as once `Reopening` has come
        process.cancel()
        assert process.settings == before
        process.restart()
        until(process, Loaded)


def test_starting_again_ends_the_process_that_runs() -> None:
    with running(open_fake) as process:
        until(process, Loaded)
        number = pid(process)
        process.start()
        until(process, Loaded)
        assert gone(number) and pid(process) != number


def test_what_a_cancelled_prompt_has_left_is_in_no_record_of_the_next_one() -> None:
    opener = partial(load_engine, path=embedded_model())
    with running(opener, settings=EngineSettings(backend="cpu")) as process:
        until(process, Loaded, 120)
        process.generate("def fib(n):", GREEDY, max_tokens=1)
        until(process, Finished)
        wanted = process.latest()
        process.generate("x = 1\n" * 150, GREEDY, max_tokens=1)
        until(process, Started)
        process.cancel()
        until(process, Finished)
        process.generate("def fib(n):", GREEDY, max_tokens=1)
        until(process, Finished)
        found = process.latest()
        assert wanted is not None and found is not None
        assert found.stats["count"].tolist() == wanted.stats["count"].tolist()
