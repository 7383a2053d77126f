"""Jump mode: labels over cells and rows, and the way to what is typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from aprtui.trace.graph.stage import Node
from aprtui.tui import app as app_module
from aprtui.tui.app import SCREENS
from aprtui.tui.frame.overlay import JumpScreen
from aprtui.tui.frame.state import ScreenName, ScreenState, screen_state
from aprtui.tui.screens.diff.grid import DiffGrid
from aprtui.tui.widgets.jump_targets import JumpPlace, labelled
from aprtui.tui.widgets.stage_grid import StageGrid
from aprtui.tui.widgets.table import Table
from tests.compare.recorded import FAULT, two_captures
from tests.tui.driver import Driver, notifications, screen_text, showing, until, until_shown
from tests.tui.screens.diff.recorded import playing, screen_playing


@pytest.fixture
def sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    a, b = two_captures(tmp_path)
    monkeypatch.setattr(app_module, "SCREENS", {**SCREENS, ScreenName.DIFF: screen_playing(playing(a, b))})
    return a, b


def places(count: int, width: int) -> list[JumpPlace]:
    return [JumpPlace(0, width * number, width, number) for number in range(count)]


def label_of(pilot: Driver, target: object) -> str:
    """The label that leads to `target`, while labels are shown."""
    screen = pilot.app.screen
    assert isinstance(screen, JumpScreen)
    return next(label for label, place in screen._labels.items() if place.target == target)


@pytest.mark.parametrize(("count", "length"), [(0, 0), (1, 1), (26, 1), (27, 2), (676, 2), (677, 3)])
def test_labels_are_as_long_as_each_other_and_as_short_as_can_be(count: int, length: int) -> None:
    labels = labelled(places(count, 9))
    assert len(labels) == count and {len(label) for label in labels} <= {length}
    assert [place.target for place in labels.values()] == list(range(count))


def test_what_labels_are_too_few_for_has_none() -> None:
    assert len(labelled(places(1000, 2))) == 676


async def test_a_label_leads_to_its_cell(sides: tuple[Path, Path]) -> None:
    state = screen_state(ScreenName.DIFF, a=sides[0], b=sides[1])
    async with showing(state, (80, 24)) as pilot:
        grid = pilot.app.screen.query_one(DiffGrid)
        await until_shown(pilot, "layer 1 ffn_gate: UNKNOWN")
        before = screen_text(pilot)
        await pilot.press("J")
        await pilot.pause()
        label = label_of(pilot, FAULT)
        lines = [line for line in screen_text(pilot).splitlines() if f" {FAULT.layer} " in line]
        assert any(label in line for line in lines) and "Type a label" in screen_text(pilot)
        await pilot.press(label[0])
        await pilot.pause()
        assert label in screen_text(pilot) and label_of(pilot, Node(0, "attn_norm")) not in screen_text(pilot)
        await pilot.press(label[1])
        assert grid.node == FAULT
        await pilot.press("J")
        await pilot.press(*label_of(pilot, Node(None, "lm_head")))
        assert grid.node == Node(None, "lm_head")
        await pilot.press("J", "z", "a", "backspace", "escape", "J", "1")
        assert grid.node == Node(None, "lm_head") and grid._labels is None, "no label, no jump"
        grid.put_cursor(FAULT)
        await until(pilot, lambda: screen_text(pilot) == before)  # no label is left


async def test_a_label_leads_to_its_layer_and_stage_while_tokens_come() -> None:
    async with showing(ScreenState(ScreenName.LIVE)) as pilot:
        await pilot.press("e", "x", "enter")
        grid = pilot.app.screen.query_one(StageGrid)
        await until(pilot, lambda: grid._tile is not None)
        await pilot.press("J")
        label = label_of(pilot, Node(3, "attn_scores"))
        await pilot.pause(0.1)
        assert label in screen_text(pilot)
        await pilot.press(*label)
        assert grid.node == Node(3, "attn_scores") and grid.has_focus


async def test_a_label_leads_to_its_row(sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sides[0].parent)
    async with showing(ScreenState(ScreenName.BROWSE)) as pilot:
        await until_shown(pilot, "good", "bad")
        table = pilot.app.screen.query_one("#artifacts", Table)
        table.focus()
        await pilot.press("J", "b")
        assert table.key == table.rows[1].key
        await pilot.press("J", "a")
        assert table.key == table.rows[0].key


async def test_where_nothing_has_a_label_that_is_told() -> None:
    async with showing(ScreenState(ScreenName.TENSOR)) as pilot:
        await pilot.press("J")
        assert notifications(pilot) == ["Nothing to jump to here: grids and lists have labels."]
