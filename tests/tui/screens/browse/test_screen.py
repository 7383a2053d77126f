"""The browse screen as a person drives it."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from textual.widgets import Input

from aprtui.compare.verdict import Verdict
from aprtui.model.discovery.places import FoundModel
from aprtui.model.model import load_model
from aprtui.resources import embedded_model
from aprtui.trace.graph.stage import Node
from aprtui.trace.manifest import read_manifest, write_manifest
from aprtui.tui.app import AprtuiApp
from aprtui.tui.frame.child import Ended, Event, Progressed, Record, Remark
from aprtui.tui.frame.recent import recent_paths, remember
from aprtui.tui.frame.session import RecordedVerdict
from aprtui.tui.frame.state import ScreenName, ScreenState, parse_state, screen_state
from aprtui.tui.screens.browse import replay
from aprtui.tui.screens.browse import screen as browse_screen
from aprtui.tui.screens.browse.replay import ReplayRequest
from aprtui.tui.screens.browse.screen import BrowseScreen, CaptureGrid
from aprtui.tui.screens.diff.screen import DiffScreen
from aprtui.tui.widgets.table import Table
from aprtui.tui.widgets.text_stream import TextStream
from tests.compare.synthetic import HYBRID, changed, write_capture
from tests.engine.sessions.recorded_session import write_session
from tests.recordings.made import attention_recording
from tests.tui.driver import Driver, notifications, screen_text, showing, tool_screen, until, until_shown
from tests.tui.frame.key_clashes import bindings_at_once, clashes
from tests.tui.screens.browse.conversation import SAID
from tests.tui.screens.contracts.example import CONTRACT

BROWSE = ScreenState(ScreenName.BROWSE)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("APRTUI_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(browse_screen, "SECONDS_BETWEEN_LOOKS", 0.05)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """States of other screens that were asked for."""
    states: list[str] = []
    real = AprtuiApp.open_state

    def open_state(app: AprtuiApp, state: ScreenState) -> None:
        if state.screen is ScreenName.BROWSE:
            real(app, state)
        else:
            states.append(str(state))

    monkeypatch.setattr(AprtuiApp, "open_state", open_state)
    return states


def captures(folder: Path) -> None:
    write_capture(folder / "good")
    write_capture(folder / "runs" / "bad", edits={Node(1, "ffn_out"): changed((0, 0), np.nan)})
    write_capture(folder / "half", complete=False)
    write_capture(folder / "foreign", manifest=False)
    shutil.copy(embedded_model(), folder / "demo.gguf")


def found(pilot: Driver) -> Table:
    return pilot.app.screen.query_one("#artifacts", Table)


def test_no_key_means_two_things() -> None:
    for bindings in bindings_at_once(BrowseScreen):
        assert not clashes(bindings, BrowseScreen.CHORDS)


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
async def test_captures_and_models_are_found_with_what_they_are(folder: Path, size: tuple[int, int]) -> None:
    captures(folder)
    async with showing(BROWSE, size) as pilot:
        await until_shown(pilot, "4 captures, 1 model", "good", "runs/bad", "foreign", "no manifest", "unfinished")
        words = ["age", "size"] if size[0] == 80 else ["exact", "aprtui cpu"]
        assert all(word in screen_text(pilot) for word in words)


async def test_empty_folder_says_what_to_do() -> None:
    async with showing(BROWSE, (80, 24)) as pilot:
        await until_shown(pilot, "No captures or models here yet.", "aprtui trace -p TEXT", "0 captures")
        assert "Press 1 for Live" in screen_text(pilot) and "w writes the run" in screen_text(pilot)
        await until_shown(pilot, "│ appears by itself.", " no captures or models here")
        await pilot.press("enter", "space", "v", "y")
        assert notifications(pilot)[-1] == "Nothing here to give headless yet."


async def test_a_capture_of_logits_alone_has_statistics_and_no_grid(folder: Path) -> None:
    write_capture(folder / "whole")
    (folder / "logits").mkdir()
    shutil.copy(folder / "whole" / "lm_head.bin", folder / "logits")
    async with showing(screen_state(ScreenName.BROWSE, at="logits")) as pilot:
        await until_shown(pilot, "logits: statistics of each stage", "lm_head")
        assert pilot.app.screen.query_one(CaptureGrid).has_class("-absent")
        await pilot.press("v", "down", "up", "left")
        await until_shown(pilot, "lm_head  all finite")


async def test_grid_and_statistics_of_the_capture_under_the_cursor_are_shown(folder: Path) -> None:
    captures(folder)
    async with showing(screen_state(ScreenName.BROWSE, at="runs/bad")) as pilot:
        await until_shown(pilot, "bad: statistics of each stage", "first NaN: layer 1 ffn_out", "ffn_silu")
        await pilot.press("enter")
        await until_shown(pilot, "layer 0 attn_norm  all finite")
        await pilot.press(*"jlllllllllllllll")
        await until_shown(pilot, "layer 1 ffn_out  1 NaN, 0 Inf")
        assert pilot.app.screen.query_one("#stages", Table).key == Node(1, "ffn_out")


async def test_statistics_that_no_manifest_states_fill_in(folder: Path) -> None:
    write_capture(folder / "good")
    write_capture(folder / "foreign", manifest=False)
    async with showing(screen_state(ScreenName.BROWSE, at="foreign", stage="ffn_up", layer=2)) as pilot:
        await until(pilot, lambda: "…" not in screen_text(pilot) and "layer 2 ffn_up" not in screen_text(pilot))
        await pilot.press("enter", "v")
        await until_shown(pilot, "layer 2 ffn_up  all finite", "60 values  5×12")


async def test_a_stage_opens_from_the_grid_and_from_the_table(folder: Path, opened: list[str]) -> None:
    write_capture(folder / "good")
    async with showing(BROWSE) as pilot:
        await until_shown(pilot, "good: statistics of each stage", "attn_norm")
        await pilot.press("enter")
        await until_shown(pilot, "layer 0 attn_norm  all finite")
        await pilot.press("enter", "v", "end", "enter")
        assert opened == [
            "aprtui:tensor?capture=good&layer=0&stage=attn_norm",
            "aprtui:tensor?capture=good&stage=lm_head",
        ]


async def test_a_model_is_a_list_of_tensors_with_scales_and_ranges(folder: Path, opened: list[str]) -> None:
    shutil.copy(embedded_model(), folder / "demo.gguf")
    async with showing(BROWSE) as pilot:
        await until_shown(pilot, "demo.gguf: tensors", "blk.0.attn_q.weight", "Q4_K", "dmin")
        await pilot.press("v", "down", "enter")
        assert opened == ["aprtui:tensor?model=demo.gguf&tensor=token_embd.weight"] or "tensor=" in opened[0]
        await until(pilot, lambda: " d " in screen_text(pilot) and "being read" not in screen_text(pilot))
        await pilot.press("y")
        assert pilot.app.clipboard == "aprtui stats demo.gguf"
        await pilot.press("escape", "space")
        assert "Only captures can be marked" in notifications(pilot)[-1]


async def test_two_marked_captures_open_the_diff(folder: Path, opened: list[str]) -> None:
    for name in ("a", "b", "c"):
        write_capture(folder / name)
    async with showing(BROWSE) as pilot:
        await until_shown(pilot, "3 captures")
        await pilot.press("d")
        assert "0 marked" in notifications(pilot)[-1]
        await pilot.press("space", "space", "y")
        assert pilot.app.clipboard == "aprtui diff a b"
        await pilot.press("d")
        assert opened[-1] == "aprtui:diff?a=a&b=b"
        await until_shown(pilot, "A  a", "B  b")
        await pilot.press("space")  # a third one takes the place of B
        await until_shown(pilot, "A  a", "B  c")
        await pilot.press("d", "x", "d")
        assert opened[-2:] == ["aprtui:diff?a=a&b=c", "aprtui:diff?a=c&b=a"]
        await pilot.press("space", "d")  # the one under the cursor, c, is A now
        assert "1 marked" in notifications(pilot)[-1]
        await until_shown(pilot, "B  a")
        await pilot.press("k", "space", "d")
        assert opened[-1] == "aprtui:diff?a=b&b=a"


async def test_filter_leaves_what_contains_its_words_and_escape_ends_it(folder: Path) -> None:
    captures(folder)
    async with showing(BROWSE) as pilot:
        await until_shown(pilot, "4 captures")
        await pilot.press("slash", *"bad d", "enter")
        assert [row.key for row in found(pilot).rows] == [(Path("runs/bad"),)]
        await until_shown(pilot, "bad: statistics of each stage", "ffn_silu")
        await pilot.press("slash", "escape")
        assert len(found(pilot).rows) == 5
        await pilot.press("enter", "slash", *"ffn_up", "enter")
        table = pilot.app.screen.query_one("#stages", Table)
        assert [row.key for row in table.rows] == [Node(layer, "ffn_up") for layer in range(3)]
        assert "stages=ffn_up" in str(tool_screen(pilot).state())
        await pilot.press("slash", *"zzz")
        await until_shown(pilot, "Nothing matches the filter.")


async def test_new_captures_appear_changed_ones_are_read_again_and_vanished_ones_go(folder: Path) -> None:
    write_capture(folder / "a")
    async with showing(BROWSE) as pilot:
        await until_shown(pilot, "1 capture", "a: statistics")
        write_capture(folder / "b", complete=False)
        await until_shown(pilot, "2 captures", "unfinished")
        assert found(pilot).key == (Path("a"),)
        write_capture(folder / "a", edits={Node(0, "ffn_up"): changed((0, 0), np.inf)})
        await until_shown(pilot, "first Inf: layer 0 ffn_up")
        shutil.rmtree(folder / "b")
        await until_shown(pilot, "1 capture")
        assert "unfinished" not in screen_text(pilot)


async def test_a_deleted_capture_keeps_its_place_until_the_cursor_leaves_it(folder: Path) -> None:
    write_capture(folder / "a")
    write_capture(folder / "b")
    async with showing(BROWSE) as pilot:
        await until_shown(pilot, "2 captures", "a: statistics")
        shutil.rmtree(folder / "a")
        await until_shown(pilot, "1 capture", "was deleted")
        assert found(pilot).key == (Path("a"),)
        await pilot.press("enter")
        assert tool_screen(pilot).NAME is ScreenName.BROWSE and "b: statistics" not in screen_text(pilot)
        await pilot.press("escape", "down")
        await until_shown(pilot, "b: statistics")
        assert "was deleted" not in screen_text(pilot)


async def test_damaged_files_among_good_ones_are_named(folder: Path) -> None:
    capture = write_capture(folder / "a")
    (capture / "layer-0/ffn_up.bin").write_bytes(b"APRT")
    (capture / "layer-1/ffn_up.bin").unlink()
    write_capture(folder / "b")
    (folder / "b" / "manifest.json").write_text('{"format": "aprtui-capture", "version": 1}')
    (folder / "c.gguf").write_bytes(b"GGUF" + bytes(100))
    async with showing(BROWSE) as pilot:
        await until_shown(pilot, "2 captures, 1 model", "damaged")
        await until_shown(pilot, "a: statistics", "damaged  2 stages unreadable:", " unreadable  ")
        await pilot.press("enter", "v", "slash", *"ffn_up", "enter")
        await until_shown(pilot, "unreadable", "gone", "header ends after 4 of 12 bytes")
        await pilot.press("j")
        await until_shown(pilot, "layer 1 ffn_up  its file is gone")
        await pilot.press("escape", "j", "enter")
        await until_shown(pilot, "not a manifest of this format")
        await pilot.press("j")
        await until_shown(pilot, "GGUF version 0")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
async def test_folder_without_permission_is_named_and_the_rest_is_shown(folder: Path) -> None:
    write_capture(folder / "a")
    closed = folder / "closed"
    closed.mkdir(mode=0o000)
    try:
        async with showing(BROWSE) as pilot:
            await until_shown(pilot, "1 capture, 0 models, 1 folder not readable")
            assert notifications(pilot) == ["closed: cannot be looked into: Permission denied"]
    finally:
        closed.chmod(0o700)


async def test_folders_without_permission_do_not_hide_the_rest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_capture(folder / "a")
    (folder / "closed").mkdir()
    real = os.scandir

    def scandir(path: str | Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    async with showing(BROWSE) as pilot:
        await until_shown(pilot, "1 capture, 0 models, 1 folder not readable", "a: statistics")
        assert notifications(pilot) == ["closed: cannot be looked into: Permission denied"]


async def test_given_paths_and_those_opened_lately_are_listed(folder: Path, tmp_path: Path) -> None:
    lately = write_capture(tmp_path / "elsewhere" / "lately")
    given = write_capture(tmp_path / "given" / "one")
    remember(lately)
    async with showing(BROWSE, paths=(tmp_path / "given",)) as pilot:
        await until_shown(pilot, "2 captures", "elsewhere/lately", "given/one")
    async with showing(screen_state(ScreenName.BROWSE, path=given)) as pilot:
        await until_shown(pilot, "one: statistics of each stage")
        await pilot.press("enter")
        assert recent_paths() == (given, lately)
        assert f"at={given}" in str(tool_screen(pilot).state())


async def test_pairs_and_contracts_that_were_opened_are_listed_and_open_again(
    folder: Path, tmp_path: Path, opened: list[str]
) -> None:
    a, b = write_capture(tmp_path / "elsewhere" / "a"), write_capture(tmp_path / "elsewhere" / "b")
    contract = tmp_path / "elsewhere" / "alpha-v1.yaml"
    contract.write_text(CONTRACT)
    remember(contract)
    remember(a, b)
    async with showing(BROWSE) as pilot:
        await until_shown(pilot, "0 captures, 0 models, 1 pair, 1 contract", "a ↔ ", "A        ", "B        ")
        await until_shown(pilot, "─ a ↔ b ─")
        await pilot.press("y")
        assert pilot.app.clipboard == f"aprtui diff {a} {b}"
        found = RecordedVerdict(Verdict.FAIL, "layer 1 ffn_up", ("aprtui", "diff", "a", "b"), time.time() + 1)
        tool_screen(pilot).session.judgements[a, b] = found
        await pilot.press("question_mark", "escape")
        await until_shown(pilot, "verdict  FAIL: layer 1 ffn_up", "command  aprtui diff a b")
        await pilot.press("enter", "down", "space")
        assert "Only captures can be marked" in notifications(pilot)[-1]
        await until_shown(pilot, "rules    ", "falsifiers")
        await pilot.press("enter")
        assert opened == [f"aprtui:diff?a={a}&b={b}", f"aprtui:contracts?path={contract}"]


class RecordedChild:
    """Gives out the events of a replay, one a poll; none after it was cancelled."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.events: list[Event] = []

    def start(self, request: ReplayRequest) -> None:
        self.words = request.words()
        self.events = list(REPLAYED[Path(self.words[2]).name])

    def poll(self) -> list[Event]:
        return [self.events.pop(0)] if self.events else []

    def cancel(self) -> None:
        self.events = []


SUMMARY = {"record": "summary", "verdict": "FAIL", "headline": "layer 1 ffn_up injects error", "compared": 53,
           "expected": 54}  # fmt: skip
REPLAYED: dict[str, list[Event]] = {
    "bad": [Progressed("replaying layer 1, 20/54"), Record({"record": "stage"}), Record(SUMMARY), Ended()],
    "slow": [Progressed("replaying layer 0, 1/54")],
    "broken": [Remark("no"), Ended("layer-0/q.bin: cannot be read")],
}


def of_embedded_model(path: Path, **changes: object) -> Path:
    """A capture whose manifest names the embedded model."""
    write_capture(path)
    manifest, model = read_manifest(path), load_model(embedded_model())
    assert manifest is not None
    info = replace(manifest.model, sha256=model.sha256(), architecture=model.architecture, **changes)  # type: ignore[arg-type]
    write_manifest(path, replace(manifest, model=info))
    return path


async def test_a_capture_is_replayed_from_its_row_and_keeps_its_verdict(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "ChildSource", RecordedChild)
    for name in REPLAYED:
        of_embedded_model(folder / name)
    async with showing(BROWSE) as pilot:
        await until_shown(pilot, "3 captures", "R: replay")
        await pilot.press("R")
        await until_shown(pilot, "verdict  FAIL: layer 1 ffn_up", "53 of 54", "command  aprtui replay bad")
        await pilot.press("y")
        assert pilot.app.clipboard == f"aprtui replay bad --model {embedded_model()}"
        await pilot.press("j", "R")
        await until_shown(pilot, "verdict  layer-0/q.bin: cannot", "command  aprtui replay broken")
        await pilot.press("j", "R")
        await until_shown(pilot, "replay   replaying layer 0, 1/54")
        await pilot.press("c")
        await until(pilot, lambda: "replaying" not in screen_text(pilot))
        await pilot.press("k", "k")
        await until_shown(pilot, "verdict  FAIL: layer 1 ffn_up")
        # What was judged is no longer what is there.
        of_embedded_model(folder / "bad", quantization="Q8_0")
        later = time.time() + 100
        os.utime(folder / "bad" / "manifest.json", (later, later))
        await until(pilot, lambda: "verdict" not in screen_text(pilot))


async def test_a_small_screen_without_the_preview_says_how_far_a_replay_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "ChildSource", RecordedChild)
    for name in ("bad", "slow"):
        of_embedded_model(folder / name)
    async with showing(BROWSE, (80, 24)) as pilot:
        await until_shown(pilot, "2 captures", "R: replay")
        await pilot.press("v", "R")
        await until_shown(pilot, "verdict: FAIL: layer 1 ffn_up")
        await pilot.press("j", "R")
        await until_shown(pilot, "replay: replaying layer 0, 1/54")


async def test_without_its_model_a_capture_says_what_to_do(folder: Path, opened: list[str]) -> None:
    write_capture(folder / "a")
    remember(write_capture(folder / "b"), folder / "a")
    shutil.copy(embedded_model(), folder / "demo.gguf")
    async with showing(BROWSE) as pilot:
        await until_shown(pilot, "2 captures, 1 model, 1 pair")
        await pilot.press("R")
        await until_shown(pilot, "verdict  no model at hand")
        await pilot.press("end", "R")
        assert opened == ["aprtui:diff?a=b&b=a&judge=replay"]
        request = DiffScreen(tool_screen(pilot).session, parse_state(opened[0]))._request
        assert request is not None and request.replay
        await pilot.press("k", "R")
        assert "Captures can be replayed" in notifications(pilot)[-1]


async def test_a_recording_shows_its_stages_and_its_other_ops_and_is_compared(
    folder: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    monkeypatch.setattr(replay, "ChildSource", RecordedChild)
    for name in ("a", "b"):
        attention_recording(folder / name, lambda text: text.replace("kq_soft_max", "mine"))
    monkeypatch.setitem(REPLAYED, "a", [Record({"record": "summary", "verdict": "PASS", "reason": "8 ops"}), Ended()])
    async with showing(BROWSE) as pilot:
        await until_shown(pilot, "2 recordings", "recorded ops", "9 ops of ggml", "attn_out", "mine-0 SOFT_MAX")
        await pilot.press("R")
        await until_shown(pilot, "verdict  PASS: 8 ops", "command  aprtui replay a")
        await pilot.press("enter", "v", "end")
        await until_shown(pilot, "op 5 of pass 0  SOFT_MAX  mine-0")
        await pilot.press("enter", "home", "enter", "escape", "space", "space", "d")
        assert opened == [
            "aprtui:tensor?capture=a&node=0.5", "aprtui:tensor?capture=a&layer=0&stage=embedding",
            "aprtui:diff?a=a&b=b",
        ]  # fmt: skip


async def test_enter_on_a_model_opens_it_in_live(folder: Path, opened: list[str]) -> None:
    shutil.copy(embedded_model(), folder / "demo.gguf")
    async with showing(BROWSE) as pilot:
        await until_shown(pilot, "demo.gguf: tensors", "enter: open it in Live", "unusual  ")
        await pilot.press("enter")
        assert opened == ["aprtui:live?model=demo.gguf"]


async def test_unwritable_state_folder_is_no_trouble(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("APRTUI_STATE_DIR", str(tmp_path / "file"))
    write_capture(folder / "a")
    async with showing(BROWSE) as pilot:
        await until_shown(pilot, "a: statistics", "attn_norm")
        await pilot.press("enter")
        await pilot.pause()
        assert not notifications(pilot)


async def test_state_is_shown_again(folder: Path) -> None:
    captures(folder)
    fields = {"at": "good", "layer": 1, "stage": "ffn_up", "a": "good", "b": "half", "stages": "ffn"}
    async with showing(screen_state(ScreenName.BROWSE, **fields)) as pilot:
        await until_shown(pilot, "good: statistics", "ffn_silu", "A  good", "B  half")
        await pilot.press("enter", "v")
        await pilot.pause()
        assert dict(tool_screen(pilot).state().fields) == {name: str(value) for name, value in fields.items()}
        assert [*tool_screen(pilot).command()] == ["aprtui", "diff", "good", "half"]
        await pilot.press("escape", "space", "k")
        await until_shown(pilot, "good: statistics", "ffn_silu")
        await pilot.press("enter", "y")
        assert pilot.app.clipboard == "aprtui stats good --stage ffn_up --layers 1..2"


async def test_small_screens_show_preview_grid_or_table(folder: Path) -> None:
    write_capture(folder / "a")
    async with showing(BROWSE, (80, 24)) as pilot:
        await until_shown(pilot, "prompt   ids 5 3 9 1 7", "model    tiny, Q4_K", "stages   all 54", "space: mark")
        assert "feed-forward" not in screen_text(pilot)
        await pilot.press("v")
        await until_shown(pilot, "a: rms of each stage", "feed-forward")
        assert "statistics of each stage" not in screen_text(pilot)
        await pilot.press("v")
        await until_shown(pilot, "a: statistics of each stage", "post_attn_residual")
        assert "feed-forward" not in screen_text(pilot)
        await pilot.press("v")
        await until_shown(pilot, "stages   all 54")
        await pilot.press("enter")
        await until_shown(pilot, "feed-forward", "layer 0 attn_norm  all finite")
        await pilot.press("v", "v")
        await until_shown(pilot, "stages   all 54", "capture a")


async def test_tab_goes_round_and_letters_are_letters_in_the_filter(folder: Path) -> None:
    write_capture(folder / "a")
    async with showing(BROWSE) as pilot:
        await until_shown(pilot, "a: statistics", "attn_norm")
        names = []
        for _ in range(3):
            await pilot.press("tab")
            names.append(pilot.app.screen.focused.id if pilot.app.screen.focused else None)
        assert names == ["grid", "stages", "artifacts"]
        await pilot.press("shift+tab")
        assert pilot.app.screen.focused is pilot.app.screen.query_one("#stages")
        await pilot.press("slash", "d", "space", "v", "q")
        assert pilot.app.screen.query_one(Input).value == "d vq"


async def test_a_resize_storm_leaves_the_screen_whole(folder: Path) -> None:
    captures(folder)
    async with showing(BROWSE) as pilot:
        await until_shown(pilot, "4 captures")
        for columns, rows in [(80, 24), (10, 5), (200, 60), (1, 1), (120, 40), (60, 10)] * 3:
            await pilot.resize_terminal(columns, rows)
        await pilot.resize_terminal(120, 40)
        await until_shown(pilot, "4 captures", "foreign: statistics of each stage")


async def test_keys_in_a_burst_mark_what_the_cursor_is_on(folder: Path) -> None:
    for name in ("a", "b", "c"):
        write_capture(folder / name)
    async with showing(BROWSE) as pilot:
        await until_shown(pilot, "3 captures")
        screen = tool_screen(pilot)
        assert isinstance(screen, BrowseScreen)
        # As when the next key is there before the message of the move has come.
        found(pilot).action_move(2)
        screen.action_mark()
        await until_shown(pilot, "A  c")
        assert "A  a" not in screen_text(pilot)


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_an_agent_trace_is_read_as_a_conversation_with_timings(folder: Path, size: tuple[int, int]) -> None:
    (folder / "talk.jsonl").write_text("\n".join(SAID))
    (folder / "other.jsonl").write_text('{"some": "thing"}\n')
    async with showing(BROWSE, size) as pilot:
        await until_shown(pilot, "1 conversation", "Tidy up", "apr-code", "2026-04-27 12:00:00 UTC", "1 failed")
        await pilot.press("enter")
        await until_shown(
            pilot, "talk.jsonl: conversation", "user    Tidy up", "model   I shall.", "result  no such file"
        )
        assert "500 ms, 7 tokens in, 5 out, 10 tokens/s" in screen_text(pilot) and "\x1b" not in screen_text(pilot)
        assert isinstance(pilot.app.focused, TextStream)
        await pilot.press("escape")
        assert pilot.app.screen.focused is found(pilot)
        if size[0] == 80:
            await pilot.press("v")
            await until_shown(pilot, "agent")


async def test_a_long_conversation_is_scrolled_by_keys(folder: Path) -> None:
    answer = '{"v": 1, "kind": "assistant_turn", "turn": %d, "blocks": [{"type": "text", "text": "answer %d"}]}'
    lines = [SAID[0], *(answer % (turn, turn) for turn in range(60))]
    (folder / "talk.jsonl").write_text("\n".join(lines))
    async with showing(BROWSE, (80, 24)) as pilot:
        await until_shown(pilot, "1 conversation")
        await pilot.press("enter")
        await until_shown(pilot, "answer 0")
        assert "answer 59" not in screen_text(pilot)
        await pilot.press(*["pagedown"] * 6)
        await until_shown(pilot, "answer 59")


async def test_a_damaged_conversation_says_why(folder: Path) -> None:
    (folder / "talk.jsonl").write_text(f"{SAID[0]}\nno\n{SAID[1]}\n")
    async with showing(BROWSE) as pilot:
        await until_shown(pilot, "1 conversation", "line 2: not JSON")


async def test_models_elsewhere_appear_behind_what_is_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captures(folder)
    elsewhere = folder.parent / "blob"
    shutil.copy(embedded_model(), elsewhere)
    model = FoundModel(elsewhere, ("demo:latest",), "Ollama")
    monkeypatch.setattr(browse_screen, "models_elsewhere", lambda config: (model,))
    async with showing(BROWSE, (120, 40)) as pilot:
        await until_shown(pilot, "demo:latest")
        await until_shown(pilot, "2 models")


async def test_in_a_folder_that_was_named_only_what_is_there_is_listed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captures(folder)

    def asked(config: object) -> tuple[FoundModel, ...]:
        raise AssertionError("looked elsewhere")

    monkeypatch.setattr(browse_screen, "models_elsewhere", asked)
    async with showing(screen_state(ScreenName.BROWSE, path=folder), (120, 40)) as pilot:
        await until_shown(pilot, "demo.gguf")
        await pilot.pause(0.3)


async def test_a_recorded_session_is_listed_and_played(folder: Path, opened: list[str]) -> None:
    write_session(folder / "run.jsonl")
    write_session(folder / "cut.jsonl", ended=False)
    async with showing(BROWSE, (200, 60)) as pilot:
        await until_shown(pilot, "2 sessions", "unfinished", "def fib(n):", "5 of the prompt, 17 generated")
        await pilot.press("j")
        await until_shown(pilot, "stop token", "temperature 0.5, seed 3", "play it in Live")
        assert list(tool_screen(pilot).command()) == ["aprtui", "render", "run.jsonl", "--svg", "run.svg"]
        await pilot.press("enter")
        assert opened == ["aprtui:live?recording=run.jsonl"]


async def test_a_stage_that_a_layer_lacks_is_said_and_not_opened(folder: Path, opened: list[str]) -> None:
    write_capture(folder / "good", config=HYBRID)
    async with showing(BROWSE) as pilot:
        await until_shown(pilot, "1 capture", "linear")
        await pilot.press("enter")
        grid = pilot.app.screen.query_one(CaptureGrid)
        await until(pilot, lambda: grid.has_focus)
        grid.put_cursor(Node(0, "linear_attn_out"))
        while grid.node != Node(0, "k_norm"):
            await pilot.press("right")
        await until_shown(pilot, "layer 0 has no k_norm")
        await pilot.press("enter")
        assert "Layer 0 has no k_norm." in notifications(pilot) and not opened
