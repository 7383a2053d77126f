"""What the diff screen answers first: the sentence, the cursor on what it names, the keys that go on from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from aprtui.compare.report.headline import headline
from aprtui.compare.report.records import read_comparison
from aprtui.trace.graph.config import RopeLayout
from aprtui.trace.graph.stage import Node
from aprtui.tui.frame.state import ScreenName
from aprtui.tui.frame.tool_screen import ReadoutLine
from aprtui.tui.screens.diff.grid import DiffGrid
from aprtui.tui.screens.diff.panes import DiffPanes
from aprtui.tui.screens.diff.source import DiffRequest
from aprtui.tui.screens.diff.verdict import SIGNS, VerdictLines
from aprtui.tui.widgets.table import Table
from tests.compare.recorded import FAULT, Record, records_of, two_captures
from tests.compare.synthetic import HEADS_OF_16, reordered, scaled, with_config, write_capture
from tests.compare.test_headline import OUTCOMES
from tests.tui.driver import Driver, screen_text, until
from tests.tui.screens.diff.recorded import RecordedDiff, playing
from tests.tui.screens.diff.test_screen import between, node, opened, screen, settled


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return two_captures(tmp_path_factory.mktemp("sides"))


def recorded(a: Path, b: Path, *tolerances: str) -> RecordedDiff:
    """The comparison with these tolerances, whatever is asked for."""
    return RecordedDiff(lambda request: records_of(a, b, *tolerances))


def drawn_verdict(pilot: Driver) -> list[str]:
    lines = screen(pilot).query_one(VerdictLines)
    return [lines.render_line(y).text.strip() for y in range(lines.size.height)]


@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_each_outcome_has_the_sentence_of_the_command_and_the_cursor_on_the_stage_that_it_names(
    outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, tolerances, verdict, sentence = OUTCOMES[outcome]
    a, b = write(tmp_path)
    async with opened(between(a, b), recorded(a, b, *tolerances), monkeypatch, (80, 24)) as pilot:
        first, *more = drawn_verdict(pilot)
        assert first.startswith(f"{SIGNS[verdict]} {verdict} ")
        assert sentence in " ".join([first, *more]), "no part of it is cut"
        comparison = read_comparison(records_of(a, b, *tolerances))
        if comparison.focus is not None:
            assert node(pilot) == comparison.focus.node
            title = str(screen(pilot).query_one("#elements", Table).border_title)
            assert title == f"largest differences of {comparison.focus.node}", "of the stage that the sentence names"


@pytest.mark.parametrize("width", [60, 80, 120, 200])
async def test_the_sentence_is_wrapped_and_never_cut(
    sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    async with opened(between(*sides), recorded(*sides, "rel_l2=0.2"), monkeypatch, (width, 24)) as pilot:
        text = " ".join(" ".join(drawn_verdict(pilot)).split())
        assert headline(read_comparison(records_of(*sides, "rel_l2=0.2"))) in text
        assert "y copy the command" in text or width < 120


def following(sides: tuple[Path, Path], tmp_path: Path) -> RecordedDiff:
    """A comparison that blames another stage when it is made by a bound of the user's own."""
    later = two_captures(tmp_path / "later", {Node(2, "ffn_up"): scaled(2)})

    def records(request: DiffRequest) -> Sequence[Record]:
        return records_of(*(later if request.tolerance else sides), "rel_l2=0.2")

    return RecordedDiff(records)


async def test_the_cursor_follows_the_verdict_until_it_is_moved(
    sides: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for keys, expected in (((), Node(2, "ffn_up")), (("j", "k", "l"), Node(1, "ffn_up"))):
        async with opened(between(*sides), following(sides, tmp_path / str(expected)), monkeypatch) as pilot:
            assert node(pilot) == FAULT
            await pilot.press("b", *keys, "r")
            await until(pilot, lambda: settled(pilot))
            await pilot.pause()
            assert node(pilot) == expected


async def test_what_to_do_next_follows_from_the_verdict(
    sides: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def steps(pilot: Driver) -> tuple[str, ...]:
        return screen(pilot).query_one(VerdictLines).text.steps

    async with opened(between(*sides), recorded(*sides, "rel_l2=0.2"), monkeypatch) as pilot:
        assert steps(pilot) == ("R replay: injected or inherited?", "⏎ the values", "]d next", "y copy the command")
    async with opened(between(*sides), playing(*sides), monkeypatch) as pilot:
        assert steps(pilot)[:2] == ("R replay: find the stage that adds error", "b set a bound")
        await pilot.press("b")
        assert steps(pilot)[0] == "r compare again by this bound"
    async with opened(between(*sides), recorded(*sides, "rel_l2=1"), monkeypatch) as pilot:
        assert steps(pilot) == ("⏎ the values", "M next metric", "B narrower bound", "y copy the command")
    files = [side / "layer-1" / "ffn_gate.bin" for side in sides]
    async with opened(between(*files), recorded(*sides, "rel_l2=0.2"), monkeypatch) as pilot:
        assert not any("replay" in step for step in steps(pilot)), "stage files cannot be replayed"
    a, b = two_captures(tmp_path, tokens=(4, 3, 8, 1, 7))
    async with opened(between(a, b), playing(a, b), monkeypatch) as pilot:
        assert steps(pilot)[0] == "2 choose captures of the same tokens"


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_the_tensor_opens_on_the_value_that_differs_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    a, b = two_captures(tmp_path, {FAULT: lambda values: values + 5 * (abs(values) == abs(values).max())})
    source = recorded(a, b)
    records = {
        (record["layer"], record["stage"]): record for record in source._records(DiffRequest(a, b)) if "place" in record
    }
    place = records[FAULT.layer, FAULT.stage]["place"]
    opened_states = []
    async with opened(between(a, b), source, monkeypatch, size) as pilot:
        panes = screen(pilot).query_one(DiffPanes)
        await until(pilot, lambda: not panes.region.height or panes.view is not None)
        monkeypatch.setattr(type(pilot.app), "open_state", lambda self, state: opened_states.append(state))
        await pilot.press("enter")
    (state,) = opened_states
    assert state.screen is ScreenName.TENSOR and state.text("stage") == "ffn_gate"
    assert state.text("at") == f"{place['token']},{place['channel']}"


async def test_equal_tensors_are_said_to_be_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = two_captures(tmp_path, {})
    async with opened(between(a, b), playing(a, b), monkeypatch) as pilot:
        panes = screen(pilot).query_one(DiffPanes)
        await until(pilot, lambda: panes.view is not None)
        assert str(panes.border_subtitle).endswith(", no finite value differs")
        assert "No value differs in what was compared." in screen_text(pilot)


async def test_two_stage_files_keep_their_values_when_the_sides_are_swapped(
    sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [side / "layer-1" / "ffn_gate.bin" for side in sides]
    records = [
        record
        for record in records_of(*sides)
        if record["record"] != "comparison" or (record["stage"], record["layer"]) == (FAULT.stage, FAULT.layer)
    ]
    async with opened(between(*files), RecordedDiff(lambda request: records), monkeypatch) as pilot:
        panes = screen(pilot).query_one(DiffPanes)
        await until(pilot, lambda: panes.words != "")
        before = panes.words
        await pilot.press("x")
        await until(pilot, lambda: settled(pilot) and panes.view is not None and panes.words != before)
        assert panes.words.startswith("row 0, column "), panes.words


async def test_a_pass_has_no_colour_of_error(sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(between(*sides), recorded(*sides, "rel_l2=1"), monkeypatch) as pilot:
        grid = screen(pilot).query_one(DiffGrid)
        rows = [grid.render_line(y) for y in range(grid._lines.top, grid._lines.bottom)]
        colours = {
            tuple(segment.style.color.get_truecolor())
            for row in rows
            for segment in row
            if segment.style and segment.style.color and "▀" in segment.text
        }
        assert colours and all(red <= blue for red, _, blue in colours), "blues only"


async def test_rows_before_the_stage_to_blame_are_in_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_config(layers=24)
    a = write_capture(tmp_path / "a", config=config)
    b = write_capture(tmp_path / "b", config=config, edits={Node(12, "ffn_gate"): scaled(1.5)})
    async with opened(between(a, b), recorded(a, b, "rel_l2=0.2"), monkeypatch, (80, 24)) as pilot:
        await pilot.press("v")
        await pilot.pause()
        grid = screen(pilot).query_one(DiffGrid)
        shown = [grid.render_line(y).text[:4].strip() for y in range(grid._lines.top, grid._lines.bottom)]
        assert node(pilot) == Node(12, "ffn_gate") and {"11", "12", "13"} <= set(shown)


async def test_a_moved_bound_lists_no_differences_of_another_stage_than_it_blames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Node(0, "ffn_up")
    a, b = two_captures(tmp_path, {first: scaled(1.01), FAULT: scaled(1.05)})
    async with opened(between(a, b), playing(a, b), monkeypatch) as pilot:
        elements = screen(pilot).query_one("#elements", Table)
        assert node(pilot) == first and elements.rows and str(elements.border_title).endswith(str(first))
        await pilot.press("b", "B", "B")
        assert node(pilot) == FAULT, "the cursor follows"
        assert not elements.rows and str(elements.border_title).endswith(str(FAULT))
        assert "Comparing again lists them" in screen_text(pilot)
        await pilot.press("r")
        await until(pilot, lambda: settled(pilot) and bool(elements.rows))
        await pilot.press("backspace")
        await until(pilot, lambda: settled(pilot) and str(elements.border_title).endswith(str(first)))


async def test_values_in_another_order_are_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = write_capture(tmp_path / "a", config=HEADS_OF_16)
    b = write_capture(
        tmp_path / "b", config=replace(HEADS_OF_16, rope_layout=RopeLayout.INTERLEAVED), edits=reordered((0, 1, 2))
    )
    async with opened(between(a, b, layer=1, stage="q_post_rope"), playing(a, b), monkeypatch) as pilot:
        words = screen(pilot).query_one(ReadoutLine).text
        assert "put in A's half-split order: the panes show them as stored" in words, words
