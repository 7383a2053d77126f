"""Where stages stand in a grid of layers, and the headers of its columns."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from aprtui.trace.graph.names import known_names
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import graph_for
from aprtui.tui.draw.grid_layout import code_rows, grid_layout, header_rows, wrapped_name
from tests.engine.fake_engine import CONFIG

GRAPH = graph_for(CONFIG)
LAYOUT = grid_layout(GRAPH)


def column(name: str) -> int:
    return [stage.name for stage in LAYOUT.stages].index(name)


def test_layout_has_a_row_for_each_layer_and_columns_in_graph_order() -> None:
    assert len(LAYOUT.rows) == CONFIG.layers
    names = [stage.name for stage in LAYOUT.stages]
    assert names == [name for name in GRAPH.names if name not in ("embedding", "final_norm", "lm_head")]
    assert [name for name, _ in LAYOUT.groups] == ["attention", "feed-forward"]
    assert sum(members for _, members in LAYOUT.groups) == len(LAYOUT.stages)


def test_every_node_stands_in_exactly_one_place() -> None:
    placed = sorted([*LAYOUT.rows.reshape(-1).tolist(), *LAYOUT.model_rows.tolist()])
    assert placed == list(range(len(GRAPH.nodes)))


def test_layout_finds_nodes_where_the_graph_has_them() -> None:
    assert GRAPH.nodes[LAYOUT.rows[2, column("ffn_up")]] == Node(2, "ffn_up")
    assert [GRAPH.nodes[row] for row in LAYOUT.model_rows] == list(LAYOUT.model_nodes)


@pytest.mark.parametrize("width", [4, 5, 6, 8, 20])
@pytest.mark.parametrize("name", known_names())
def test_no_letter_of_a_stage_name_is_lost(name: str, width: int) -> None:
    rows = wrapped_name(name, width)
    assert all(len(row) <= width for row in rows)
    assert "".join(rows).replace("_", "") == name.replace("_", "")


def test_long_words_are_broken_into_even_parts() -> None:
    assert wrapped_name("qkv_matmul", 4) == ["qkv", "mat", "mul"]
    assert wrapped_name("attention", 8) == ["atten", "tion"]


def test_header_texts_stand_at_the_bottom_and_fill_their_columns() -> None:
    assert header_rows(["ffn_up", "attn_out"], 5) == [["ffn  ", "attn "], ["up   ", "out  "]]
    assert header_rows(["ffn_up", "q_post_rope"], 8) == [["        ", "q_post  "], ["ffn_up  ", "rope    "]]


def test_narrow_columns_have_codes_and_the_narrowest_nothing() -> None:
    assert header_rows(["ffn_up", "attn_out"], 4) == [["fup ", "aou "]]
    assert header_rows(["ffn_up", "attn_out"], 3) == [["fup", "   "], ["   ", "aou"]]
    assert header_rows(["ffn_up"], 2) == []


def test_codes_over_columns_of_two_cells_stand_where_their_columns_do() -> None:
    rows = ["".join(row) for row in code_rows(["ffn_up", "attn_out", "ffn_norm", "ffn_silu"], 2)]
    assert rows == ["fup fno ", "  aou sil"]
    assert code_rows(["ffn_up"], 1) == []


@pytest.mark.parametrize("rows_at", [header_rows, code_rows])
@pytest.mark.parametrize("width", range(3, 12))
def test_neighbouring_headers_never_touch(rows_at: Callable[[list[str], int], list[list[str]]], width: int) -> None:
    names = [stage.name for stage in LAYOUT.stages]
    for row in rows_at(names, width):
        assert all(len(text) == width for text in row)
        assert all(left[-1] == " " or right[0] == " " for left, right in pairwise(row)), row
    assert all(any(row[column].strip() for row in rows_at(names, width)) for column in range(len(names)))


@pytest.mark.parametrize("width", range(9))
def test_where_there_are_no_stages_there_are_no_headers(width: int) -> None:
    assert header_rows([], width) == []
