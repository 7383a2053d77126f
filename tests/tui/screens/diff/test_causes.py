"""The dialog of causes: each with its proof, and what was refuted, one key away from the verdict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from textual.widgets import Static

from aprtui.compare.comparison import Cause, TriedAlternative
from aprtui.compare.report.records import comparison_records, read_comparison
from aprtui.trace.graph.stage import Node
from aprtui.tui.frame.state import ScreenName, ScreenState
from aprtui.tui.screens.diff.causes import CausesDialog
from aprtui.tui.screens.diff.grid import DiffGrid
from aprtui.tui.widgets.table import Table
from tests.compare.recorded import Record, records_of, two_captures
from tests.tui.driver import Driver, notifications, screen_text, until_shown
from tests.tui.screens.diff.recorded import RecordedDiff, playing
from tests.tui.screens.diff.test_screen import between, opened

WORDS = "computed with theta 500000, the model says 10000"
REFUTED = "more than honest engines leave, 2e-06"


PLACE = {"token": 1, "channel": 2}


def with_cause(records: list[Record], node: Node, side: str = "") -> list[Record]:
    """The records with a cause at `node`, about the value at `PLACE`, and two alternatives that were tried there."""
    made = read_comparison(records)
    cause = Cause(
        "RoPE base",
        WORDS,
        "read rope.freq_base",
        (node,),
        False,
        0.42,
        2e-7,
        2e-6,
        ("positions are off",),
        "more tokens",
        side,
        places=((node, PLACE),),
    )
    tried = (
        TriedAlternative(node, node, "RoPE base", WORDS, 2e-7, ""),
        TriedAlternative(node, node, "RoPE twice", "turned twice", 0.21, REFUTED),
    )
    return list(comparison_records("a", "b", None, replace(made, causes=(cause,), alternatives=tried)))


def dialog(pilot: Driver) -> CausesDialog:
    assert isinstance(pilot.app.screen, CausesDialog)
    return pilot.app.screen


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    return two_captures(tmp_path)


async def test_the_proof_and_what_is_refuted_are_one_key_away(
    sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    at = Node(1, "ffn_up")
    source = RecordedDiff(lambda request: with_cause(records_of(*sides, "rel_l2=1e-3"), at))
    async with opened(between(*sides), source, monkeypatch) as pilot:
        await until_shown(pilot, "D the proof, and 1 refuted alternative")
        await pilot.press("D")
        await pilot.pause()
        await until_shown(pilot, "Why it errs", WORDS, "To do: read rope.freq_base", "As well: positions are off")
        assert "that reproduces the capture to 2e-07" in str(dialog(pilot).query_one("#proofs", Static).render())
        assert [row.cells[0] for row in dialog(pilot).query_one(Table).rows] == ["proved", "no"]
        await pilot.press("down")
        await until_shown(pilot, f"turned twice; leaves 0.21, refuted: {REFUTED}")
        await pilot.press("enter")
        await pilot.pause()
        assert pilot.app.screen.query_one(DiffGrid).node == at


@pytest.mark.parametrize(("side", "size"), [("A", (120, 40)), ("B", (80, 24))])
async def test_the_tensor_opens_on_the_value_that_the_cause_is_about(
    sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, side: str, size: tuple[int, int]
) -> None:
    at = Node(1, "ffn_up")
    source = RecordedDiff(lambda request: with_cause(records_of(*sides, "rel_l2=1e-3"), at, side))
    states: list[ScreenState] = []
    async with opened(between(*sides), source, monkeypatch, size) as pilot:
        await until_shown(pilot, "1 refuted alternative")
        await pilot.press("D")
        await pilot.pause()
        await pilot.press("enter")
        await pilot.pause()
        monkeypatch.setattr(type(pilot.app), "open_state", lambda self, state: states.append(state))
        await pilot.press("enter")
    (state,) = states
    assert (state.screen, state.text("stage"), state.text("at")) == (ScreenName.TENSOR, "ffn_up", "1,2")
    assert state.text("zoom") == "1,1", "a cell of several values would show the largest of them"
    assert state.text("capture") == str(sides[side == "B"])


async def test_it_leaves_with_the_same_key(sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    source = RecordedDiff(lambda request: with_cause(records_of(*sides, "rel_l2=1e-3"), Node(1, "ffn_up")))
    async with opened(between(*sides), source, monkeypatch) as pilot:
        await pilot.press("D")
        await pilot.pause()
        dialog(pilot)
        await pilot.press("D")
        await pilot.pause()
        assert not isinstance(pilot.app.screen, CausesDialog)


async def test_without_causes_it_says_what_finds_them(
    sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(between(*sides), playing(*sides), monkeypatch) as pilot:
        await pilot.press("D")
        await pilot.pause()
        assert "No cause was looked for: R replays both sides" in " ".join(notifications(pilot))
        assert "Why it errs" not in screen_text(pilot)
