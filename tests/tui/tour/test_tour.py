"""The tour: by keys from the first step to the last, skipped, left, and what it leaves alone."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len

from aprtui.config import Config
from aprtui.progress import no_progress
from aprtui.trace.capture import Capture
from aprtui.tui.app import AprtuiApp
from aprtui.tui.frame.recent import recent_paths
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenName, ScreenState
from aprtui.tui.screens.diff.causes import CausesDialog
from aprtui.tui.tour.app import TourApp
from aprtui.tui.tour.captures import write_captures
from aprtui.tui.tour.own_engine import OwnEngineScreen
from aprtui.tui.tour.steps import CULPRIT, END, OWN_ENGINES, STEPS, TourStep, TourView
from aprtui.tui.tour.strip import TourStrip
from tests.conftest import CHECKOUT
from tests.tui.driver import Driver, notifications, screen_text, tool_screen, until, until_shown
from tests.tui.screens.live.recorded import RecordedSource

SMALL = (80, 24)
PATIENCE = 120.0
"""Seconds for a comparison, which compiles kernels the first time."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("aprtui-tour")
    write_captures(made, no_progress)
    return made


@asynccontextmanager
async def touring(
    folder: Path, *, keys: Mapping[str, str] | None = None, ascii_only: bool = False
) -> AsyncIterator[tuple[Driver, TourApp]]:
    config = Config(Path("config.toml"), ascii=ascii_only, keys=keys or {})
    app = TourApp(Session(RecordedSource()), ScreenState(ScreenName.LIVE), config, folder=folder)
    async with app.run_test(size=SMALL) as pilot:
        await until_shown(pilot, "Tour 1 of")
        await until(pilot, lambda: app._begun is not None)
        yield pilot, app


async def at_step(pilot: Driver, number: int) -> None:
    await until(pilot, lambda: f"Tour {number} of {len(STEPS)}" in screen_text(pilot), PATIENCE)


def strips(app: TourApp) -> list[TourStrip]:
    return [strip for screen in app._screens.values() for strip in screen.query(TourStrip)]


@pytest.mark.gate
async def test_the_fault_is_found_by_the_keys_that_the_strip_names(folder: Path) -> None:
    async with touring(folder) as (pilot, app):
        await pilot.press("down")
        await at_step(pilot, 2)
        await pilot.press("2")
        await at_step(pilot, 3)
        await until_shown(pilot, "good", "mine")
        await pilot.press("space", "down", "space")
        await at_step(pilot, 4)
        await pilot.press("d")
        await at_step(pilot, 5)
        await until(pilot, lambda: app._begun is not None)
        await until_shown(pilot, "FAIL", str(CULPRIT), "theta 20000")
        await pilot.press("right_square_bracket", "d")
        await at_step(pilot, 6)
        await pilot.press("R")
        await at_step(pilot, 7)
        await pilot.press("g", "d")
        await at_step(pilot, 8)
        await pilot.press("D")
        await until(pilot, lambda: isinstance(app.screen, CausesDialog))
        await pilot.press("escape")
        await at_step(pilot, 9)
        await pilot.press("enter")
        await at_step(pilot, 10)
        assert tool_screen(pilot).NAME is ScreenName.TENSOR
        await pilot.press("plus", "plus", "plus", "plus")
        await at_step(pilot, 11)
        differing = np.abs(np.subtract(*(Capture.open(folder / name).values(CULPRIT) for name in ("good", "mine"))))
        place = np.unravel_index(differing.argmax(), differing.shape)
        assert tool_screen(pilot).state().text("at") == ",".join(map(str, place))
        await pilot.press("escape")
        await at_step(pilot, 12)
        await pilot.press("y")
        await until_shown(pilot, "Tour: the end", "Now on your")
        assert app.clipboard.startswith("aprtui diff ") and "--replay" in app.clipboard
        await pilot.press("f2")
        await until(pilot, lambda: isinstance(app.screen, OwnEngineScreen))
        for engine in OWN_ENGINES:
            await pilot.press(engine.key)
            assert app.clipboard == "\n".join(engine.lines)
            assert all(line in screen_text(pilot) for line in (*engine.lines, f"Copied: {engine.name}."))
        await pilot.press("escape")
        await until_shown(pilot, "Tour: the end")


async def test_every_step_can_be_skipped_and_the_later_ones_find_what_they_need(folder: Path) -> None:
    async with touring(folder) as (pilot, app):
        screens = []
        for number in range(1, len(STEPS) + 1):
            await at_step(pilot, number)
            screens.append(tool_screen(pilot).NAME)
            await pilot.press("f2")
        await until_shown(pilot, "Tour: the end")
        assert all(step.screen in (None, shown) for step, shown in zip(STEPS, screens, strict=True))
        assert [path.name for path in app.captures_at_hand()] == ["good", "mine"]
        await pilot.press("f2")
        await until(pilot, lambda: isinstance(app.screen, OwnEngineScreen))
    assert recent_paths() == (), "nothing of the tour is remembered"


async def test_the_tour_can_be_left_in_the_middle_and_the_app_goes_on(folder: Path) -> None:
    async with touring(folder) as (pilot, app):
        await pilot.press("f2", "f2")
        await at_step(pilot, 3)
        await pilot.press("f3")
        await until(pilot, lambda: not strips(app))
        assert "Tour" not in screen_text(pilot).replace(folder.name, "")
        assert notifications(pilot) == ["The tour is over. Its captures are there until you quit."]
        await pilot.press("f2", "3", "5")
        await pilot.pause(0.3)
        assert tool_screen(pilot).NAME is ScreenName.CONTRACTS and not strips(app)


async def test_the_tour_leaves_typed_keys_and_escape_alone(folder: Path) -> None:
    async with touring(folder) as (pilot, _):
        await pilot.press("e", *"f2 q?")
        await until_shown(pilot, "f2 q?")
        await pilot.press("f2")
        await at_step(pilot, 2)
        await until_shown(pilot, "f2 q?")
        assert tool_screen(pilot).is_typing
        await pilot.press("escape")
        assert not tool_screen(pilot).is_typing
        await pilot.press("2")
        await at_step(pilot, 3)
        await pilot.press("escape")
        await until(pilot, lambda: tool_screen(pilot).NAME is ScreenName.LIVE)
        await until_shown(pilot, "Tour 3 of", "On the Browse screen: 2.")


async def test_the_strip_shows_keys_as_the_user_has_them(folder: Path) -> None:
    keys = {"browse.diff": "f9", "go.browse": "f8", "tour.skip": "f6"}
    async with touring(folder, keys=keys) as (pilot, _):
        await until_shown(pilot, "f6 skips this step")
        await pilot.press("f6")
        await until_shown(pilot, "f8 lists them.")
        await pilot.press("f8")
        await at_step(pilot, 3)
        await pilot.press("f6")
        await until_shown(pilot, "f9 compares B with A")


async def test_the_strip_is_plain_ascii_where_the_app_is(folder: Path) -> None:
    async with touring(folder, ascii_only=True) as (pilot, _):
        await until_shown(pilot, "Tour 1 of", "f2 skips this step")
        assert "\n".join(screen_text(pilot).splitlines()[:4]).isascii()


async def test_every_text_stands_in_two_lines_of_a_small_terminal(folder: Path) -> None:
    async with touring(folder) as (_, app):
        for text in (*(step.text for step in STEPS), END):
            words = app._with_keys(text)
            assert cell_len(words.plain) < 2 * (SMALL[0] - 2) - 12, words.plain
            assert "{" not in words.plain


@pytest.mark.parametrize("step", STEPS, ids=range(1, len(STEPS) + 1))
def test_a_step_is_not_done_before_anything_was_done(step: TourStep) -> None:
    begun = TourView(step.screen or ScreenName.LIVE, {"layer": str(CULPRIT.layer), "stage": CULPRIT.stage})
    if step.text.endswith("{diff.first} goes to it."):
        begun = TourView(ScreenName.DIFF, {"layer": "3", "stage": "attn_norm"})
    assert not step.done(begun, begun)


def test_the_captures_differ_and_their_manifests_do_not_say_why(folder: Path) -> None:
    good, mine = (Capture.open(folder / name) for name in ("good", "mine"))
    assert (good.values(CULPRIT) != mine.values(CULPRIT)).any()
    assert "rope-theta" not in (folder / "mine" / "manifest.json").read_text()


def test_commands_for_other_engines_stand_in_the_documents() -> None:
    for engine in OWN_ENGINES:
        page = re.sub(r"\s+", " ", (CHECKOUT / engine.page).read_text())
        assert [line for line in engine.lines if bare(line) not in page] == []


def bare(line: str) -> str:
    """A line without what it is a comment for, and the name of the folder that it writes."""
    return line.strip().removeprefix("# then: ").split(" --out ")[0]


async def test_the_app_without_a_tour_has_no_strip_and_no_keys_of_it() -> None:
    app = AprtuiApp(Session(RecordedSource()), ScreenState(ScreenName.LIVE), Config(Path("config.toml")))
    async with app.run_test(size=SMALL) as pilot:
        await until_shown(pilot, "text")
        assert not app.screen.query(TourStrip)
        assert not {"f2", "f3"} & app.screen.active_bindings.keys()
