"""What the panes of the tensor screen say: bytes, histograms, labels, heads."""

from __future__ import annotations

import numpy as np
import pytest

from aprtui.errors import UsageError
from aprtui.trace.aprt import header
from aprtui.trace.graph.stage_graph import graph_for
from aprtui.tui.draw.colours import Mark
from aprtui.tui.draw.tiles import Tiling
from aprtui.tui.draw.viewport import Viewport
from aprtui.tui.screens.tensor.body import mark_missing
from aprtui.tui.screens.tensor.source import channel_words
from aprtui.tui.screens.tensor.text import (
    RowLabels,
    axis_lines,
    bits_text,
    byte_lines,
    exact_number,
    first_byte,
    header_words,
    histogram_lines,
    key_lines,
    parse_place,
    rms_shares,
)
from aprtui.tui.widgets.lines import Ink, Piece
from tests.compare.synthetic import with_config
from tests.engine.tiny_model import HYBRID


def marked(line: list[Piece]) -> list[str]:
    return [text for text, ink in line if ink is Ink.MARKED]


def test_bytes_are_shown_with_offset_hex_and_text_and_the_value_marked() -> None:
    data = header(3, 7) + np.array([1.0, -2.5], "<f4").tobytes()
    lines = byte_lines(data, 0, slice(12, 16))
    words = "".join(text for text, _ in lines[0])
    assert words == "00000000  41 50 52 54 03 00 00 00 07 00 00 00 00 00 80 3f  APRT···········?"
    assert marked(lines[0]) == ["00 00 80 3f", "···?"]
    assert marked(lines[1]) == []
    across = byte_lines(bytes(32), 0x40, slice(0x4E, 0x52))
    assert marked(across[0]) == ["00 00", "··"]
    assert marked(across[1]) == ["00 00", "··"]
    assert header_words(data, 0) == ["magic APRT", "layer 3", "number of values 7"]
    assert header_words(header(None, 7), 0)[1] == "layer of the whole model"
    assert header_words(data, 16) == []
    assert (first_byte(5, 7), first_byte(1000, 7)) == (0, 0x3B0)


def test_histograms_show_single_values_beside_millions() -> None:
    lines = histogram_lines(np.array([0, 1, 1_000_000]), 4, plain=False)
    assert [len(line) for line in lines] == [3] * 4
    assert lines[-1][0] == " " and lines[-1][1] != " " and [line[2] for line in lines] == ["█"] * 4
    assert histogram_lines(np.zeros(3, np.int64), 2, plain=True) == ["   ", "   "]


def test_bars_are_linear_until_a_row_dwarfs_the_others() -> None:
    shares, is_log = rms_shares(np.array([1.0, 2.0, np.nan, 4.0]))
    assert shares.tolist() == [0.25, 0.5, 0.0, 1.0] and not is_log
    shares, is_log = rms_shares(np.array([1000.0, 1.0, 10.0, 1.0, 0.0]))
    assert is_log and shares.tolist() == pytest.approx([1.0, 0.05, 1 / 3, 0.05, 0.0])
    assert rms_shares(np.zeros(0))[0].size == 0


def test_tokens_and_numbers_are_seen_whatever_they_are() -> None:
    assert (exact_number(np.float32(-0.1)), exact_number(np.float32("nan"))) == ("−0.1", "NaN")
    assert (bits_text(np.float32(-0.0)), bits_text(np.float32("inf"))) == ("0x80000000", "0x7f800000")
    labels = RowLabels("token", ("def", "·f"), (7, 8, 9))
    assert [labels.words(row) for row in (1, 2, 3)] == ["token 1 ·f", "token 2 id 9", "token 3"]
    assert labels.short(2, 8, 2) == " 2 #9   "
    assert RowLabels("token", ("日本語",), ()).short(0, 7, 1) == "0 日本…", "a wide character takes two cells"
    assert RowLabels("token", ("_initialize",), ()).short(0, 9, 1) == "0 _initi…"
    assert [RowLabels("token", ("ab", "日本語"), ()).text_width(most) for most in (9, 4)] == [6, 4]
    assert RowLabels("token", (), (12345,)).text_width(9) == 6


def test_the_axis_of_a_histogram_has_its_mark_where_zero_is() -> None:
    line, labels = axis_lines(-1, 3, 20, "", plain=False)
    assert (line, labels) == ("─────┬──────────────", "−1   0             3")
    for low, high, width in ((-17.2, 11.9, 36), (-1e-3, 12, 36), (-12, 1e-3, 36), (-800, 0.5, 20)):
        line, labels = axis_lines(low, high, width, "", plain=True)
        # In the bin of zero, as the profile counts it.
        assert line.index("+") == int(-low / (high - low) * width) and len(line) == len(labels) == width
        assert labels[line.index("+")] == "0" or " 0 " not in labels
    assert "┬" not in axis_lines(0, 3, 20, "", plain=False)[0] + axis_lines(1e-6, 1, 30, "log", plain=False)[0]
    assert axis_lines(1e-6, 1, 20, "log", plain=False)[1] == "1e−06     log      1"


def test_keys_stand_above_their_columns_as_far_as_there_is_room() -> None:
    texts = ("def", "·function", "(")
    view = Viewport.of((3, 3), 12, 15)
    lines = ["".join(text for text, _ in line) for line in key_lines(view, texts)]
    assert lines == ["def  ·fun (    ", "     ctio      ", "     n         "]
    assert marked(key_lines(view.at(0, 1), texts)[0]) == ["·fun"]
    narrow = key_lines(Viewport.of((3, 3), 12, 6), texts)
    assert ["".join(text for text, _ in line) for line in narrow] == ["d · ( ", "e f   ", "f …   "]
    assert key_lines(Viewport.of((3, 3), 12, 3), texts) == [] == key_lines(Viewport.of((9, 9), 12, 4), texts)
    assert key_lines(view, ()) == []


def test_a_place_is_row_and_column_or_head_row_and_column() -> None:
    assert parse_place("5,17", 1) == (None, 5, 17)
    assert parse_place("2:5 17", 4) == (2, 5, 17)
    for text, planes in (("5", 1), ("1,2,3", 1), ("a,b", 1), ("-1,2", 1), ("", 4)):
        with pytest.raises(UsageError, match="expected"):
            parse_place(text, planes)


def test_a_channel_is_told_with_its_head() -> None:
    graph = graph_for(with_config(heads=2, kv_heads=1, head_dim=4, qk_norm=True))
    assert channel_words(graph, graph["q_post_rope"], 5) == "head 1, 1 in head"
    assert channel_words(graph, graph["qkv_matmul"], 9) == "K head 0, 1 in head"
    assert channel_words(graph, graph["qkv_matmul"], 15) == "V head 0, 3 in head"
    assert channel_words(graph, graph["attention"], 4) == "head 1, 0 in head"
    assert channel_words(graph, graph["ffn_gate"], 4) == ""
    hybrid = graph_for(HYBRID)
    size, head = HYBRID.linear_head_dim, HYBRID.head_dim
    assert channel_words(hybrid, hybrid["linear_attn_output"], size + 1) == "head 1, 1 in head"
    assert channel_words(hybrid, hybrid["qkv_matmul"], 2 * head + 1) == "Q head 1, 1 in head"


def test_cells_above_the_diagonal_and_unread_ones_have_no_level() -> None:
    tile = mark_missing(np.zeros((3, 3), np.uint8), Tiling(0, 0, 2, 2), 2, causal=True)
    missing = int(Mark.MISSING)
    assert tile.tolist() == [[0, missing, missing], [0, 0, missing], [missing] * 3]
