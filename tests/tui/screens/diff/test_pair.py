"""A stage of two captures side by side, without a screen."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from aprtui.errors import UnreadableError
from aprtui.model.model import load_model
from aprtui.trace.aprt import write_aprt
from aprtui.trace.graph.stage import Node
from aprtui.tui.draw.colours import LEVELS, Mark
from aprtui.tui.draw.tiles import Tiling, reduced
from aprtui.tui.draw.viewport import Viewport
from aprtui.tui.screens.diff.pair import PairReader, open_pair, open_sides
from tests.compare.synthetic import changed, write_capture
from tests.engine.embedded_captures import captured
from tests.model.gguf_files import write_model

GATE, SOFTMAX = Node(1, "ffn_gate"), Node(1, "attn_softmax")


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    write_capture(tmp_path / "a")
    write_capture(tmp_path / "b", edits={GATE: changed((2, 3), 1e3), Node(0, "ffn_up"): changed((1, 1), np.nan)})
    return tmp_path / "a", tmp_path / "b"


def seen(pair: PairReader, lines: int, cells: int) -> Viewport:
    """All of a stage in so much room."""
    return Viewport.of(pair.shape, lines, cells)


def test_the_view_begins_at_the_value_that_differs_most(sides: tuple[Path, Path]) -> None:
    pair = open_pair(open_sides(*sides), GATE)
    plane, view, tiles = pair.beginning(seen(pair, 4, 4))
    assert (plane, view.row, view.column) == (0, 2, 3)
    row, column = view.cursor_cell
    a, b, difference = tiles.tiles
    assert a.shape == b.shape == difference.shape
    assert difference[row, column] == LEVELS - 1 == b[row, column]
    assert (difference != difference[row, column]).sum() == difference.size - 1
    words = pair.words(view, 0)
    assert words.startswith("token 2, channel 3: A ") and "B 1000, " in words and words.endswith(", 447a0000)")
    pair.close()


def test_nan_on_one_side_is_what_differs_most(sides: tuple[Path, Path]) -> None:
    pair = open_pair(open_sides(*sides), Node(0, "ffn_up"))
    _, view, tiles = pair.beginning(seen(pair, 4, 4))
    assert (view.row, view.column) == (1, 1)
    _, b, difference = tiles.tiles
    assert b[view.cursor_cell] == difference[view.cursor_cell] == Mark.NAN
    pair.close()


def test_attention_maps_have_a_plane_a_head(sides: tuple[Path, Path]) -> None:
    pair = open_pair(open_sides(*sides), SOFTMAX)
    assert pair.planes > 1
    words = pair.words(seen(pair, 4, 4).at(2, 1), plane=1)
    assert words.startswith("head 1, query 2, key 1: A ")
    pair.close()


def test_what_cannot_lie_side_by_side_is_told(sides: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match=r"a has no layer 7 ffn_gate"):
        open_pair(open_sides(*sides), Node(7, "ffn_gate"))
    (sides[1] / "layer-1" / "ffn_gate.bin").unlink()
    with pytest.raises(UnreadableError):
        open_pair(open_sides(*sides), GATE)
    write_aprt(tmp_path / "x.bin", 0, np.zeros(8, np.float32))
    write_aprt(tmp_path / "y.bin", 0, np.zeros(9, np.float32))
    with pytest.raises(UnreadableError, match="A is 1×8, B 1×9"):
        open_pair(open_sides(tmp_path / "x.bin", tmp_path / "y.bin"), GATE)


def block(values: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    return values[rows, columns]


def test_one_pass_gives_what_reducing_each_side_gives(sides: tuple[Path, Path]) -> None:
    opened = open_sides(*sides)
    assert opened.a is not None and opened.b is not None
    pair, a, b = open_pair(opened, GATE), opened.a.values(GATE), opened.b.values(GATE)
    for tiling in (Tiling(0, 0, 2, 5), Tiling(1, 3, 1, 2), Tiling(2, 4, 3, 1)):
        view = replace(seen(pair, 1, 3), tiling=tiling)
        assert view.room == (2, 3)
        tiles = pair.tiles(view, 0)
        for tile, values, scale in zip(
            tiles.tiles, (a, b, b - a), (tiles.scale, tiles.scale, tiles.difference), strict=True
        ):
            alone = reduced(partial(block, values), values.shape, tiling, (2, 3))
            assert np.array_equal(tile, scale.levels(alone))
    pair.close()


def test_rows_are_tokens_and_columns_of_routers_experts(tmp_path: Path) -> None:
    model = load_model(write_model(tmp_path / "model.gguf", architecture="qwen3moe"))
    capture = captured(model, tmp_path / "a", tokens=(1, 5, 9))
    expected = {"moe_router": "expert", "moe_router_indices": "choice", "ffn_moe_up": "channel", "ffn_norm": "channel"}
    for stage, column in expected.items():
        pair = open_pair(open_sides(capture, capture), Node(1, stage))
        assert pair.words(seen(pair, 4, 4).at(2, 1), 0).startswith(f"token 2, {column} 1: A ")
        pair.close()
