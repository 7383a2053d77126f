"""A session that is played: events and records as an engine process gives them, at the pace that is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from aprtui.engine.generation import StopReason
from aprtui.engine.process.engine_process import EngineProcess, EngineState
from aprtui.engine.process.messages import (
    Declined,
    EngineSettings,
    Event,
    Failed,
    Finished,
    Loaded,
    Paused,
    Resumed,
    Started,
    TokenText,
)
from aprtui.engine.sampling import Sampling
from aprtui.engine.sessions.player import SessionPlayer
from aprtui.errors import UnreadableError
from aprtui.tui.frame.session import LiveSource
from tests.engine.sessions.recorded_session import START, write_session
from tests.tui.screens.live.recorded import PIECES


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_session(tmp_path / "s.jsonl")


def texts(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, TokenText)]


def playing(path: Path, clock: Clock, pace: float | None = None, **options: int) -> SessionPlayer:
    player = SessionPlayer(path, clock, **options)
    player.start()
    assert player.poll() == [Loaded(START.engine)]
    player.set_pace(pace)
    player.generate("whatever", Sampling(), 10)
    return player


def test_it_is_a_source_as_an_engine_process_is(path: Path) -> None:
    sources: tuple[LiveSource, ...] = (SessionPlayer(path), EngineProcess(lambda *call: None))  # type: ignore[arg-type]
    assert [source.recording is None for source in sources] == [False, True]


def test_without_a_pace_all_comes_at_once(path: Path) -> None:
    player = playing(path, Clock())
    events = player.poll()
    assert isinstance(events[0], Started) and events[0].tokens == START.tokens
    assert texts(events) == list(PIECES)
    assert events[-1] == Finished(1, StopReason.STOP_TOKEN, "")
    assert (player.state, player.written, player.first_kept) == (EngineState.READY, len(PIECES), 0)
    latest = player.latest()
    assert latest is not None and latest.index == len(PIECES) - 1 and latest.run == 1
    records = [player.record(number) for number in range(-1, len(PIECES) + 1)]
    assert [None if record is None else record.index for record in records] == [None, *range(len(PIECES)), None]


def test_tokens_come_at_the_pace_and_not_while_it_is_paused(path: Path) -> None:
    clock = Clock()
    player = playing(path, clock, 10.0)
    assert len(texts(player.poll())) == 1
    clock.now += 0.05
    assert texts(player.poll()) == []
    clock.now += 0.06
    assert len(texts(player.poll())) == 1
    player.pause()
    clock.now += 5
    assert player.poll() == [Paused(1)] and player.state is EngineState.PAUSED
    player.step()
    player.step()
    assert len(texts(player.poll())) == 2 and player.state is EngineState.PAUSED
    player.resume()
    events = player.poll()
    assert events[0] == Resumed(1) and len(texts(events)) == 1, "the time of the pause does not count"


def test_a_run_begins_anew_at_the_first_token(path: Path) -> None:
    player = playing(path, Clock())
    player.poll()
    assert player.generate("", Sampling(), 1) == 2
    events = player.poll()
    assert texts(events) == list(PIECES)
    assert {event.run for event in events if isinstance(event, TokenText)} == {2}
    record = player.record(4)
    assert record is not None and record.run == 2


def test_it_pauses_behind_the_token_that_is_wanted(path: Path) -> None:
    player = playing(path, Clock(), pause_at=4)
    assert texts(player.poll()) == list(PIECES[:4])
    assert player.state is EngineState.PAUSED


def test_a_cancelled_run_ends(path: Path) -> None:
    player = playing(path, Clock(), 10.0)
    player.poll()
    player.cancel()
    assert player.poll() == [Finished(1, StopReason.CANCELLED, "")]
    assert player.poll() == [] and player.state is EngineState.READY


def test_what_only_an_engine_can_do_is_declined(path: Path, tmp_path: Path) -> None:
    player = playing(path, Clock())
    player.poll()
    player.reopen(EngineSettings())
    player.measure_noise()
    player.write_capture(tmp_path)
    player.set_lens(True)
    events = player.poll()
    assert len(events) == 3 and all(isinstance(event, Declined) for event in events)


def test_a_session_without_an_end_says_so(tmp_path: Path) -> None:
    player = playing(write_session(tmp_path / "s.jsonl", ended=False), Clock())
    *_, finished, declined = player.poll()
    assert finished == Finished(1, StopReason.CANCELLED, "")
    assert isinstance(declined, Declined) and "ends before the run does" in declined.message


def test_a_session_that_is_damaged_on_the_way_fails_in_one_line(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:9], b"no\n", *lines[9:]]))
    player = playing(path, Clock())
    *_, failed = player.poll()
    assert isinstance(failed, Failed) and "line 10: not JSON" in failed.message and not failed.fatal
    assert player.written == 4 and player.state is EngineState.READY


def test_a_file_that_has_gone_fails_in_one_line(path: Path) -> None:
    player = playing(path, Clock())
    player.poll()
    path.unlink()
    player.generate("", Sampling(), 1)
    failed, *rest = player.poll()
    assert isinstance(failed, Failed) and "cannot be read" in failed.message and rest == []
    with pytest.raises(UnreadableError):
        SessionPlayer(path)


def test_closing_twice_does_nothing(path: Path) -> None:
    player = playing(path, Clock())
    player.close()
    player.close()
    assert player.poll() == [] and player.latest() is None and player.record(0) is None
