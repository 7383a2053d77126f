"""Faults are picked from a list with what each means, get their parameters, and are removed again."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from textual.widgets import Input

from aprtui.engine.faults.kinds import KINDS
from aprtui.trace.graph.stage import Node
from aprtui.tui.screens.live.faults import FaultDialog, FaultEntry, FaultForm, FaultPlace, fault_rows
from aprtui.tui.screens.live.screen import LiveScreen
from aprtui.tui.screens.live.settings import LiveSettingsScreen
from aprtui.tui.widgets.table import Table
from tests.tui.driver import Driver, screen_text, until
from tests.tui.screens.live.recorded import PIECES, RecordedSource
from tests.tui.screens.live.test_screen import live

POSITION = 5 + len(PIECES) - 2


async def picker(pilot: Driver) -> FaultDialog:
    """The list for the stage under the cursor: qkv_matmul of layer 1."""
    await until(pilot, lambda: "stop token" in screen_text(pilot))
    await pilot.press("down", "right", "i")
    await until(pilot, lambda: isinstance(pilot.app.screen, FaultDialog))
    assert isinstance(pilot.app.screen, FaultDialog)
    return pilot.app.screen


def shown(pilot: Driver) -> list[str]:
    return [row.cells[0] for row in pilot.app.screen.query_one(Table).rows]


async def form(pilot: Driver) -> None:
    await until(pilot, lambda: isinstance(pilot.app.screen, FaultForm))


async def test_kinds_that_the_stage_can_have_are_listed_with_what_they_mean() -> None:
    async with live(RecordedSource()) as pilot:
        await picker(pilot)
        await until(pilot, lambda: "Inject a fault at layer 1 qkv_matmul" in screen_text(pilot))
        assert shown(pilot) == ["scale", "noise", "nan", "zero-channel", "write it"]
        await pilot.press("down", "down")
        await until(pilot, lambda: KINDS["nan"].sentence in screen_text(pilot))


async def test_typing_filters_by_name_and_meaning_and_enter_takes_a_kind_with_its_parameters() -> None:
    source = RecordedSource()
    async with live(source) as pilot:
        await picker(pilot)
        await pilot.press(*"division")
        assert shown(pilot) == ["nan", "write it"]
        await pilot.press("enter")
        await form(pilot)
        await until(pilot, lambda: f"--inject layer=1,stage=qkv_matmul,kind=nan,token={POSITION}" in screen_text(pilot))
        pilot.app.screen.query_one("#token", Input).value = ""
        pilot.app.screen.query_one("#channel", Input).value = "7"
        await pilot.press("enter")
        await until(pilot, lambda: len(source.prompts) == 2)
        assert source.settings.faults == ("layer=1,stage=qkv_matmul,kind=nan,channel=7",)
        await until(pilot, lambda: "1 fault" in screen_text(pilot))


async def test_a_magnitude_has_a_default_and_says_what_it_is() -> None:
    source = RecordedSource()
    async with live(source) as pilot:
        await picker(pilot)
        await pilot.press("enter")
        await form(pilot)
        focused = pilot.app.screen.focused
        assert isinstance(focused, Input) and focused.id == "magnitude" and focused.value == "1"
        assert "relative L2" in screen_text(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: bool(source.settings.faults))
        assert source.settings.faults == ("layer=1,stage=qkv_matmul,kind=scale,magnitude=1",)


async def test_a_fault_can_be_written_as_the_command_line_takes_it() -> None:
    source = RecordedSource()
    async with live(source) as pilot:
        await picker(pilot)
        await pilot.press("end", "pagedown", "enter")
        await form(pilot)
        box = pilot.app.screen.query_one("#whole", Input)
        assert box.value == "layer=1,stage=qkv_matmul,kind="
        box.value += "noise, magnitude=0.25"
        await pilot.press("enter")
        await until(pilot, lambda: bool(source.settings.faults))
        assert source.settings.faults == ("layer=1,stage=qkv_matmul,kind=noise,magnitude=0.25",)


async def test_faults_that_are_injected_are_listed_and_removed_one_by_one_or_all() -> None:
    source = RecordedSource()
    async with live(source) as pilot:
        for count in (1, 2):
            await picker(pilot)
            await pilot.press("enter")
            await form(pilot)
            await pilot.press("enter")
            await until(pilot, lambda count=count: len(source.settings.faults) == count)  # type: ignore[misc]
            await until(pilot, lambda: isinstance(pilot.app.screen, LiveScreen) and "fault" in screen_text(pilot))
        first, second = source.settings.faults
        await picker(pilot)
        assert shown(pilot)[:3] == ["remove", "remove", "remove all"]
        await pilot.press("pageup", "enter")
        await until(pilot, lambda: source.settings.faults == (second,))
        assert first != second
        await pilot.press("i")
        await until(pilot, lambda: isinstance(pilot.app.screen, FaultDialog))
        await pilot.press("escape")
        assert source.settings.faults == (second,)


HERE, LATER, OTHER = Node(1, "ffn_up"), Node(1, "ffn_out"), Node(0, "q_post_rope")


def place(kinds: Mapping[Node, tuple[str, ...]]) -> FaultPlace:
    return FaultPlace(HERE, kinds, frozenset(), None)


def test_rows_are_what_is_injected_then_kinds_then_the_way_to_write_one() -> None:
    rows = fault_rows(["a", "b"], place({HERE: ("scale",)}), "")
    assert [row.key for row in rows] == [
        FaultEntry(remove=True, fault="a"), FaultEntry(remove=True, fault="b"), FaultEntry(remove=True),
        FaultEntry(kind="scale"), FaultEntry(),
    ]  # fmt: skip
    assert len(fault_rows(["a"], place({}), "")) == 2
    assert [row.key for row in fault_rows(["a"], place({HERE: tuple(KINDS)}), "no such thing")] == [FaultEntry()]


def test_kinds_of_other_stages_are_offered_there_in_the_same_layer_if_it_has_one() -> None:
    kinds = {OTHER: ("rope-theta", "noise"), HERE: ("scale",), LATER: ("noise",)}
    assert place(kinds).kinds_elsewhere() == {"noise": LATER, "rope-theta": OTHER}
    rows = fault_rows([], place(kinds), "rope")
    assert [row.key for row in rows] == [FaultEntry(kind="rope-theta", node=OTHER), FaultEntry()]
    assert rows[0].cells[1].startswith("at layer 0 q_post_rope: RoPE")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_found_by_its_name(kind: str) -> None:
    assert FaultEntry(kind=kind) in [row.key for row in fault_rows([], place({HERE: tuple(KINDS)}), kind)]


async def test_settings_open_the_list_too() -> None:
    async with live(RecordedSource()) as pilot:
        await until(pilot, lambda: "stop token" in screen_text(pilot))
        await pilot.press("o")
        await until(pilot, lambda: isinstance(pilot.app.screen, LiveSettingsScreen))
        await pilot.press("ctrl+f")
        await until(pilot, lambda: isinstance(pilot.app.screen, FaultDialog))
        await pilot.press("enter")
        await form(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, LiveSettingsScreen))
        assert pilot.app.screen.query_one("#fault", Input).value == "layer=0,stage=attn_norm,kind=scale,magnitude=1"


async def test_without_a_model_there_is_nothing_to_inject_into() -> None:
    source = RecordedSource()
    source.loading_polls = 10_000
    async with live(source, "") as pilot:
        await pilot.press("i")
        await pilot.pause()
        assert isinstance(pilot.app.screen, LiveScreen)
