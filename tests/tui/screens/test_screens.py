"""What holds for every screen of the app."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from textual._styles_cache import StylesCache
from textual.widget import Widget

from aprtui.trace.graph.stage import Node
from aprtui.tui import app as app_module
from aprtui.tui.app import SCREENS
from aprtui.tui.frame import ascii_filter
from aprtui.tui.frame.ascii_filter import to_ascii
from aprtui.tui.frame.state import ScreenName, ScreenState, screen_state
from aprtui.tui.frame.tool_screen import ToolScreen
from aprtui.tui.widgets.line_widget import LineWidget
from tests.compare.recorded import FAULT, two_captures
from tests.compare.synthetic import changed
from tests.thinning import crossed
from tests.tui.driver import Driver, screen_text, showing, until, until_shown
from tests.tui.screens.diff.recorded import playing, screen_playing
from tests.tui.screens.sweep.example import write_results


@pytest.mark.parametrize("name", SCREENS)
async def test_first_keys_of_chords_are_bound_once(name: ScreenName) -> None:
    # Textual calls the handlers of all classes of a widget: one that calls its parent's makes it run twice.
    async with showing(ScreenState(name)) as pilot:
        screen = pilot.app.screen
        assert isinstance(screen, ToolScreen) and screen.NAME is name
        bound = [screen._bindings.key_to_bindings[chord.prefix] for chord in screen.chords]
        assert all(len(bindings) == 1 for bindings in bound)


UNKNOWN = "\x7f"
"""What the screens write here for a character that their own do not include."""


@pytest.fixture
def captures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APRTUI_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(ascii_filter, "STAND_IN", UNKNOWN)
    write_results(tmp_path / "night-sweep")
    a, b = two_captures(tmp_path, {FAULT: changed((1, 1), np.nan), Node(2, "ffn_up"): changed((0, 2), np.inf)})
    monkeypatch.setattr(app_module, "SCREENS", {**SCREENS, ScreenName.DIFF: screen_playing(playing(a, b))})
    to_ascii.cache_clear()
    yield
    to_ascii.cache_clear()


LIVE_KEYS = ("m", "m", "m", "m", "m", "t", "t", "t", "t", "v", "left_square_bracket", "C")
DIFF_KEYS = ("M", "plus", "minus", "minus", "z", "M", "z", "R", "m", "a", "v", "v", "v", "v", "g", "d", "tab", "i")

SMALL, LARGE = (80, 24), (200, 60)

VISITS: Sequence[tuple[tuple[int, int], ScreenState, Sequence[str]]] = [
    (SMALL, ScreenState(ScreenName.LIVE), LIVE_KEYS),
    (LARGE, screen_state(ScreenName.BROWSE, a="good", b="bad"), ("j", "j", "v", "tab", "slash", "x", "escape")),
    (
        LARGE,
        screen_state(ScreenName.TENSOR, capture="bad", layer=1, stage="ffn_gate"),
        ("c", "C", "c", "v", "plus", "o", "g"),
    ),
    (
        SMALL,
        screen_state(ScreenName.TENSOR, capture="bad", layer=1, stage="attn_softmax"),
        ("right_square_bracket", "h"),
    ),
    (SMALL, screen_state(ScreenName.DIFF, a="good", b="bad", layer=1, stage="ffn_gate"), DIFF_KEYS),
    (SMALL, screen_state(ScreenName.CONTRACTS, reference="good", capture="bad"), ("j", "tab", "j", "tab", "tab")),
    (SMALL, ScreenState(ScreenName.SWEEP), ("j", "l", "right_square_bracket", "d", "v", "j", "v")),
]


async def looked_at(pilot: Driver) -> str:
    """What is on the screen once threads have had their time."""
    await pilot.pause(0.02)
    return screen_text(pilot)


@pytest.mark.parametrize(("size", "state", "keys"), VISITS)
async def test_in_ascii_no_screen_shows_anything_else(
    captures: None, size: tuple[int, int], state: ScreenState, keys: Sequence[str]
) -> None:
    async with showing(state, size, ascii_only=True) as pilot:
        if state.screen is ScreenName.LIVE:
            await pilot.press("e", *"def", "enter")
            await until_shown(pilot, "stop token")
        seen = [await looked_at(pilot)]
        for key in (*keys, "s", "y", "Y"):
            await pilot.press(key)
            seen.append(await looked_at(pilot))
        await pilot.press("escape")
        for key in ("question_mark", "ctrl+p"):
            await pilot.press(key)
            await until(pilot, lambda: not isinstance(pilot.app.screen, ToolScreen))
            seen.append(await looked_at(pilot))
            await pilot.press("escape", "escape")
            await until(pilot, lambda: isinstance(pilot.app.screen, ToolScreen))
        for text in seen:
            assert text.isascii() and UNKNOWN not in text, text


async def test_in_ascii_text_of_others_has_a_mark_for_each_cell_that_it_takes(captures: None) -> None:
    async with showing(ScreenState(ScreenName.LIVE), ascii_only=True) as pilot:
        await pilot.press("e", *"né 日", "enter")
        await until_shown(pilot, f"n{UNKNOWN} {2 * UNKNOWN}")
        assert screen_text(pilot).isascii()


def test_ascii_takes_as_many_cells() -> None:
    assert to_ascii("− 日é◆") == "- ???#"
    assert to_ascii("plain") == "plain"


@pytest.mark.parametrize(("name", "no_color"), crossed(SCREENS, [False, True]))
async def test_lines_stand_in_their_borders_as_textual_draws_them(
    captures: None, monkeypatch: pytest.MonkeyPatch, name: ScreenName, no_color: bool
) -> None:
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    state = next(state for _, state, _ in VISITS if state.screen is name)
    async with showing(state, (120, 40)) as pilot:
        if name is ScreenName.LIVE:
            await pilot.press("e", *"def", "enter")
            await until_shown(pilot, "stop token")
        await until(pilot, lambda: "reading" not in screen_text(pilot).lower())
        # What is drawn again must be all that has changed.
        for key in ("j", "l", "j", "l", "k"):
            await pilot.press(key)
            await looked_at(pilot)
        widgets = [widget for widget in pilot.app.screen.query(Widget) if isinstance(widget, LineWidget)]
        assert len(widgets) > 3
        for widget in widgets:
            whole = widget.outer_size.region
            theirs = StylesCache().render_widget(widget, whole)
            for ours, line in zip(widget.render_lines(whole), theirs, strict=True):
                assert ours.text == line.text and ours.cell_length == line.cell_length, widget
                assert [*ours.simplify()] == [*line.simplify()], widget
