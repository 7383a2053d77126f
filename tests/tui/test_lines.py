"""Headers and lines of text of the live screen."""

from __future__ import annotations

import dataclasses

import pytest

from aprtui.trace.graph import Node, graph_for, known_names
from aprtui.tui.readout import describe, engine_line, fit, pass_title, speed_line
from aprtui.tui.stage_header import header_rows, wrapped_name
from tests.tui.recorded import example_info, example_record

INFO = example_info()
GRAPH = graph_for(INFO.graph)


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
    assert header_rows(["ffn_up", "attn_out"], 4) == [["ffn ", "attn"], ["up  ", "out "]]
    assert header_rows(["ffn_up", "q_post_rope"], 8) == [["        ", "q_post  "], ["ffn_up  ", "rope    "]]


def test_columns_too_narrow_for_words_have_no_header() -> None:
    assert header_rows(["ffn_up"], 3) == []


def test_what_does_not_fit_is_left_out_with_a_sign() -> None:
    assert fit(["one", "two", "three"], 15) == "one  two  three"
    assert fit(["one", "two", "three"], 14) == "one  two  …"
    assert fit(["one", "two", "three"], 10) == "one  …"
    assert fit(["unfittable"], 5) == "unfi…"


def test_readout_tells_a_node_in_words() -> None:
    record = example_record(INFO, 3)
    line = describe(GRAPH, Node(1, "ffn_gate"), record.stats, 200)
    row = record.stats[GRAPH.order[Node(1, "ffn_gate")]]
    assert line.startswith(f"layer 1 ffn_gate  rms {row['rms']:.3g}  all finite  min −")
    assert line.endswith("768 values")


def test_readout_counts_nan_first() -> None:
    record = example_record(INFO, 3, bad=Node(1, "ffn_gate"))
    assert "1 NaN, 0 Inf" in describe(GRAPH, Node(1, "ffn_gate"), record.stats, 80)
    assert "all finite" in describe(GRAPH, Node(1, "ffn_norm"), record.stats, 80)


def test_readout_before_any_token_says_so() -> None:
    assert describe(GRAPH, Node(0, "attn_norm"), None, 80) == "layer 0 attn_norm  no token yet"


def test_engine_line_names_model_mode_cache_and_kernels() -> None:
    assert engine_line(INFO, 100) == "example  qwen2 Q4_K_M  mode q8  K/V f32  cpu (numba-avx2)"
    assert engine_line(INFO, 60).startswith("made for 80 columns, this screen has 60")


def test_speed_line_states_the_engines_speed_and_the_pace_that_holds_it_back() -> None:
    record = example_record(INFO, 3)
    assert speed_line(INFO, record, None, 100) == "41.2 tok/s  context 8/1024  first token 48 ms  prefill 104 tok/s"
    assert speed_line(INFO, record, 20.0, 100).startswith("41.2 tok/s, shown at 20  context")
    slow = dataclasses.replace(record, tokens_per_second=8.0)
    assert speed_line(INFO, slow, 20.0, 100).startswith("8.0 tok/s  context")


def test_title_says_which_pass_the_grid_shows() -> None:
    assert pass_title(example_record(INFO, 0)) == "rms of each stage: the prompt, 5 tokens"
    assert pass_title(example_record(INFO, 2)) == "rms of each stage: pass at position 6, token 3 chosen"
