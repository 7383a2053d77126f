"""The live screen on a recorded session: the same keys for pause, step and time travel, and no engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aprtui.config import Config
from aprtui.engine.process.engine_process import EngineState
from aprtui.engine.sessions.player import NO_ENGINE, SessionPlayer
from aprtui.resources import embedded_model
from aprtui.tui.app import AprtuiApp
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenName, ScreenState, parse_state, screen_state
from aprtui.tui.screens.live.screen import LiveScreen
from tests.engine.sessions.recorded_session import write_session
from tests.tui.driver import Driver, notifications, screen_text, tool_screen, until, until_shown
from tests.tui.screens.live.recorded import PIECES, RecordedSource

LAST = f"token {len(PIECES)} of {len(PIECES)}"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APRTUI_STATE_DIR", str(tmp_path / "state"))
    write_session(tmp_path / "s.jsonl")
    return tmp_path


@asynccontextmanager
async def playing(state: ScreenState, size: tuple[int, int] = (120, 40)) -> AsyncIterator[Driver]:
    app = AprtuiApp(Session(SessionPlayer(Path("s.jsonl"))), state, Config(Path("config.toml")))
    async with app.run_test(size=size) as pilot:
        yield pilot


RECORDING = screen_state(ScreenName.LIVE, recording="s.jsonl")


@pytest.mark.parametrize("size", [(80, 24), (200, 60)])
async def test_a_recording_plays_by_itself(size: tuple[int, int]) -> None:
    async with playing(RECORDING, size) as pilot:
        await pilot.press("f")
        await until_shown(pilot, "recording s.jsonl", LAST, "stop token", "return fib(n - 1)")
        assert "prompt ❯" not in screen_text(pilot)


async def test_pause_step_and_time_travel_are_the_keys_of_live() -> None:
    async with playing(RECORDING) as pilot:
        source = pilot.app.session.source  # type: ignore[attr-defined]
        await until(pilot, lambda: source.written >= 3)
        await pilot.press("p")
        await until(pilot, lambda: source.state is EngineState.PAUSED)
        at = source.written
        await pilot.press("n", "n")
        await until_shown(pilot, f"token {at + 2} of {at + 2}")
        await pilot.press("home")
        await until_shown(pilot, f"token 1 of {at + 2}", "the prompt, 5 tokens")
        await pilot.press("right_square_bracket")
        await until_shown(pilot, f"token 2 of {at + 2}")
        state = tool_screen(pilot).state()
        assert (state.text("recording"), state.text("token")) == ("s.jsonl", "1") and "prompt" not in state.fields
        assert list(tool_screen(pilot).command()) == ["aprtui", "render", "s.jsonl", "--at", "2", "--svg", "s-2.svg"]
        await pilot.press("G", "p", "f")
        await until_shown(pilot, LAST)
        await pilot.press("r")
        await until(pilot, lambda: source.latest().run == 2)
        await until_shown(pilot, LAST, "temperature 0.5  seed 3")


async def test_what_needs_an_engine_is_declined_in_words() -> None:
    async with playing(RECORDING) as pilot:
        await pilot.press("f")
        await until_shown(pilot, LAST)
        for key in ("e", "E", "o", "i", "a", "A", "w", "W", "L", "I"):
            await pilot.press("down", key)
            assert any(NO_ENGINE[1:] in note for note in notifications(pilot)), key
            assert isinstance(pilot.app.screen, LiveScreen) and not tool_screen(pilot).is_typing
        await pilot.press("t", "t", "t")  # flip risk, which an engine measures
        await until(pilot, lambda: any(NO_ENGINE[1:] in note for note in notifications(pilot)))


async def test_a_state_opens_at_its_token(folder: Path) -> None:
    async with playing(parse_state(f"{RECORDING}&token=4&layer=1&stage=ffn_up")) as pilot:
        await until_shown(pilot, "token 5 of", "layer 1 ffn_up")


async def test_a_recording_takes_the_place_of_an_engine_and_gives_it_back(folder: Path) -> None:
    source, opened = RecordedSource(), list[Path]()

    def open_model(path: Path) -> RecordedSource:
        opened.append(path)
        return RecordedSource()

    session = Session(source, model=embedded_model(), open_model=open_model)
    async with AprtuiApp(session, ScreenState(ScreenName.LIVE)).run_test(size=(120, 40)) as pilot:
        assert isinstance(pilot.app, AprtuiApp)
        await until_shown(pilot, "Press e,")
        pilot.app.open_state(RECORDING)
        await until_shown(pilot, "recording s.jsonl")
        assert "close" in source.calls
        pilot.app.open_state(screen_state(ScreenName.LIVE, model=embedded_model()))
        await until_shown(pilot, "Press e,", "prompt ❯")
        assert opened == [embedded_model()]
        (folder / "s.jsonl").write_text("no\n")
        pilot.app.open_state(RECORDING)
        await until(pilot, lambda: any("not JSON" in note for note in notifications(pilot)))
        assert "prompt ❯" in screen_text(pilot)
