from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import cast

import pytest
from textual.binding import Binding
from textual.color import Color

from aprtui.engine.process.engine_process import EngineProcess, EngineState
from aprtui.engine.sampling import GREEDY, Sampling
from aprtui.errors import ExitCode
from aprtui.trace.graph.stage import Node
from aprtui.tui.app import AprtuiApp
from aprtui.tui.draw.figures import Statistic, figures_of
from aprtui.tui.draw.grid_layout import grid_layout
from aprtui.tui.draw.text import SEPARATOR
from aprtui.tui.frame.session import LiveSource, Session
from aprtui.tui.frame.state import ScreenName, parse_state, screen_state
from aprtui.tui.frame.tool_screen import ReadoutLine
from aprtui.tui.screens.help.screen import HelpScreen
from aprtui.tui.screens.live.prompt import HINT, PromptEditor
from aprtui.tui.screens.live.screen import PACE, LiveScreen
from aprtui.tui.screens.live.status_lines import ExpertLine, experts_of
from aprtui.tui.widgets.bar_list import BarList
from aprtui.tui.widgets.contracts import ContractsDock
from aprtui.tui.widgets.stage_grid import StageGrid
from aprtui.tui.widgets.text_stream import TextStream
from tests.engine.fake_engine import open_fake
from tests.tui.driver import Driver, screen_text, until, until_shown
from tests.tui.screens.live.recorded import PIECES, RecordedSource
from tests.tui.widgets.golden import check_golden


@asynccontextmanager
async def live(
    source: LiveSource, prompt: str = "def fib(n):", size: tuple[int, int] = (80, 24), sampling: Sampling | None = None
) -> AsyncIterator[Driver]:
    names = () if sampling is None else ("temperature", "top_k", "seed")
    fields = {name.replace("temperature", "temp"): getattr(sampling, name) for name in names}
    app = AprtuiApp(Session(source), screen_state(ScreenName.LIVE, prompt=prompt, **fields))
    async with app.run_test(size=size) as pilot:
        yield pilot


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 50)])
async def test_text_grid_and_speed_of_the_recording_are_on_screen(size: tuple[int, int]) -> None:
    source = RecordedSource()
    async with live(source, size=size) as pilot:
        await until(pilot, lambda: "stop token" in screen_text(pilot))
        text = screen_text(pilot)
        for line in ("def fib(n):", "    if n < 2:", "        return n", "    return fib(n - 1)"):
            assert line in text
        for word in ("example", "Q4_K_M", "mode q8", "41.2 tok/s", "context 21/1024", "attention", "feed-forward"):
            assert word in text
        graph, record = pilot.app.screen.query_one(StageGrid)._graph, source.latest()
        assert graph is not None and record is not None
        layout = grid_layout(graph)
        figures, width = figures_of(Statistic.RMS, record.stats), {80: 4, 120: 6, 200: 7}[size[0]]
        for layer in range(4):
            row = [figures.text(node, width - 1).rjust(width - 1) + " " for node in layout.rows[layer]]
            split = layout.groups[0][1]
            assert f"{layer:>3} " + "".join(row[:split]) + "│" + "".join(row[split:]) in text


async def test_a_model_with_experts_has_a_line_of_how_they_are_chosen() -> None:
    source = RecordedSource(layers=2, experts=8)
    async with live(source) as pilot:
        await until(pilot, lambda: "stop token" in screen_text(pilot))
        line = pilot.app.screen.query_one(ExpertLine)
        latest = source.latest()
        assert line.display and latest is not None and latest.experts is not None
        words = experts_of(latest.experts, 0)
        assert words[:4] == [
            "experts of layer 0", "load max 45 % (even: 12 %)", "entropy 1.50 of 2.08",
            "never chosen: 1 of 8",
        ]  # fmt: skip
        assert SEPARATOR.join(words[:3]) in screen_text(pilot)
        await pilot.press("j")
        assert SEPARATOR.join(["experts of layer 1", "load max 50 % (even: 12 %)"]) in screen_text(pilot)
        assert experts_of(latest.experts, None)[0] == "experts of layer 1, the most uneven"
        dense = latest.experts.copy()
        dense[0]["counts"] = 0
        assert experts_of(dense, 0) == ["experts of layer 0", "none: its block is dense"]
        first = source.record(0)
        assert first is not None and first.experts is not None
        await pilot.press("home")
        assert line._words == experts_of(first.experts, 1) != experts_of(latest.experts, 1), "of the token looked at"


async def test_cells_of_stages_that_a_layer_lacks_are_blank_and_say_so() -> None:
    source = RecordedSource(layers=2, recurrent=(True, False))
    async with live(source, size=(200, 40)) as pilot:
        await until(pilot, lambda: "stop token" in screen_text(pilot))
        grid = pilot.app.screen.query_one(StageGrid)
        grid.put_cursor(Node(0, "attention"))
        await pilot.pause()
        assert "layer 0 has no attention" in screen_text(pilot) and "recurrence" in screen_text(pilot)
        await pilot.press("j")
        assert "layer 1 attention" in screen_text(pilot)
        grid.put_cursor(Node(1, "linear_attn_state"))
        await pilot.pause()
        assert "layer 1 has no linear_attn_state" in screen_text(pilot)
        for key in ("v", "v", "M", "L", "i", "escape", "W", "k", "v", "home", "G", "J", "escape"):
            await pilot.press(key)
        assert "layer 0 linear_attn_state" in screen_text(pilot)


async def test_a_dense_model_has_no_line_of_experts() -> None:
    source = RecordedSource()
    async with live(source) as pilot:
        await until(pilot, lambda: "stop token" in screen_text(pilot))
        assert not pilot.app.screen.query_one(ExpertLine).display


@pytest.mark.parametrize(("statistic", "presses"), [("rms", 0), ("change", 3), ("time", 5)])
async def test_the_grid_is_drawn_as_it_was(statistic: str, presses: int) -> None:
    source = RecordedSource(layers=2, bad=Node(1, "ffn_up"))
    async with live(source) as pilot:
        await until(pilot, lambda: "stop token" in screen_text(pilot))
        await pilot.press(*"M" * presses, "j", "l")
        check_golden(f"stage-grid-{statistic}", pilot.app.screen.query_one(StageGrid))


async def test_grid_changes_with_every_token() -> None:
    source = RecordedSource()
    async with live(source) as pilot:
        await until(pilot, lambda: source.written >= 3)
        before, written = screen_text(pilot), source.written
        await until(pilot, lambda: source.written >= written + 2)
        assert screen_text(pilot) != before


async def test_what_nobody_reads_so_fast_is_drawn_less_often_than_the_grid_and_is_right_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: Counter[type] = Counter()

    def count(kind: type[StageGrid | BarList]) -> None:
        show = kind.show

        def counted(self: object, *arguments: object, **options: object) -> None:
            drawn[kind] += 1
            show(self, *arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(kind, "show", counted)

    count(StageGrid)
    count(BarList)
    source = RecordedSource(["x"] * 120, per_poll=3)
    async with live(source) as pilot:
        await until(pilot, lambda: "stop token" in screen_text(pilot))
        assert drawn[StageGrid] > 30 and drawn[BarList] < 0.7 * drawn[StageGrid]
        record = source.latest()
        assert record is not None
        assert f"{100 * math.exp(record.logprob):.3g} %" in screen_text(pilot) and "token 120 of 120" in screen_text(
            pilot
        )
        node = pilot.app.screen.query_one(StageGrid).node
        assert f"{node}  rms" in pilot.app.screen.query_one(ReadoutLine).text


async def test_pause_holds_the_screen_step_adds_a_token_and_resume_goes_on() -> None:
    source = RecordedSource()
    async with live(source) as pilot:
        await until(pilot, lambda: source.written >= 3)
        await pilot.press("p")
        await until(pilot, lambda: "‖ paused" in screen_text(pilot))
        written = source.written
        await pilot.pause(0.2)
        assert source.written == written
        await pilot.press("n")
        await until(pilot, lambda: source.written == written + 1)
        await pilot.press("space")
        await until(pilot, lambda: source.written == len(PIECES))


async def test_cancel_ends_the_generation() -> None:
    source = RecordedSource()
    async with live(source) as pilot:
        await until(pilot, lambda: source.written >= 2)
        await pilot.press("c")
        await until(pilot, lambda: "■ ready  cancelled" in screen_text(pilot))
        assert source.written < len(PIECES)


@pytest.mark.parametrize(("key", "code"), [("q", ExitCode.PASS), ("ctrl+c", ExitCode.INTERRUPTED)])
async def test_ways_out_have_their_exit_codes(key: str, code: ExitCode) -> None:
    async with live(RecordedSource()) as pilot:
        await until(pilot, lambda: pilot.app.screen.query_one(StageGrid).has_focus)
        await pilot.press(key)
        await pilot.pause()
        assert pilot.app.return_value == code


async def test_prompt_is_edited_and_run_with_enter_and_keys_type_into_it() -> None:
    source = RecordedSource()
    async with live(source) as pilot:
        await until(pilot, lambda: source.written >= 1)
        await pilot.press("e", *"pqe")
        assert pilot.app.screen.query_one(PromptEditor).text == "def fib(n):pqe"
        await pilot.press("enter")
        await until(pilot, lambda: source.prompts == ["def fib(n):", "def fib(n):pqe"])
        await until(pilot, lambda: pilot.app.screen.query_one(TextStream).text.startswith("def fib(n):pqe\n    if"))
        assert pilot.app.screen.query_one(StageGrid).has_focus


async def test_line_breaks_of_a_prompt_survive() -> None:
    source = RecordedSource()
    async with live(source, "class Stack:\n") as pilot:
        await until(pilot, lambda: source.prompts == ["class Stack:\n"])
        assert pilot.app.screen.query_one(PromptEditor).size.height == 2


async def test_without_a_prompt_the_screen_waits_and_says_what_to_do() -> None:
    source = RecordedSource()
    async with live(source, "") as pilot:
        await until(pilot, lambda: source.state is EngineState.READY)
        assert HINT in screen_text(pilot)
        assert source.prompts == []


async def test_models_own_temperature_is_used_unless_another_is_asked_for() -> None:
    source, greedy = RecordedSource(), RecordedSource()
    async with live(source) as pilot:
        await until(pilot, lambda: source.sampling is not None)
        assert source.sampling == Sampling(temperature=0.7)
    async with live(greedy, sampling=GREEDY) as pilot:
        await until(pilot, lambda: greedy.sampling is not None)
        assert greedy.sampling == GREEDY


async def test_cursor_moves_within_the_grid_and_the_readout_follows() -> None:
    source = RecordedSource()
    async with live(source, size=(120, 40)) as pilot:
        await until(pilot, lambda: source.written == len(PIECES))
        await pilot.press("left", "up", "down", "l", "right")
        assert pilot.app.screen.query_one(StageGrid).node == Node(1, "qkv_bias")
        await until(pilot, lambda: "layer 1 qkv_bias  rms" in screen_text(pilot))
        await pilot.press("pagedown", *["right"] * 15)
        assert pilot.app.screen.query_one(StageGrid).node == Node(3, "post_ffn_residual")


async def test_click_puts_the_cursor_under_the_mouse() -> None:
    source = RecordedSource()
    async with live(source) as pilot:
        await until(pilot, lambda: source.written == len(PIECES))
        grid = pilot.app.screen.query_one(StageGrid)
        row = next(y for y, line in enumerate(screen_text(pilot).splitlines()) if line.startswith("│   2 "))
        # Border and padding take two cells, layer numbers four, columns four each.
        await pilot.click(offset=(2 + 4 + 4 * 3 + 1, row))
        assert grid.node == Node(2, "q_post_rope")


async def test_layers_beyond_the_screen_scroll_with_the_cursor_and_are_announced() -> None:
    source = RecordedSource(layers=24)
    async with live(source) as pilot:
        await until(pilot, lambda: source.written >= 1)
        await pilot.press("v")
        await until(pilot, lambda: "of 24 layers, more with ↑ ↓" in screen_text(pilot))
        await pilot.press("pagedown", "pagedown", "pagedown")
        await until(pilot, lambda: "layer 23 attn_norm" in screen_text(pilot))
        assert "│  23 " in screen_text(pilot)


async def test_nan_out_of_view_is_still_named() -> None:
    source = RecordedSource(layers=24, bad=Node(12, "ffn_gate"))
    async with live(source) as pilot:
        await until(pilot, lambda: "first NaN: layer 12 ffn_gate" in screen_text(pilot))
        assert "NaN" in next(line for line in screen_text(pilot).splitlines() if "final_norm" in line)


async def test_crash_is_told_and_the_engine_restarted_by_a_key() -> None:
    source = RecordedSource(crash_after=3)
    async with live(source) as pilot:
        await until(pilot, lambda: "the engine process was ended by signal 9 (SIGKILL)" in screen_text(pilot))
        await pilot.press("ctrl+r")
        await until(pilot, lambda: source.written == len(PIECES))
        assert "crashed" not in screen_text(pilot)


async def test_a_screen_that_another_one_replaces_takes_none_of_its_events() -> None:
    source = RecordedSource()
    async with live(source) as pilot:
        await until(pilot, lambda: source.info is not None)
        app, older = cast(AprtuiApp, pilot.app), cast(LiveScreen, pilot.app.screen)
        app.open_state(parse_state("aprtui:live?prompt=def"))
        begun = len(source.prompts)
        await until(pilot, lambda: len(source.prompts) > begun)
        older._poll()  # as its timer may until Textual has removed it
        await until(pilot, lambda: "stop token" in screen_text(pilot))
        assert app.screen is not older
        assert "    return fib(n - 1)" in screen_text(pilot)


async def test_full_speed_and_easy_pace_alternate() -> None:
    source = RecordedSource()
    async with live(source) as pilot:
        await until(pilot, lambda: source.written >= 1)
        await pilot.press("f", "f")
        assert [call for call in source.calls if "pace" in call] == [f"pace {PACE}", "pace None", f"pace {PACE}"]


async def test_help_lists_every_key_of_the_screen() -> None:
    async with live(RecordedSource(), size=(120, 90)) as pilot:
        await until(pilot, lambda: pilot.app.screen.query_one(StageGrid).has_focus)
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(pilot.app.screen, HelpScreen))
        await pilot.press("tab", "tab")
        await until(pilot, lambda: "live.pause" in screen_text(pilot))
        text = screen_text(pilot)
        for binding in LiveScreen.BINDINGS:
            assert isinstance(binding, Binding)
            assert binding.description in text
        await pilot.press("escape")
        assert isinstance(pilot.app.screen, LiveScreen)


async def test_the_line_of_keys_is_that_of_the_prompt_while_it_is_edited() -> None:
    async with live(RecordedSource()) as pilot:
        await pilot.press("e")
        await until_shown(pilot, "⏎ Send  ctrl+j New line  ctrl+o $EDITOR  esc Back to the grid")


async def test_screen_too_narrow_says_what_it_was_made_for() -> None:
    source = RecordedSource()
    async with live(source, size=(60, 24)) as pilot:
        await until(pilot, lambda: source.written >= 1)
        assert "made for 80 columns, this screen has" in screen_text(pilot)


async def test_resizing_in_mid_generation_keeps_text_and_grid() -> None:
    source = RecordedSource()
    async with live(source) as pilot:
        for size in ((200, 50), (30, 10), (120, 40), (5, 3), (80, 24)):
            await pilot.resize_terminal(*size)
        await until(pilot, lambda: "stop token" in screen_text(pilot))
        assert "    return fib(n - 1)" in screen_text(pilot)


async def test_without_colour_the_grid_shows_its_numbers_and_sends_no_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    source = RecordedSource(bad=Node(2, "ffn_gate"))
    async with live(source) as pilot:
        await until(pilot, lambda: "stop token" in screen_text(pilot))
        assert "NaN" in screen_text(pilot)
        strips = pilot.app.screen._compositor.render_strips()
        black, line_filter = Color(0, 0, 0), pilot.app._filters[-1]
        styles = {segment.style for strip in strips for segment in strip.apply_filter(line_filter, black)}
        assert {style.color for style in styles if style} == {style.bgcolor for style in styles if style}


async def test_whole_way_with_a_real_engine_process() -> None:
    source = EngineProcess(partial(open_fake, delay=0.01))
    try:
        async with live(source, "abc", sampling=GREEDY) as pilot:
            await until(pilot, lambda: "abcdefghi" in pilot.app.screen.query_one(TextStream).text)
            await pilot.press("p")
            await until(pilot, lambda: "‖ paused" in screen_text(pilot))
            assert "fake" in screen_text(pilot)
            assert source._process is not None
            source._process.kill()
            await until(pilot, lambda: "ended by signal 9 (SIGKILL)" in screen_text(pilot))
            await pilot.press("ctrl+r")
            await until(pilot, lambda: "▶ running" in screen_text(pilot))
    finally:
        source.close()


async def test_another_theme_recolours_what_was_drawn_before() -> None:
    async with live(RecordedSource()) as pilot:
        await until(pilot, lambda: "attention" in screen_text(pilot))
        grid = pilot.app.screen.query_one(StageGrid)
        before = grid.render_line(0)
        pilot.app.theme = "textual-light"
        await pilot.pause()
        assert [segment.text for segment in grid.render_line(0)] == [segment.text for segment in before]
        assert [segment.style for segment in grid.render_line(0)] != [segment.style for segment in before]


async def test_silent_engine_is_noticed_while_the_screen_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aprtui.tui.screens.live.screen.PATIENCE", 0.1)
    source = RecordedSource()
    async with live(source) as pilot:
        await until(pilot, lambda: source.written >= 2)
        monkeypatch.setattr(source, "_token", list)
        await until(pilot, lambda: "no token for 0 s, ctrl+r restarts" in screen_text(pilot))
        await pilot.press("down")
        await until(pilot, lambda: "layer 1 attn_norm" in screen_text(pilot))


async def test_sampling_settings_are_on_the_screen() -> None:
    async with live(RecordedSource(), sampling=Sampling(temperature=0.5, top_k=40, seed=7)) as pilot:
        await until(pilot, lambda: "temperature 0.5  top-k 40  seed 7" in screen_text(pilot))


async def test_quitting_beside_a_crashed_engine_keeps_the_reason_and_its_exit_code() -> None:
    async with live(RecordedSource(crash_after=1)) as pilot:
        await until(pilot, lambda: "SIGKILL" in screen_text(pilot))
        await pilot.press("q")
        assert pilot.app.return_value is ExitCode.ENGINE
        assert isinstance(pilot.app, AprtuiApp)
        assert pilot.app.failure == "the engine process was ended by signal 9 (SIGKILL)"


async def test_prompt_that_is_being_typed_while_the_model_loads_is_left_alone() -> None:
    source = RecordedSource()
    source.loading_polls = 20
    async with live(source) as pilot:
        await pilot.press("e", "x")
        await until(pilot, lambda: source.state is EngineState.READY)
        await pilot.pause(0.2)
        assert source.prompts == []
        await pilot.press("y", "enter")
        await until(pilot, lambda: source.prompts == ["def fib(n):xy"])


async def test_prompt_entered_while_the_model_loads_starts_when_it_is_loaded() -> None:
    source = RecordedSource()
    source.loading_polls = 20
    async with live(source, "") as pilot:
        await pilot.press("e", "x", "enter")
        assert source.state is EngineState.LOADING
        await until(pilot, lambda: source.prompts == ["x"])


async def test_only_the_newest_token_is_marked_also_after_line_breaks() -> None:
    source = RecordedSource(["one\n", "two"])
    async with live(source) as pilot:
        await until(pilot, lambda: "stop token" in screen_text(pilot))
        rows = pilot.app.screen._compositor.render_strips()[4:7]
        assert ["".join(s.text for s in row if s.style and s.style.underline) for row in rows] == ["", "two", ""]


@pytest.mark.parametrize(("size", "shown"), [((120, 40), False), ((200, 60), True)])
async def test_contracts_about_the_stage_stand_beside_the_grid(size: tuple[int, int], shown: bool) -> None:
    async with live(RecordedSource(), size=size) as pilot:
        await until(pilot, lambda: "stop token" in screen_text(pilot))
        dock = pilot.app.screen.query_one(ContractsDock)
        assert dock.display is shown
        await pilot.press("C")
        assert dock.display or shown
        node = pilot.app.screen.query_one(StageGrid).node
        await until(pilot, lambda: dock.border_title == f"contracts about {node}")
        await pilot.press("j")
        node = pilot.app.screen.query_one(StageGrid).node
        await until(pilot, lambda: dock.border_title == f"contracts about {node}")
