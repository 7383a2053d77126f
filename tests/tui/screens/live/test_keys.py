"""Every key of the live screen beside those of its first version, through a recorded source."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path

import pytest
from textual.events import MouseScrollUp
from textual.widgets import Input

from aprtui.engine.process.engine_process import EngineState
from aprtui.engine.process.messages import EngineSettings
from aprtui.engine.process.slots import RING
from aprtui.engine.protocol import Mode
from aprtui.engine.sampling import Sampling
from aprtui.trace.graph.stage import Node
from aprtui.tui.app import AprtuiApp
from aprtui.tui.draw.figures import Statistic
from aprtui.tui.draw.signals import TintSignal
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import parse_state
from aprtui.tui.screens.live.screen import LiveScreen
from aprtui.tui.screens.live.settings import LiveSettingsScreen, OptionInput
from aprtui.tui.widgets.bar_list import BarList
from aprtui.tui.widgets.stage_grid import StageGrid
from aprtui.tui.widgets.text_stream import TextStream
from tests.tui.driver import Driver, drag, notifications, screen_text, until, until_shown
from tests.tui.screens.live.recorded import PIECES, RecordedSource
from tests.tui.screens.live.test_screen import live

MANY = [f" w{number}" for number in range(RING + 40)]


async def finished(pilot: Driver) -> None:
    await until(pilot, lambda: "stop token" in screen_text(pilot))


def body(pilot: Driver) -> LiveScreen:
    screen = pilot.app.screen
    assert isinstance(screen, LiveScreen)
    return screen


def bars(pilot: Driver, name: str) -> list[str]:
    return [bar.token for bar in pilot.app.screen.query_one(f"#{name}", BarList).bars]


def underlined(pilot: Driver) -> str:
    """The text that is marked in the stream."""
    stream = pilot.app.screen.query_one(TextStream)
    lines = [stream.render_line(y) for y in range(stream.size.height)]
    return "".join(s.text for line in lines for s in line if s.style and s.style.underline)


async def test_time_travel_moves_text_grid_candidates_and_words_together() -> None:
    source = RecordedSource()
    async with live(source, size=(120, 40)) as pilot:
        await finished(pilot)
        newest = screen_text(pilot)
        assert f"token {len(PIECES)} of {len(PIECES)}" in newest
        await pilot.press("left_square_bracket", "left_square_bracket")
        await until(pilot, lambda: f"token {len(PIECES) - 2} of {len(PIECES)}, all kept" in screen_text(pilot))
        assert underlined(pilot) == PIECES[-3]
        assert bars(pilot, "candidates")[0] == '" -"'
        text = screen_text(pilot)
        assert f"pass at position {5 + len(PIECES) - 3 - 1}" in text
        assert '" -" id 114' in text
        assert f"context {5 + len(PIECES) - 3}/1024" in text
        await pilot.press("right_square_bracket")
        await until(pilot, lambda: underlined(pilot) == PIECES[-2])
        await pilot.press("G")
        await until(pilot, lambda: underlined(pilot) == PIECES[-1])
        assert screen_text(pilot) == newest
        # The same record read again is another object with equal numbers.
        await pilot.press("G")
        await pilot.pause(0.2)
        assert screen_text(pilot) == newest


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        ("home", "token 41 of 296, the last 256 kept"),
        ("home shift+right", "token 42 of 296, the last 256 kept"),
        ("left_curly_bracket", "token 286 of 296, the last 256 kept"),
        ("left_curly_bracket right_curly_bracket", "token 296 of 296 "),
        ("shift+left end", "token 296 of 296 "),
        ("home escape", "token 296 of 296 "),
    ],
)
async def test_time_travel_reaches_as_far_as_records_are_kept_and_says_so(keys: str, shown: str) -> None:
    source = RecordedSource(MANY, per_poll=60)
    async with live(source) as pilot:
        await finished(pilot)
        await pilot.press(*keys.split())
        await until(pilot, lambda: shown in screen_text(pilot))


async def test_looking_back_holds_still_while_tokens_come() -> None:
    source = RecordedSource(MANY)
    async with live(source, size=(120, 40)) as pilot:
        await until(pilot, lambda: source.written >= 6)
        await pilot.press("home")
        await until(pilot, lambda: "token 1 of" in screen_text(pilot))
        before, written = bars(pilot, "candidates"), source.written
        await until(pilot, lambda: source.written > written + 3)
        assert bars(pilot, "candidates") == before
        assert "the prompt, 5 tokens" in screen_text(pilot)


async def test_click_on_a_token_looks_at_it() -> None:
    source = RecordedSource(["one", " two", " three"])
    async with live(source, "go:", size=(120, 40)) as pilot:
        await finished(pilot)
        await pilot.click(TextStream, offset=(2 + len("go:one") + 2, 1))
        await until(pilot, lambda: "token 2 of 3" in screen_text(pilot))


async def test_text_that_the_mouse_is_dragged_over_is_copied() -> None:
    source = RecordedSource(["one", " two", " three"])
    async with live(source, "go:", size=(120, 40)) as pilot:
        await finished(pilot)
        stream = pilot.app.screen.query_one(TextStream)
        at = 2 + len("go:one") + 2
        await drag(pilot, stream, (at + len(" two"), 1), (at, 1))
        assert pilot.app.clipboard == " two three"
        assert "token 3 of 3" in screen_text(pilot), "a drag is no click"


async def test_every_statistic_comes_to_the_grid_in_turn() -> None:
    async with live(RecordedSource(), size=(120, 40)) as pilot:
        await finished(pilot)
        for statistic in [*list(Statistic)[1:], Statistic.RMS]:
            await pilot.press("M")
            await until_shown(pilot, f" {statistic.words}: pass at")
        await pilot.press("M", "M", "M", "M", "M")
        await until(pilot, lambda: "←" in screen_text(pilot))
        assert "short" in screen_text(pilot) and "long" in screen_text(pilot)


async def test_change_of_the_first_token_is_not_made_up() -> None:
    async with live(RecordedSource(), size=(120, 40)) as pilot:
        await finished(pilot)
        await pilot.press("M", "M", "M", "home")
        await until(pilot, lambda: "the prompt, 5 tokens" in screen_text(pilot))
        rows = [line for line in screen_text(pilot).splitlines() if line.startswith("│   2 ")]
        assert "·" in rows[0] and "%" not in rows[0]
        await pilot.press("right_square_bracket")
        await until(pilot, lambda: "  change " in screen_text(pilot).splitlines()[-2])


async def test_every_signal_tints_the_text_in_turn_and_flip_risk_is_measured_when_it_is_chosen() -> None:
    source = RecordedSource()
    async with live(source, size=(150, 40)) as pilot:
        await finished(pilot)
        assert "flip risk not measured" in screen_text(pilot)
        for signal in [*list(TintSignal)[1:], TintSignal.PROBABILITY]:
            await pilot.press("t")
            await until_shown(pilot, "no tint" if signal is TintSignal.NONE else f"{signal} {signal.ends[0]} ")
        assert source.calls.count("noise") == 1
        assert "× noise" in screen_text(pilot) and "(estimate)" in screen_text(pilot)


async def test_tints_are_levels_of_the_tokens_and_none_leaves_the_text_plain() -> None:
    source = RecordedSource()
    async with live(source, size=(120, 40)) as pilot:
        await finished(pilot)
        stream = pilot.app.screen.query_one(TextStream)

        def backgrounds() -> set[str]:
            strips = [stream.render_line(y) for y in range(stream.size.height)]
            styles = {segment.style for strip in strips for segment in strip if segment.text.strip()}
            return {str(style.bgcolor) for style in styles if style}

        assert len(backgrounds()) > 2
        await pilot.press(*"tttt")
        await until(pilot, lambda: "no tint" in screen_text(pilot))
        assert len(backgrounds()) == 1


async def test_lens_is_asked_for_and_shown_at_the_right_of_the_layers() -> None:
    source = RecordedSource()
    async with live(source, size=(120, 40)) as pilot:
        await finished(pilot)
        assert "logit lens" not in screen_text(pilot)
        await pilot.press("L")
        await until(pilot, lambda: "not computed for" in screen_text(pilot))
        assert source.calls[-1] == "lens True"
        await pilot.press("shift+left")
        await until(pilot, lambda: '" other0"' in row(pilot, "│   0 "))
        for layer, share in enumerate((10, 30, 50, 70)):
            assert f'" other{layer % 3}"' in row(pilot, f"│   {layer} ") and f" {share} % " in row(
                pilot, f"│   {layer} "
            )
        await pilot.press("L")
        await until(pilot, lambda: "logit lens" not in screen_text(pilot))
        assert source.calls[-1] == "lens False"


def row(pilot: Driver, begin: str) -> str:
    return next(line for line in screen_text(pilot).splitlines() if line.startswith(begin))


def ends_with(pilot: Driver, begin: str, end: str) -> bool:
    return row(pilot, begin).rstrip(" │").endswith(end)


async def test_at_eighty_columns_the_lens_brings_the_overview_in_which_it_has_room() -> None:
    async with live(RecordedSource()) as pilot:
        await finished(pilot)
        await pilot.press("L")
        await until(pilot, lambda: "not computed for" in screen_text(pilot))
        await pilot.press("v")
        await until(pilot, lambda: "no room for the logit lens: v" in screen_text(pilot))
        await pilot.press("v", "shift+left")
        for layer, share in enumerate((10, 30, 50, 70)):
            await until(pilot, partial(ends_with, pilot, f"│   {layer} ", f"{share} %"))


async def test_of_layers_that_share_a_line_the_lens_shows_the_one_under_the_cursor_or_the_last() -> None:
    async with live(RecordedSource(layers=24)) as pilot:
        await finished(pilot)
        await pilot.press("L", "shift+left")
        await until(pilot, lambda: " 0 " in row(pilot, "│   0 ")[45:] and "  7 " in row(pilot, "│   4 ")[45:])
        await pilot.press("j")
        await until(pilot, lambda: " 1 " in row(pilot, "│   1 ")[45:])


async def test_settings_start_the_prompt_again_with_other_sampling() -> None:
    source = RecordedSource()
    async with live(source) as pilot:
        await finished(pilot)
        await pilot.press("o")
        await until(pilot, lambda: isinstance(pilot.app.screen, LiveSettingsScreen))
        pilot.app.screen.query_one("#temperature", Input).value = "0.25"
        await pilot.press("down", "end", "4", "enter")
        await until(pilot, lambda: len(source.prompts) == 2)
        assert source.sampling == Sampling(temperature=0.25, top_k=4)
        assert "reopen" not in source.calls


async def test_settings_that_make_no_sense_stay_in_the_dialog_with_the_reason() -> None:
    source = RecordedSource()
    async with live(source) as pilot:
        await finished(pilot)
        await pilot.press("o", "end", "x", "enter")
        await until(pilot, lambda: "temperature is '0.7x': expected a number" in screen_text(pilot))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, LiveScreen))
        assert len(source.prompts) == 1


async def test_another_mode_opens_the_model_anew_and_starts_the_prompt_again() -> None:
    source = RecordedSource()
    async with live(source) as pilot:
        await finished(pilot)
        await pilot.press("o")
        await until(pilot, lambda: isinstance(pilot.app.screen, LiveSettingsScreen))
        pilot.app.screen.query_one("#mode", OptionInput).focus()
        await pilot.press("left", "enter")
        await until(pilot, lambda: len(source.prompts) == 2)
        assert source.settings.mode is Mode.EXACT
        await until(pilot, lambda: "mode exact" in screen_text(pilot))


async def test_fault_that_the_model_cannot_have_is_told_and_the_engine_stays() -> None:
    source = RecordedSource()
    async with live(source) as pilot:
        await finished(pilot)
        await pilot.press("o")
        await until(pilot, lambda: isinstance(pilot.app.screen, LiveSettingsScreen))
        pilot.app.screen.query_one("#fault", Input).value = "kind=nonsense"
        await pilot.press("enter")
        await until(pilot, lambda: "kind 'nonsense' is not known" in screen_text(pilot))
        assert source.settings.faults == ()
        await pilot.press("e", "enter")
        await until(pilot, lambda: len(source.prompts) == 2)
        await until(pilot, lambda: "nonsense" not in screen_text(pilot))


async def test_choices_of_the_dialog_turn_by_keys_and_by_mouse() -> None:
    async with live(RecordedSource()) as pilot:
        await finished(pilot)
        await pilot.press("o")
        await until(pilot, lambda: isinstance(pilot.app.screen, LiveSettingsScreen))
        backend = pilot.app.screen.query_one("#backend", OptionInput)
        backend.focus()
        await pilot.press("right")
        assert backend.value == "cpu"
        await pilot.press("left", "left")
        assert backend.value == "numpy"
        await pilot.click("#backend", offset=(2, 0))
        assert backend.value == "auto"


async def test_again_takes_the_next_seed() -> None:
    source = RecordedSource()
    async with live(source, sampling=Sampling(temperature=0.5, seed=7)) as pilot:
        await finished(pilot)
        await pilot.press("r")
        await until(pilot, lambda: len(source.prompts) == 2)
        assert source.sampling == Sampling(temperature=0.5, seed=8)


async def test_capture_is_written_to_a_directory_of_its_own_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run-live-1").mkdir()
    source = RecordedSource()
    async with live(source) as pilot:
        await finished(pilot)
        await pilot.press("w")
        await until(pilot, lambda: "capture run-live-2" in source.calls)
        await until(pilot, lambda: "Captured: run-live-2" in notifications(pilot))


async def test_without_a_run_there_is_nothing_to_capture_and_the_screen_says_what_to_do() -> None:
    source = RecordedSource()
    async with live(source, "") as pilot:
        await until(pilot, lambda: source.state is EngineState.READY)
        assert "Press e, type a prompt, then enter." in screen_text(pilot)
        assert "No token yet." in screen_text(pilot)
        await pilot.press("w", "W")
        assert notifications(pilot) == ["There is no run to capture yet: press e and enter a prompt."]
        assert not any("capture" in call for call in source.calls)
        await pilot.press("y")
        assert pilot.app.clipboard == ""


async def test_commands_of_the_run_and_of_its_capture_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with live(RecordedSource()) as pilot:
        await finished(pilot)
        await pilot.press("shift+left", "y")
        words = shlex.split(pilot.app.clipboard)
        assert words[:6] == ["aprtui", "run", "-p", "def fib(n):", "-n", str(len(PIECES) - 1)]
        await pilot.press("W")
        words = shlex.split(pilot.app.clipboard)
        ids = [1, 2, 3, 4, 5, *range(100, 100 + len(PIECES))]
        assert words[:4] == ["aprtui", "trace", "--tokens", ",".join(map(str, ids))]
        assert words[-1] == "run-live-1"


async def test_state_opens_the_screen_as_it_was() -> None:
    source = RecordedSource()
    async with live(source, size=(120, 40)) as pilot:
        await finished(pilot)
        await pilot.press("M", "t", "L", "down", "right", "right", *["shift+left"] * 3)
        state = body(pilot).state()
    again = RecordedSource()
    app = AprtuiApp(Session(again), parse_state(str(state)))
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: again.state is EngineState.PAUSED)
        await until(pilot, lambda: f"token {len(PIECES) - 3} of" in screen_text(pilot))
        assert again.prompts == ["def fib(n):"]
        assert again.settings == EngineSettings()
        assert pilot.app.screen.query_one(StageGrid).node == Node(1, "qkv_bias")
        text = screen_text(pilot)
        assert Statistic.ABSMAX.words in text and "entropy 0" in text and "logit lens" in text
        assert body(pilot).state() == state


async def test_engine_that_died_can_still_be_looked_at_and_travelled_in() -> None:
    source = RecordedSource(crash_after=5)
    async with live(source, size=(120, 40)) as pilot:
        await until(pilot, lambda: "SIGKILL" in screen_text(pilot))
        await pilot.press("shift+left", "shift+left")
        await until(pilot, lambda: "token 3 of 5" in screen_text(pilot))
        await pilot.press("ctrl+r")
        await until(pilot, lambda: source.written == len(PIECES))
        await until(pilot, lambda: f"token {len(PIECES)} of {len(PIECES)}" in screen_text(pilot))


async def test_progress_of_an_errand_is_on_the_status_line() -> None:
    source = RecordedSource()
    async with live(source) as pilot:
        await finished(pilot)
        events = source.poll

        def without_the_end() -> list[object]:
            return [event for event in events() if type(event).__name__ != "Captured"]

        source.poll = without_the_end  # type: ignore[method-assign, assignment]
        await pilot.press("w")
        await until(pilot, lambda: "writing the capture ████████████············ 5/10, c cancels" in screen_text(pilot))


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
async def test_text_follows_its_end_also_beside_the_lens_and_after_a_resize(size: tuple[int, int]) -> None:
    source = RecordedSource([f"line {number}\n" for number in range(90)], per_poll=10)
    async with live(source, size=size) as pilot:
        await until(pilot, lambda: source.written >= 20)
        await pilot.press("L")
        await finished(pilot)
        await until(pilot, lambda: "line 89" in screen_text(pilot))
        for other in ((100, 30), size):
            await pilot.resize_terminal(*other)
            await until(pilot, lambda: "line 89" in screen_text(pilot))
        await pilot.press("home")
        await until(pilot, lambda: "line 0" in screen_text(pilot))


async def test_who_scrolls_back_is_not_carried_on() -> None:
    source = RecordedSource([f"line {number}\n" for number in range(4000)])
    async with live(source) as pilot:
        await until(pilot, lambda: source.written >= 15)
        stream = pilot.app.screen.query_one(TextStream)
        while stream.scroll_offset.y > 0 or "line 0" not in screen_text(pilot):
            await pilot._post_mouse_events([MouseScrollUp], widget=stream)
        written = source.written
        await until(pilot, lambda: source.written > written + 5)
        assert "line 0" in screen_text(pilot)


async def test_text_takes_the_focus_scrolls_by_keys_and_follows_its_end_again() -> None:
    source = RecordedSource([f"line {number}\n" for number in range(60)], per_poll=10)
    async with live(source) as pilot:
        await finished(pilot)
        await pilot.press("shift+tab")
        stream = pilot.app.screen.query_one(TextStream)
        assert stream.has_focus
        end = stream.scroll_offset.y
        await pilot.press("pageup", "k")
        await pilot.pause()
        assert stream.scroll_offset.y == end - 11 and not stream._following
        await pilot.press("pagedown", "pagedown")
        await pilot.pause()
        assert stream.scroll_offset.y == end and stream._following
        await pilot.press("z")
        await until(pilot, lambda: "line 46" in screen_text(pilot) and "line 59" in screen_text(pilot))
        await pilot.press("z", "escape")
        await until(pilot, lambda: pilot.app.screen.query_one(StageGrid).has_focus)
