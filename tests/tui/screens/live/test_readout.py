"""What the live screen says in words."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np

from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import graph_for
from aprtui.tui.draw.figures import Statistic, figures_of, first_bad
from aprtui.tui.draw.grid_layout import grid_layout
from aprtui.tui.draw.numbers import duration
from aprtui.tui.screens.live.readout import describe, pass_title
from aprtui.tui.screens.live.status_lines import engine_line, speed_line
from aprtui.tui.widgets.stage_grid import model_strip
from tests.tui.screens.live.recorded import example_info, example_record

INFO = example_info()
GRAPH = graph_for(INFO.graph)


def test_readout_tells_a_node_in_words() -> None:
    record, before = example_record(INFO, 3), example_record(INFO, 2)
    line = describe(GRAPH, Node(1, "ffn_gate"), record, before, 300)
    row = record.stats[GRAPH.order[Node(1, "ffn_gate")]]
    assert line.startswith(f"layer 1 ffn_gate  rms {row['rms']:.3g}  all finite  ")
    assert "  change " in line
    assert line.endswith("768 values")


def test_readout_says_how_long_a_stage_took_and_with_which_others() -> None:
    record = example_record(INFO, 3)
    seconds = np.full(len(GRAPH.nodes), 2.5e-6, np.float32)
    seconds[[GRAPH.order[Node(1, stage)] for stage in ("attn_softmax", "attention", "ffn_swigl")]] = np.nan
    record = dataclasses.replace(record, stage_seconds=seconds)
    assert "  2.5 µs  min" in describe(GRAPH, Node(1, "ffn_gate"), record, None, 300)
    for stage in ("attn_scores", "attention"):
        assert "  2.5 µs with 2 more  " in describe(GRAPH, Node(1, stage), record, None, 300)
    assert "  2.5 µs with 1 more  " in describe(GRAPH, Node(1, "ffn_silu"), record, None, 300)
    untimed = dataclasses.replace(record, stage_seconds=np.full(len(GRAPH.nodes), np.nan, np.float32))
    assert "  not timed  " in describe(GRAPH, Node(1, "ffn_gate"), untimed, None, 300)


def test_readout_counts_nan_first() -> None:
    record = example_record(INFO, 3, bad=Node(1, "ffn_gate"))
    assert "1 NaN, 0 Inf" in describe(GRAPH, Node(1, "ffn_gate"), record, None, 300)
    assert "all finite" in describe(GRAPH, Node(1, "ffn_norm"), record, None, 300)
    assert first_bad(GRAPH, record.stats) == "first NaN: layer 1 ffn_gate"
    assert first_bad(GRAPH, example_record(INFO, 3).stats) == ""


def test_readout_before_any_token_says_so() -> None:
    assert describe(GRAPH, Node(0, "attn_norm"), None, None, 300) == "layer 0 attn_norm  no token yet"


def test_stages_of_the_model_stand_above_and_below_its_layers() -> None:
    layout = grid_layout(GRAPH)
    figures = figures_of(Statistic.RMS, example_record(INFO, 3).stats)
    above, below = (model_strip(layout, figures, before=before, after=not before) for before in (True, False))
    assert above.split()[::2] == ["embedding"]
    assert below.split()[::2] == ["final_norm", "lm_head"]
    both = model_strip(layout, figures, before=True, after=True)
    assert both.split() == above.split() + below.split()
    assert "embedding ·" in model_strip(layout, None, before=True, after=False)


def test_engine_line_names_model_mode_cache_and_kernels() -> None:
    assert engine_line(INFO, 100) == "example  qwen2 Q4_K_M  mode q8  K/V f32  cpu (numba-avx2)"
    assert engine_line(INFO, 60).startswith("made for 80 columns, this screen has 60")


def test_speed_line_states_the_engines_speed_and_the_pace_that_holds_it_back() -> None:
    record = example_record(INFO, 3)
    assert speed_line(INFO, record, None, 100) == "41.2 tok/s  context 8/1024  first token 48 ms  prefill 104 tok/s"
    assert speed_line(INFO, record, 20.0, 100).startswith("41.2 tok/s, shown at 20  context")
    slow = dataclasses.replace(record, tokens_per_second=8.0)
    assert speed_line(INFO, slow, 20.0, 100).startswith("8.0 tok/s  context")


def test_speed_line_says_what_is_in_use_of_a_gpu_where_there_is_one() -> None:
    record = example_record(INFO, 3)
    on_gpu = dataclasses.replace(record, device_memory_used=5.13e9, device_memory=141e9, device_load=0.962)
    assert speed_line(INFO, on_gpu, None, 60) == "41.2 tok/s  context 8/1024  GPU 5.1/141.0 GB, 96% busy  …"
    untold = dataclasses.replace(on_gpu, device_load=float("nan"))
    assert "  GPU 5.1/141.0 GB  " in speed_line(INFO, untold, None, 100)


def test_engine_line_says_what_auto_chose_and_why_where_there_is_room() -> None:
    chosen = dataclasses.replace(INFO, chosen="backend cpu: no NVIDIA driver on this machine")
    assert engine_line(chosen, 120).endswith("cpu (numba-avx2)  auto: backend cpu: no NVIDIA driver on this machine")
    assert engine_line(chosen, 80).endswith("cpu (numba-avx2)  …")


def test_title_says_which_pass_the_grid_shows() -> None:
    assert pass_title(Statistic.RMS, None) == "rms of each stage"
    assert pass_title(Statistic.RMS, example_record(INFO, 0)) == "rms of each stage: the prompt, 5 tokens"
    assert pass_title(Statistic.TIME, example_record(INFO, 2)) == "seconds of each stage: pass at position 6"


def test_durations_have_three_digits() -> None:
    assert [duration(value) for value in (8e-8, 2.5e-6, 0.0481, 0.9, 2.0)] == [
        "80 ns",
        "2.5 µs",
        "48.1 ms",
        "900 ms",
        "2.00 s",
    ]


def test_readout_says_what_kind_a_layer_is_of_where_layers_differ() -> None:
    info = example_info()
    mixed = replace(info, graph=replace(info.graph, windows=(64, 0, 64, 64)))
    for layer, words in ((0, "a window of 64 positions"), (1, "all positions")):
        node = Node(layer, "ffn_up")
        assert words in describe(graph_for(mixed.graph), node, example_record(mixed, 3), None, 400)
        assert words not in describe(graph_for(info.graph), node, example_record(info, 3), None, 400)
