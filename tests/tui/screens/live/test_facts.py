"""`I` on the live screen: the facts of the loaded model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from aprtui.resources import embedded_model
from aprtui.tui.app import AprtuiApp
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenName, ScreenState
from aprtui.tui.screens.live.facts import ModelFactsScreen
from tests.tui.driver import Driver, notifications, screen_text, tool_screen, until, until_shown
from tests.tui.screens.live.recorded import RecordedSource


def app_on(path: Path | None) -> AprtuiApp:
    source = RecordedSource()
    source.recorded_info = replace(source.recorded_info, path=path)
    return AprtuiApp(Session(source), ScreenState(ScreenName.LIVE))


async def until_loaded(pilot: Driver) -> None:
    await until_shown(pilot, "example")


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_the_model_s_own_facts_are_a_key_away(size: tuple[int, int]) -> None:
    async with app_on(embedded_model()).run_test(size=size) as pilot:
        await until_loaded(pilot)
        await pilot.press("I")
        await until_shown(pilot, "Unusual", "Q, K and V have biases", "qwen2, Q4_K_M, 3.67 M parameters", "Q6_K")
        await pilot.press("pagedown", "pagedown", "pagedown")
        await until_shown(pilot, "Chat template")
        await pilot.press("I")
        await until(pilot, lambda: not isinstance(pilot.app.screen, ModelFactsScreen))


async def test_a_file_that_went_away_is_an_answer_in_one_line(tmp_path: Path) -> None:
    async with app_on(tmp_path / "gone.gguf").run_test(size=(120, 40)) as pilot:
        await until_loaded(pilot)
        await pilot.press("I")
        await until_shown(pilot, "gone.gguf")
        await until(pilot, lambda: "Reading the model" not in screen_text(pilot))


async def test_without_a_file_there_are_no_facts(tmp_path: Path) -> None:
    async with app_on(None).run_test(size=(120, 40)) as pilot:
        await until_loaded(pilot)
        await pilot.press("I")
        await until(pilot, lambda: notifications(pilot) == ["No model file is loaded yet."])
        assert tool_screen(pilot).NAME is ScreenName.LIVE
