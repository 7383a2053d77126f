"""The tensor screen as a person drives it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from textual.widgets import Input

from aprtui.errors import UnreadableError, UsageError
from aprtui.model.model import load_model
from aprtui.resources import embedded_model
from aprtui.trace.aprt import write_aprt
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from aprtui.trace.manifest import read_manifest, write_manifest
from aprtui.tui.frame.state import ScreenName, ScreenState, parse_state, screen_state
from aprtui.tui.screens.tensor import screen as tensor_screen
from aprtui.tui.screens.tensor.map import ColourBar, TensorMap
from aprtui.tui.screens.tensor.screen import TensorScreen
from aprtui.tui.screens.tensor.source import open_source
from aprtui.tui.widgets.heatmap import Heatmap
from aprtui.tui.widgets.lines import Lines
from aprtui.tui.widgets.table import Table
from tests.compare.synthetic import CONFIG, changed, stage_values, with_config, write_capture
from tests.engine.embedded_captures import captured
from tests.model.gguf_files import write_model
from tests.recordings.made import attention_recording
from tests.tui.driver import Driver, drag, notifications, screen_text, showing, tool_screen, until, until_shown
from tests.tui.frame.key_clashes import clashes


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("APRTUI_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(tensor_screen, "SECONDS_BETWEEN_LOOKS", 0.05)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stage(name: str = "ffn_up", layer: int | None = 1, **fields: object) -> ScreenState:
    return screen_state(ScreenName.TENSOR, capture="a", layer=layer, stage=name, **fields)


def values(name: str = "ffn_up", width: int = CONFIG.ffn) -> np.ndarray:
    return stage_values(Node(1, name), (5, width), (5, 3, 9, 1, 7))


def lines(pilot: Driver, name: str) -> str:
    return pilot.app.screen.query_one(f"#{name}", Lines).text


async def until_read(pilot: Driver) -> None:
    """Until tile and profile are there."""
    await until(pilot, lambda: pilot.app.screen.query_one(TensorMap).tile.size > 0)
    await until(pilot, lambda: "being read" not in lines(pilot, "histogram"))


def test_no_key_means_two_things() -> None:
    assert not clashes(TensorScreen.all_bindings(), TensorScreen.CHORDS)


async def test_an_op_of_a_recording_is_seen_with_its_name_and_its_neighbours(folder: Path) -> None:
    attention_recording(folder / "r")
    async with showing(screen_state(ScreenName.TENSOR, capture="r", node="0.4")) as pilot:
        await until_read(pilot)
        await until_shown(pilot, "op 0.4 MUL_MAT, layer 0 attn_scores (kq-0)", "4×4")
        await pilot.press("y")
        assert pilot.app.clipboard.startswith("aprtui stats r --stage kq-0")
    source = open_source(screen_state(ScreenName.TENSOR, capture="r", node="0.4"))
    assert source is not None
    assert str(source.neighbour(1, "all")) == "aprtui:tensor?capture=r&node=0.5"
    assert str(source.neighbour(1, "stage")) == "aprtui:tensor?capture=r&node=0.6"
    assert source.neighbour(-9, "all") is None


@pytest.mark.parametrize(("node", "words"), [("0.99", "has no op 99 of graph 0"), ("x", "expected the number")])
def test_an_op_that_there_is_not_is_refused(folder: Path, node: str, words: str) -> None:
    attention_recording(folder / "r")
    with pytest.raises(UsageError, match=words):
        open_source(screen_state(ScreenName.TENSOR, capture="r", node=node))


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
async def test_a_stage_is_seen_whole_with_its_scale_and_its_tokens(folder: Path, size: tuple[int, int]) -> None:
    write_capture(folder / "a")
    async with showing(stage(), size) as pilot:
        await until_read(pilot)
        text = screen_text(pilot)
        for word in ("layer 1 ffn_up: tokens × channels", "0 #5", "4 #7", "linear scale", "a  5×12", "token 0 id 5"):
            assert word in text
        assert ("all values" in text) == (size[0] >= 110) and ("bytes of" in text) == (size[1] >= 34)


async def test_the_value_under_the_cursor_is_told_with_bits_place_and_bytes(folder: Path) -> None:
    write_capture(folder / "a")
    async with showing(stage(at="2,7")) as pilot:
        await until_read(pilot)
        value = values()[2, 7]
        bits = f"0x{int(value.view(np.uint32)):08x}"
        number = str(value).replace("-", "−")
        offset = 12 + 4 * (2 * 12 + 7)
        for word in ("token 2 id 9", "channel 7", number, bits):
            assert word in screen_text(pilot)
        assert f"byte at {offset}" in lines(pilot, "value")
        assert " ".join(f"{byte:02x}" for byte in value.tobytes()) in lines(pilot, "bytes").replace("  ", " ")
        await pilot.press("h", "k")
        assert f"byte at {12 + 4 * (12 + 6)}" in lines(pilot, "value")


async def test_every_key_of_the_cursor_moves_it(folder: Path) -> None:
    write_capture(folder / "a")
    async with showing(stage()) as pilot:
        await until_read(pilot)
        for key, place in [
            ("down", "1,0"), ("j", "2,0"), ("up", "1,0"), ("k", "0,0"), ("right", "0,1"), ("l", "0,2"), ("left", "0,1"),
            ("h", "0,0"), ("shift+right", "0,10"), ("shift+left", "0,0"),
            ("pagedown", "4,0"), ("pageup", "0,0"), ("end", "0,11"), ("home", "0,0"),
        ]:  # fmt: skip
            await pilot.press(key)
            assert tool_screen(pilot).state().text("at") == place, key


async def test_zooming_writes_the_numbers_out_and_back(folder: Path) -> None:
    write_capture(folder / "a")
    async with showing(stage(at="2,7")) as pilot:
        await until_read(pilot)
        await pilot.press("plus")
        number = f"{values()[2, 7]:.4g}".replace("-", "−")
        await until(pilot, lambda: pilot.app.screen.query_one(TensorMap).render_line(2).text.count(number) == 1)
        assert tool_screen(pilot).state().text("zoom") == "numbers"
        await pilot.press("minus")
        await until_shown(pilot, "whole, a cell a value")
        await pilot.press("enter", "0")
        await until_shown(pilot, "whole, a cell a value")


async def test_a_large_tensor_shows_its_wrong_number_at_any_zoom_and_enter_goes_there(folder: Path) -> None:
    big = np.random.default_rng(0).standard_normal((300, 1024)).astype(np.float32)
    big[123, 777] = np.nan
    write_aprt(folder / "big.bin", 0, big)
    async with showing(screen_state(ScreenName.TENSOR, path="big.bin", width=1024)) as pilot:
        await until_read(pilot)
        assert "X" in screen_text(pilot) and "1 NaN" in lines(pilot, "histogram")
        await pilot.press("g", *"123,777", "enter")
        await until_shown(pilot, "row 123  value 777  NaN")
        await pilot.press("enter")
        await until_shown(pilot, "numbers", "       NaN ")
        assert tool_screen(pilot).state().text("at") == "123,777"


async def test_scales_and_clipping_go_round_and_are_told(folder: Path) -> None:
    made = np.random.default_rng(1).standard_normal(2000).astype(np.float32)
    made[700] = 1e6
    write_aprt(folder / "spike.bin", 0, made)
    async with showing(screen_state(ScreenName.TENSOR, path="spike.bin")) as pilot:
        await until_read(pilot)
        bar = pilot.app.screen.query_one(ColourBar)
        assert "1e+06  linear" in bar.text
        for word in ("log scale", "symmetric scale", "linear scale"):
            await pilot.press("M")
            assert word in bar.text
        await pilot.press("X", "X")
        assert "linear scale of 99 % of the values" in bar.text and "1e+06" not in bar.text
        assert "+" in pilot.app.screen.query_one(TensorMap).render_line(0).text
        assert "clip=0.99" in str(tool_screen(pilot).state())
        await pilot.press("X")
        assert "of the values" not in bar.text


async def test_stages_and_layers_are_walked(folder: Path) -> None:
    write_capture(folder / "a")
    async with showing(stage(at="3,2")) as pilot:
        for keys, title in [
            ("n", "layer 1 ffn_silu"), ("N", "layer 1 ffn_up"),
            ("]s", "layer 1 ffn_silu"), ("[s", "layer 1 ffn_up"), ("]l", "layer 2 ffn_up"), ("[l", "layer 1 ffn_up"),
        ]:  # fmt: skip
            await pilot.press(
                *({"]": "right_square_bracket", "[": "left_square_bracket"}.get(key, key) for key in keys)
            )
            await until_shown(pilot, f"{title}: tokens × channels")
            assert tool_screen(pilot).state().text("at") == "3,2"
        await pilot.press("right_square_bracket", "l", "right_square_bracket", "l")
        await until(pilot, lambda: "No other layer there." in notifications(pilot))


async def test_attention_maps_have_heads_queries_and_keys(folder: Path) -> None:
    write_capture(folder / "a")
    async with showing(stage("attn_softmax")) as pilot:
        await until_read(pilot)
        await until_shown(pilot, "head 0 of 2: querys × keys".replace("querys", "queries"), "a  2×5×5")
        await pilot.press("right_square_bracket", "h")
        await until_shown(pilot, "head 1 of 2")
        await pilot.press("g", *"1,3,2", "enter")
        await until_shown(pilot, "head 1  query 3 id 1  key 2 id 9")
        await pilot.press("y")
        assert pilot.app.clipboard == "aprtui stats a --stage attn_softmax --layers 1..2 --values 1,3,2"
        await pilot.press("end")
        await until_shown(pilot, "key > query: of no meaning")
        await pilot.press("left_square_bracket", "h")
        await until_shown(pilot, "head 0 of 2")


async def test_outliers_are_listed_and_jump(folder: Path) -> None:
    write_capture(folder / "a", edits={Node(1, "ffn_up"): changed((slice(None), 9), 50.0)})
    async with showing(stage(), (80, 24)) as pilot:
        await until_read(pilot)
        await pilot.press("O")
        await until_shown(pilot, "channels with the largest rms")
        assert pilot.app.screen.query_one("#outliers", Table).key == 9
        await until(pilot, lambda: tool_screen(pilot).state().text("at") == "0,9")
        await pilot.press("enter")
        assert tool_screen(pilot).state().text("at") == "0,9"
        assert isinstance(pilot.app.screen.focused, TensorMap)
        await pilot.press("v")
        await until_shown(pilot, "bytes of ffn_up.bin")


async def test_tokens_have_their_texts_where_the_manifest_states_them(folder: Path) -> None:
    capture = write_capture(folder / "a")
    manifest = read_manifest(capture)
    assert manifest is not None
    write_manifest(capture, replace(manifest, pieces=("def", " fib", "\n", "(", "n")))
    async with showing(stage()) as pilot:
        await until_shown(pilot, "0 def", "1 ·fib", "token 0 def")


async def test_tokens_of_other_engines_have_their_texts_where_the_model_is_at_hand(folder: Path) -> None:
    capture = write_capture(folder / "runs" / "a")
    manifest = read_manifest(capture)
    assert manifest is not None
    model = load_model(embedded_model())
    tokens = tuple(model.tokenizer.encode("def fib(n):", bos=False))[:5]
    info = replace(manifest.model, sha256=model.sha256())
    write_manifest(capture, replace(manifest, model=info, tokens=tokens))
    async with showing(screen_state(ScreenName.TENSOR, capture="runs/a", layer=1, stage="ffn_up")) as pilot:
        await until_shown(pilot, "0 def", "token 0 def")
    # The name alone, and a file in the folder of the capture.
    shutil.copy(embedded_model(), folder / "runs" / "Tiny-Model.gguf")
    (capture / "manifest.json").unlink()
    name = model.name.replace(" ", "-").upper()
    (capture / "_PROVENANCE.txt").write_text(f"model: maker/{name}\ntokens: {list(tokens)}\n")
    async with showing(screen_state(ScreenName.TENSOR, capture="runs/a", layer=1, stage="ffn_up")) as pilot:
        await until_shown(pilot, "0 def", "token 0 def")


async def test_a_weight_is_shown_dequantised(folder: Path) -> None:
    shutil.copy(embedded_model(), folder / "demo.gguf")
    state = screen_state(ScreenName.TENSOR, model="demo.gguf", tensor="blk.0.ffn_gate.weight")
    async with showing(state) as pilot:
        await until_read(pilot)
        await until_shown(
            pilot, "blk.0.ffn_gate.weight, Q4_K dequantised", "block of 144 bytes at", "demo.gguf  768×256"
        )
        await pilot.press("right_square_bracket", "l", "y")
        await until_shown(pilot, "blk.1.ffn_gate.weight")
        assert pilot.app.clipboard == "aprtui stats demo.gguf"


async def test_a_stage_file_of_a_capture_is_opened_with_its_shape_and_one_by_itself_without(folder: Path) -> None:
    write_capture(folder / "a")
    async with showing(screen_state(ScreenName.TENSOR, path="a/layer-1/ffn_up.bin")) as pilot:
        await until_shown(pilot, "layer 1 ffn_up: tokens × channels")
    shutil.copy(folder / "a/layer-1/ffn_up.bin", folder / "alone.bin")
    async with showing(screen_state(ScreenName.TENSOR, path="alone.bin")) as pilot:
        await until_shown(pilot, "alone.bin: rows × values", "1×60")


async def test_state_is_shown_again(folder: Path) -> None:
    write_capture(folder / "a")
    state = "aprtui:tensor?capture=a&layer=1&stage=attn_scores&at=3,2&zoom=numbers&head=1&scale=log&clip=0.99"
    async with showing(parse_state(state)) as pilot:
        await until_read(pilot)
        await until_shown(pilot, "head 1 of 2", "numbers", "log scale of 99 % of the values", "query 3 id 1  key 2")
        assert str(tool_screen(pilot).state()) == state


async def test_without_a_tensor_it_says_what_to_do() -> None:
    async with showing(ScreenState(ScreenName.TENSOR), (80, 24)) as pilot:
        await until_shown(pilot, "No tensor is open.", "Press 2 for Browse")
        await pilot.press("plus", "M", "n", "g", "v", "r", "enter", "j", "y")
        assert notifications(pilot) == ["Nothing here to give headless yet."]
        assert not pilot.app.screen.query_one(Input).display


async def test_a_file_that_shrinks_or_goes_is_told_and_the_screen_stays(folder: Path) -> None:
    write_capture(folder / "a")
    path = folder / "a/layer-1/ffn_up.bin"
    whole = path.read_bytes()
    async with showing(stage()) as pilot:
        await until_read(pilot)
        with path.open("r+b") as file:
            file.truncate(40)
        await pilot.press("end", "down")
        await until_shown(pilot, "the file ends here since it was opened")
        path.write_bytes(whole)
        await pilot.press("r")
        await until_read(pilot)
        await pilot.press("j")
        await until_shown(pilot, "token 2 id 9")
        path.unlink()
        await until_shown(pilot, "has been deleted: its former contents are shown")
        await pilot.press("r")
        await until_shown(pilot, "has no file of layer 1 ffn_up")


async def test_a_broken_stage_among_good_ones_is_told_and_passed_by(folder: Path) -> None:
    write_capture(folder / "a")
    (folder / "a/layer-1/ffn_silu.bin").write_bytes(b"")
    async with showing(stage()) as pilot:
        await until_read(pilot)
        await pilot.press("n")
        await until_shown(pilot, "layer 1 ffn_swigl: tokens × channels")
        assert "header ends after 0 of 12 bytes" in notifications(pilot)[0]


async def test_a_file_that_is_not_the_manifests_is_told(folder: Path) -> None:
    from dataclasses import replace

    from aprtui.trace.manifest import read_manifest, write_manifest

    capture = write_capture(folder / "a")
    manifest = read_manifest(capture)
    assert manifest is not None
    files = {name: replace(info, crc32=1) for name, info in manifest.files.items()}
    write_manifest(capture, replace(manifest, files=files))
    async with showing(stage()) as pilot:
        await until_shown(pilot, "the manifest says 00000001: changed since the capture")


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (screen_state(ScreenName.TENSOR, capture="gone", stage="ffn_up"), UnreadableError),
        (stage("ffn_sideways"), UsageError),
        (stage("ffn_up", 99), UnreadableError),
        (screen_state(ScreenName.TENSOR, path="a/manifest.json"), UnreadableError),
        (screen_state(ScreenName.TENSOR, model="a/manifest.json"), UnreadableError),
    ],
)
async def test_what_cannot_be_shown_is_told_in_one_line(folder: Path, state: ScreenState, error: type) -> None:
    write_capture(folder / "a")
    with pytest.raises(error) as caught:
        open_source(state)
    async with showing(state) as pilot:
        await pilot.pause()
        assert notifications(pilot) == [str(caught.value)] and "\n" not in str(caught.value)


async def test_an_empty_file_is_shown_as_such(folder: Path) -> None:
    write_aprt(folder / "empty.bin", 0, np.empty(0, np.float32))
    async with showing(screen_state(ScreenName.TENSOR, path="empty.bin")) as pilot:
        await until_shown(pilot, "no values", "0×1")
        await pilot.press("j", "l", "plus", "enter", "M", "X", "O", "end", "minus", "0")
        assert not notifications(pilot)


async def test_the_mouse_points_and_frames(folder: Path) -> None:
    write_capture(folder / "a")
    async with showing(stage()) as pilot:
        await until_read(pilot)
        screen = pilot.app.screen
        assert isinstance(screen, TensorScreen) and screen._viewport is not None
        before, grain = screen.state().text("at"), screen._viewport.grain
        await pilot.click(TensorMap, offset=(grain.cells * 3 + 1, 9))
        row, column = screen.state().text("at").split(",")
        assert [row, column] != before.split(",") and int(column) in (3, 4)
        screen.query_one(TensorMap).post_message(Heatmap.Pointed(screen.query_one(TensorMap), 0, 0))
        await pilot.pause()
        assert screen.state().text("at") == "0,0"


async def test_the_mouse_frames_what_it_is_dragged_over(folder: Path) -> None:
    write_capture(folder / "a", config=with_config(ffn=4000))
    async with showing(stage()) as pilot:
        await until_read(pilot)
        screen = pilot.app.screen
        assert isinstance(screen, TensorScreen) and screen._viewport is not None and screen._viewport.is_whole
        await drag(pilot, screen.query_one(TensorMap), (20, 1), (29, 6))
        view, per_cell = screen._viewport, 4000 // screen._viewport.cells
        assert pilot.app.clipboard == ""
        assert not view.is_whole and view.tiling.columns_per_cell < per_cell
        assert view.tiling.column <= 21 * per_cell and 20 * per_cell <= view.column <= 32 * (per_cell + 1)


async def test_a_click_points_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pointed: list[Heatmap.Pointed] = []
    monkeypatch.setattr(TensorScreen, "on_heatmap_pointed", lambda _, message: pointed.append(message))
    write_capture(folder / "a")
    async with showing(stage()) as pilot:
        await until_read(pilot)
        await pilot.click(TensorMap, offset=(4, 3))
        await pilot.pause()
        assert len(pointed) == 1


async def test_a_resize_storm_leaves_the_screen_whole(folder: Path) -> None:
    write_capture(folder / "a")
    async with showing(stage(at="2,7")) as pilot:
        await until_read(pilot)
        for columns, rows in [(80, 24), (10, 5), (200, 60), (1, 1), (120, 40), (60, 10)] * 3:
            await pilot.resize_terminal(columns, rows)
        await pilot.resize_terminal(120, 40)
        await until_shown(pilot, "layer 1 ffn_up: tokens × channels", "token 2 id 9")
        assert tool_screen(pilot).state().text("at") == "2,7"


async def test_without_colour_there_are_glyphs(folder: Path) -> None:
    write_capture(folder / "a", edits={Node(1, "ffn_up"): changed((1, 1), np.inf)})
    async with showing(stage(), ascii_only=True) as pilot:
        await until_read(pilot)
        heat = pilot.app.screen.query_one(TensorMap)
        text = "\n".join(heat.render_line(y).text for y in range(heat.size.height))
        assert "I" in text and "▀" not in text and "@" in text
        assert "█" not in screen_text(pilot)


@pytest.fixture
def experts(folder: Path) -> Path:
    model = load_model(write_model(folder / "model.gguf", architecture="qwen3moe", experts=8, experts_used=2))
    return captured(model, folder / "a", tokens=(1, 5, 9, 200, 33))


async def test_columns_of_a_router_are_experts_and_channels_of_experts_say_whose_they_are(experts: Path) -> None:
    choice = Capture.open(experts).values(Node(1, "moe_router_indices"))
    async with showing(stage("moe_router", at="3,6")) as pilot:
        await until_read(pilot)
        assert "expert 6" in screen_text(pilot) and "channel 6" not in screen_text(pilot)
        assert "experts with the largest rms" in screen_text(pilot)
    async with showing(stage("moe_router_indices", at="3,1")) as pilot:
        await until_read(pilot)
        assert "choice 1" in screen_text(pilot) and "channel 1" not in screen_text(pilot)
    async with showing(stage("ffn_moe_up", at="3,263", zoom="numbers")) as pilot:
        await until_read(pilot)
        await until_shown(pilot, f"channel 263 (7 of expert {choice[3, 1]:g}, choice 1)")


def test_without_the_captured_choice_channels_of_experts_are_numbers(experts: Path) -> None:
    (experts / "layer-1" / "moe_router_indices.bin").unlink()
    source = open_source(screen_state(ScreenName.TENSOR, capture=experts, layer=1, stage="ffn_moe_up"))
    assert source is not None and source.column_words(263, 3) == ""
