"""Replay and floors need no typing: the model of two captures is found, or chosen from a list."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from textual.widgets import Input

from aprtui.model.digest import file_digest
from aprtui.model.model import load_model
from aprtui.resources import embedded_model
from aprtui.trace.capture import Capture
from aprtui.trace.manifest import read_manifest, write_manifest
from aprtui.tui.frame.recent import recent_paths
from aprtui.tui.screens.diff.models import ModelDialog, ModelSearch, TypedPath, model_rows, search_models
from aprtui.tui.screens.diff.pair import Sides
from aprtui.tui.screens.diff.screen import DiffScreen
from aprtui.tui.screens.diff.verdict import VerdictLines
from aprtui.tui.widgets.table import Table
from tests.compare.recorded import two_captures
from tests.tui.driver import Driver, screen_text, until, until_shown
from tests.tui.screens.diff.recorded import playing
from tests.tui.screens.diff.test_screen import between, opened, screen, settled

EMBEDDED = {"name": "demo", "sha256": file_digest(embedded_model()), "architecture": "qwen2"}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory and a memory without models."""
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    monkeypatch.setenv("APRTUI_STATE_DIR", str(tmp_path / "state"))


def of_model(path: Path, **fields: object) -> Path:
    """Say in the manifest of a capture that it is of another model."""
    manifest = read_manifest(path)
    assert manifest is not None
    write_manifest(path, replace(manifest, model=replace(manifest.model, **fields)))  # type: ignore[arg-type]
    return path


def sides_of(a: Path, b: Path) -> Sides:
    return Sides(Capture.open(a), Capture.open(b))


def dialog(pilot: Driver) -> ModelDialog:
    assert isinstance(pilot.app.screen, ModelDialog)
    return pilot.app.screen


def test_a_model_is_proven_by_the_digest_of_both_sides_alone(tmp_path: Path) -> None:
    a, b = two_captures(tmp_path)
    files = (tmp_path / "nothing.gguf", embedded_model())
    other = search_models(sides_of(a, b), files)
    assert (other.matching, other.only, other.proven) == ((), None, None)
    for side in (a, b):
        of_model(side, **EMBEDDED)
    assert search_models(sides_of(a, b), files).proven == embedded_model()
    of_model(b, sha256=None)
    half = search_models(sides_of(a, b), files)
    assert half.only == embedded_model() and half.proven is None, "B may be another quantisation of that name"
    of_model(b, sha256="1" * 64)
    different = search_models(sides_of(a, b), files)
    assert different.matching == () and "--model-a and --model-b" in different.words


def test_files_that_fit_come_first_and_a_typed_folder_is_looked_into(tmp_path: Path) -> None:
    search = ModelSearch((), (tmp_path / "a.gguf", tmp_path / "b.gguf"), (tmp_path / "b.gguf",))
    assert [row.key for row in model_rows(search, "")] == [*map(tmp_path.joinpath, ("b.gguf", "a.gguf")), TypedPath()]
    assert [row.key for row in model_rows(search, "A.gg")] == [tmp_path / "a.gguf", TypedPath()]
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "c.gguf").write_bytes(b"GGUF")
    assert tmp_path / "more" / "c.gguf" in [row.key for row in model_rows(search, str(tmp_path / "more"))]


async def test_the_model_beside_the_captures_judges_at_once_and_replays_at_one_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = two_captures(tmp_path)
    beside = tmp_path / "beside.gguf"
    shutil.copy(embedded_model(), beside)
    for side in (a, b):
        of_model(side, **EMBEDDED)
    source = playing(a, b)
    async with opened(between(a, b), source, monkeypatch) as pilot:
        assert source.requests[-1].model == beside and not source.requests[-1].replay
        await until_shown(pilot, "by the noise floor of beside.gguf")  # it says which model
        await pilot.press("R")
        await until_shown(pilot, "by a replay of both sides with beside.gguf")
        assert source.requests[-1].replay and source.requests[-1].model == beside
        await pilot.press("y")
        assert pilot.app.clipboard.endswith(f"--model {beside} --replay")


async def test_a_model_known_by_its_name_replays_and_gives_no_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = two_captures(tmp_path)
    shutil.copy(embedded_model(), tmp_path / "beside.gguf")
    for side in (a, b):
        of_model(side, name=load_model(embedded_model()).name, sha256=None)
    source = playing(a, b)
    async with opened(between(a, b), source, monkeypatch) as pilot:
        assert source.requests[-1].model is None, "another quantisation of that name would give a wrong floor"
        await pilot.press("R")
        await until(pilot, lambda: not isinstance(pilot.app.screen, DiffScreen) or settled(pilot))
        rows = dialog(pilot).query_one(Table).rows
        assert "2 files have that name" in screen_text(pilot), "the copy and the embedded one"
        assert [row.key for row in rows[:2]] == [tmp_path / "beside.gguf", embedded_model()]


async def test_where_no_file_fits_one_is_chosen_from_a_list_or_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = two_captures(tmp_path)
    source = playing(a, b)
    model = tmp_path / "away" / "m.gguf"
    model.parent.mkdir()
    model.write_bytes(b"GGUF")
    async with opened(between(a, b), source, monkeypatch, (80, 24)) as pilot:
        await pilot.press("R")
        assert "the captures are of tiny Q4_K, sha256 000000000000…: no file at hand is that model" in " ".join(
            screen_text(pilot).replace("│", " ").split()
        )
        assert embedded_model().name in screen_text(pilot)
        await pilot.press("escape")
        assert isinstance(pilot.app.screen, DiffScreen) and not source.requests[-1].replay
        await pilot.press("R", *"nothing", "enter")
        assert "nothing: is no file: type the path of a GGUF model" in screen_text(pilot)
        dialog(pilot).query_one(Input).value = str(model)
        await pilot.pause()
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, DiffScreen) and settled(pilot))
        assert source.requests[-1].replay and source.requests[-1].model == model
        assert recent_paths()[0] == model, "it is offered the next time"
        assert (
            screen(pilot).query_one(VerdictLines).text.details[-1].startswith("by a replay of both sides with m.gguf")
        )
        await pilot.press("R")
        await until(pilot, lambda: settled(pilot))
        assert source.requests[-1].model == model, "a model that is known is not asked for again"
