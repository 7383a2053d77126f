"""What the live screen is made of, without a screen: signals, time travel, bars, settings, commands, state."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from aprtui.engine.logit_noise import LogitNoise
from aprtui.engine.process.messages import EngineSettings
from aprtui.engine.process.slots import CANDIDATES, RING, candidates
from aprtui.engine.protocol import KvType, Mode
from aprtui.engine.sampling import NO_TOKEN, Candidate, Sampling
from aprtui.errors import UsageError
from aprtui.model.prompt import ChatPrompt, Exchange
from aprtui.resources import embedded_model
from aprtui.trace.graph.stage import Node
from aprtui.tui.draw.bars import Bar, bar_cells, bar_text, candidate_bars, lens_bars, lens_cells, token_text
from aprtui.tui.draw.colours import TINTS, tint_styles
from aprtui.tui.draw.figures import Statistic
from aprtui.tui.draw.numbers import percent
from aprtui.tui.draw.signals import TintSignal, TokenFigures, flip_risk, tint, token_words
from aprtui.tui.draw.text import quoted
from aprtui.tui.frame.state import ScreenName, ScreenState, parse_state
from aprtui.tui.screens.live.run import Timeline
from aprtui.tui.screens.live.settings import LiveSettings, form_texts, parse_form
from aprtui.tui.screens.live.state import (
    LiveLook,
    free_directory,
    initial_state,
    live_state,
    run_command,
    trace_command,
)
from aprtui.tui.widgets.overview_grid import GridView
from tests.tui.screens.live.recorded import example_info, example_record

INFO = example_info()
SURE = TokenFigures(" return", 7, -0.001, 0.01, 12.0)
UNSURE = TokenFigures("\n", 8, -4.0, 4.9, 0.05)
NOISE = LogitNoise(0.15, 32)


@pytest.mark.parametrize("signal", [s for s in TintSignal if s is not TintSignal.NONE])
def test_every_signal_tints_the_unsure_token_brighter_than_the_sure_one(signal: TintSignal) -> None:
    assert tint(signal, SURE, NOISE) == 0
    assert tint(signal, UNSURE, NOISE) == TINTS - 1


def test_what_is_not_known_has_no_tint() -> None:
    assert tint(TintSignal.FLIP_RISK, SURE, None) is None
    assert tint(TintSignal.NONE, SURE, NOISE) is None
    assert tint(TintSignal.PROBABILITY, replace(SURE, logprob=math.nan), NOISE) is None


def test_flip_risk_is_that_of_two_independent_normal_errors() -> None:
    # Two errors of 0.15 differ by 0.15·√2; one such deviation away, 15.87 % of a normal distribution lie beyond.
    assert flip_risk(0.15 * math.sqrt(2), NOISE) == pytest.approx(0.158655, rel=1e-4)
    assert flip_risk(0.0, NOISE) == 0.5
    assert flip_risk(math.inf, NOISE) == 0
    assert (flip_risk(0.1, LogitNoise(0.0, 8)), flip_risk(0.0, LogitNoise(0.0, 8))) == (0.0, 0.5)


def test_token_in_words_says_everything_and_admits_what_was_not_measured() -> None:
    assert token_words(UNSURE, None) == [
        '"\\n" id 8', "probability 1.83 %", "entropy 4.90 nats", "margin 0.05", "flip risk not measured"
    ]  # fmt: skip
    assert token_words(UNSURE, NOISE)[3:] == ["margin 0.05 = 0.333 × noise", "flip risk 40.7 % (estimate)"]
    assert token_words(UNSURE, NOISE, TintSignal.FLIP_RISK)[1] == "flip risk 40.7 % (estimate)"
    assert (percent(1e-6), percent(0.0), percent(1.0), percent(math.nan)) == ("<0.01 %", "0 %", "100 %", "unknown")
    assert (percent(0.951), percent(0.0195), percent(0.000715)) == ("95.1 %", "1.95 %", "0.07 %")


def test_tints_leave_sure_text_plain_and_are_all_different() -> None:
    styles = tint_styles((14, 17, 22))
    assert len(set(styles)) == TINTS
    assert styles[0].bgcolor is None


def test_time_travel_moves_within_the_run_and_beyond_its_end_lies_the_present() -> None:
    line = Timeline(first_record=100).grown(140)
    assert (line.tokens, line.index, line.record, line.live) == (40, 39, 139, True)
    back = line.moved(-3)
    assert (back.index, back.record, back.live) == (36, 136, False)
    assert back.words() == "token 37 of 40, all kept"
    assert back.moved(-100).index == 0
    assert back.moved(2).index == 38
    assert back.moved(3).live
    assert back.to_live().live
    assert line.words() == "token 40 of 40"


def test_time_travel_ends_where_records_are_no_longer_kept_and_says_so() -> None:
    line = Timeline(first_record=7).grown(7 + RING + 50, 7 + 50)
    assert line.moved(-10000).index == 50
    assert line.at_token(3).words() == f"token 51 of {RING + 50}, the last {RING} kept"


def test_a_place_stays_where_it_is_while_tokens_come() -> None:
    line = Timeline(0).grown(10).moved(-4)
    assert line.grown(20).index == line.index == 5


def test_before_the_first_token_there_is_nowhere_to_go() -> None:
    line = Timeline()
    assert line.moved(-1) == line
    assert (line.index, line.words()) == (-1, "no token yet")


def test_candidates_are_named_and_the_chosen_one_is_marked() -> None:
    record = example_record(INFO, 3)
    bars = candidate_bars(record, {103: " n", 500: "x"})
    assert [bar.token for bar in bars[:3]] == ['" n"', '"x"', "#501"]
    assert [bar.marked for bar in bars] == [True] + [False] * (CANDIDATES - 1)


def test_chosen_token_that_is_unlikely_comes_last_with_its_own_probability() -> None:
    record = replace(example_record(INFO, 3), token=9, logprob=math.log(1e-3))
    last = candidate_bars(record, {})[-1]
    assert (last.token, last.marked) == ("#9", True)
    assert last.share == pytest.approx(1e-3)


def test_pass_without_a_token_has_no_bars() -> None:
    record = replace(example_record(INFO, 3), token=NO_TOKEN, candidates=candidates([], CANDIDATES))
    assert candidate_bars(record, {}) == []


def test_lens_has_a_row_for_each_layer_with_those_marked_that_agree_with_the_last() -> None:
    assert lens_bars(example_record(INFO, 3), {}) == []
    record = example_record(INFO, 3, lens=True)
    bars = lens_bars(record, {500: "a"})
    assert [bar.label for bar in bars] == ["0", "1", "2", "3"]
    assert [bar.marked for bar in bars] == [True, False, False, True]
    assert bars[0].token == '"a"'
    broken = replace(record, lens=candidates([Candidate(NO_TOKEN, math.nan)] * 4, 4))
    assert lens_bars(broken, {})[0].token == token_text(NO_TOKEN, {}) == "not finite"


@given(
    st.text("abé日\n ", max_size=12), st.floats(0, 1) | st.just(math.nan), st.integers(0, 60), st.sampled_from((0, 3))
)
def test_entries_of_the_lens_fill_their_width_exactly(token: str, share: float, width: int, label: int) -> None:
    assert cell_len(lens_cells(Bar("12", quoted(token), share), label, width, ascii_only=False)) == width


@given(st.floats(0, 1) | st.just(math.nan), st.integers(0, 40), st.booleans())
def test_bars_fill_their_width_exactly(share: float, width: int, ascii_only: bool) -> None:
    text = bar_text(share, width, ascii_only)
    assert cell_len(text) == width
    assert not ascii_only or text.isascii()


def test_bars_are_true_to_an_eighth_of_a_cell() -> None:
    assert bar_text(0.5, 4, False) == "██  "
    assert bar_text(1.0, 4, False) == "████"
    assert bar_text(1 / 32, 4, False) == "▏   "
    assert bar_text(0.5, 4, True) == "##  "


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=20), st.integers(24, 60))
def test_rows_of_bars_have_one_width_whatever_the_token_is(text: str, width: int) -> None:
    record = example_record(INFO, 1)
    bar = candidate_bars(record, {101: text})[0]
    assert sum(map(cell_len, bar_cells(bar, 2, width, False))) == width


SETTINGS = LiveSettings(
    Sampling(0.8, 40, 0.9, 0.05, 1.1, seed=7),
    EngineSettings("cpu", Mode.EXACT, KvType.F16, 3, 99, ("layer=1,a=b",)),
    "be\nbrief",
)


def test_settings_survive_their_form() -> None:
    assert parse_form(form_texts(SETTINGS), SETTINGS) == SETTINGS


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("temperature", "hot", "temperature is 'hot': expected a number"),
        ("temperature", "-1", "temperature is -1, expected a finite number"),
        ("top-k", "1.5", "top-k is '1.5': expected a whole number"),
        ("seed", "", "seed is '': expected a whole number"),
        ("top-p", "0", "top-p is 0, expected 0 < p"),
    ],
)
def test_form_says_which_line_is_wrong(name: str, text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        parse_form(form_texts(SETTINGS) | {name: text}, SETTINGS)


def test_several_faults_are_divided_by_blanks() -> None:
    parsed = parse_form(form_texts(SETTINGS) | {"fault": " a=1  b=2 "}, SETTINGS)
    assert parsed.engine.faults == ("a=1", "b=2")


def test_run_command_spells_out_what_differs_between_app_and_command() -> None:
    words = run_command(INFO, EngineSettings(), "a b", [1, 2], Sampling(temperature=0.7, top_k=5), 12)
    assert words == [
        "aprtui", "run", "-p", "a b", "-n", "12", "--temp", "0.7", "--top-k", "5",
        "--backend", "cpu", "--mode", "q8", "--kv", "f32",
    ]  # fmt: skip
    assert run_command(replace(INFO, path=Path("m.gguf")), EngineSettings(), "p", [1], Sampling(), 0)[2:6] == [
        "m.gguf", "-p", "p", "-n"
    ]  # fmt: skip
    assert (
        "m.gguf" not in run_command(replace(INFO, path=embedded_model()), EngineSettings(), "p", [1], Sampling(), 1)[2]
    )


def test_run_command_names_the_embedded_model_where_another_is_preferred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[models]\ndefault = "another"\n')
    monkeypatch.setenv("APRTUI_CONFIG", str(config))
    words = run_command(replace(INFO, path=embedded_model()), EngineSettings(), "p", [1], Sampling(), 1)
    assert words[2] == str(embedded_model())


def test_run_command_of_a_turn_says_what_was_said_or_gives_the_ids_of_all_before() -> None:
    def words(prompt: ChatPrompt) -> list[str]:
        return run_command(INFO, EngineSettings(), prompt, [7, 8, 9], Sampling(), 3)

    assert words(ChatPrompt("hi"))[2:6] == ["--chat", "-p", "hi", "-n"]
    assert words(ChatPrompt("hi", "be brief"))[2:7] == ["--chat", "--system", "be brief", "-p", "hi"]
    assert words(ChatPrompt("hi", "", (Exchange("a", "b"),), (7, 8)))[2:5] == ["--tokens", "7,8,9", "-n"]


def test_travel_reaches_through_all_answers_and_knows_the_records_of_each() -> None:
    """A turn that was asked for again has records between two answers, which no token has."""
    line = Timeline(30, answers=(range(3), range(10, 14))).grown(32)
    assert (line.tokens, line.record) == (9, 31)
    assert [line.at_token(index).record for index in range(9)] == [0, 1, 2, 10, 11, 12, 13, 30, 31]
    assert line.grown(RING + 12, 12).at_token(0).record == 12
    assert line.grown(RING + 12, 12).oldest == 5
    assert line.grown(RING + 12, 12).at_token(0).words() == f"token 6 of {RING - 11}, the last {RING - 16} kept"


def test_records_of_an_engine_that_is_gone_cannot_be_travelled_to() -> None:
    line = Timeline(2, answers=(range(-3, 0),)).grown(6)
    assert (line.tokens, line.oldest) == (7, 3)
    assert line.at_token(0).record == 2


def test_trace_command_evaluates_the_tokens_as_the_run_did() -> None:
    settings = EngineSettings(faults=("layer=1,stage=ffn_up,kind=nan",), context=64)
    words = trace_command(INFO, settings, [1, 2, 3], 2, Path("out"))
    assert words == [
        "aprtui", "trace", "--tokens", "1,2,3", "--decode-from", "2", "--logits", "all",
        "--backend", "cpu", "--mode", "q8", "--kv", "f32", "--context", "64",
        "--inject", "layer=1,stage=ffn_up,kind=nan", "--save-tensor-dir", "out",
    ]  # fmt: skip


def test_directories_of_captures_are_numbered(tmp_path: Path) -> None:
    assert free_directory("m", tmp_path) == Path("m-live-1")
    (tmp_path / "m-live-1").mkdir()
    assert free_directory("m", tmp_path) == Path("m-live-2")


def test_state_of_the_screen_survives_its_string() -> None:
    look = LiveLook(Node(2, "ffn_gate"), GridView.OVERVIEW, Statistic.TIME, TintSignal.FLIP_RISK, lens=True, token=17)
    state = live_state(Path("m.gguf"), SETTINGS, "def f():\n", True, look)
    read = parse_state(str(state))
    begin = initial_state(read, EngineSettings(threads=3, context=99))
    assert begin.engine == SETTINGS.engine
    assert begin.sampling == SETTINGS.sampling
    assert (begin.statistic, begin.signal, begin.lens) == (Statistic.TIME, TintSignal.FLIP_RISK, True)
    assert begin.view is GridView.OVERVIEW
    assert initial_state(ScreenState(ScreenName.LIVE), EngineSettings()).view is None
    assert (begin.node, begin.token) == (Node(2, "ffn_gate"), 17)
    assert (begin.chat, begin.system) == (True, "be\nbrief")
    assert (read.text("prompt"), read.text("model")) == ("def f():\n", "m.gguf")


def test_state_that_says_nothing_leaves_all_as_it_was() -> None:
    engine = EngineSettings("numpy", Mode.EXACT)
    begin = initial_state(ScreenState(ScreenName.LIVE), engine)
    assert begin.engine == engine
    assert begin.sampling is None
    assert (begin.chat, begin.system) == (None, "")
    assert (begin.statistic, begin.signal, begin.token) == (Statistic.RMS, TintSignal.PROBABILITY, None)


@pytest.mark.parametrize(
    "text",
    [
        "aprtui:live?mode=fast",
        "aprtui:live?statistic=size",
        "aprtui:live?temp=hot",
        "aprtui:live?token=last",
        "aprtui:live?chat=maybe",
        "aprtui:live?earlier=[1]",
        'aprtui:live?earlier=[["a","b"]]&before=x',
    ],
)
def test_state_that_makes_no_sense_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        initial_state(parse_state(text), EngineSettings())
    assert "\n" not in str(refused.value)
