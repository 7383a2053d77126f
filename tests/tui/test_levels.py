from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aprtui.engine.process_slots import STATS
from aprtui.trace.graph import Node, graph_for
from aprtui.tui.levels import LEVELS, RAMP, Mark, cell_text, first_nonfinite, glyph, grid_layout, short, tile
from tests.engine.fake_engine import CONFIG

GRAPH = graph_for(CONFIG)
LAYOUT = grid_layout(GRAPH)


def stats_with(rms: dict[Node, float] | None = None, *, otherwise: float = 1.0) -> np.ndarray:
    stats = np.zeros(len(GRAPH.nodes), STATS)
    stats["count"], stats["rms"] = 8, otherwise
    for node, value in (rms or {}).items():
        stats["rms"][GRAPH.order[node]] = value
    return stats


def column(name: str) -> int:
    return [stage.name for stage in LAYOUT.stages].index(name)


def test_layout_has_a_row_for_each_layer_and_columns_in_graph_order() -> None:
    assert LAYOUT.layers == CONFIG.layers
    names = [stage.name for stage in LAYOUT.stages]
    assert names == [name for name in GRAPH.names if name not in ("embedding", "final_norm", "lm_head")]
    assert [name for name, _ in LAYOUT.groups] == ["attention", "feed-forward"]
    assert sum(members for _, members in LAYOUT.groups) == LAYOUT.columns


def test_every_node_stands_in_exactly_one_place() -> None:
    placed = sorted([*LAYOUT.rows.reshape(-1).tolist(), *LAYOUT.model_rows.tolist()])
    assert placed == list(range(len(GRAPH.nodes)))


def test_layout_finds_nodes_where_the_graph_has_them() -> None:
    assert GRAPH.nodes[LAYOUT.rows[2, column("ffn_up")]] == Node(2, "ffn_up")
    assert [GRAPH.nodes[row] for row in LAYOUT.model_rows] == list(LAYOUT.model_nodes)


def test_column_spans_from_its_smallest_to_its_largest_rms_on_a_log_scale() -> None:
    levels = tile(LAYOUT, stats_with({Node(layer, "ffn_up"): 10.0 ** (2 * layer) for layer in range(3)}))
    assert levels[:, column("ffn_up")].tolist() == [0, 32, LEVELS - 1]


def test_columns_do_not_disturb_each_other() -> None:
    alone = tile(LAYOUT, stats_with())
    beside = tile(LAYOUT, stats_with({Node(0, "ffn_up"): 1e6}))
    kept = [index for index in range(LAYOUT.columns) if index != column("ffn_up")]
    assert np.array_equal(alone[:, kept], beside[:, kept])


def test_column_that_hardly_varies_looks_even() -> None:
    levels = tile(LAYOUT, stats_with({Node(layer, "ffn_up"): 1 + 0.01 * layer for layer in range(3)}))
    assert np.ptp(levels[:, column("ffn_up")].astype(int)) <= 1
    assert (tile(LAYOUT, stats_with()) == LEVELS // 2).all()


def test_nan_wins_over_inf_and_inf_over_any_level() -> None:
    stats = stats_with()
    row = GRAPH.order[Node(1, "ffn_up")]
    stats["inf"][row] = 1
    assert tile(LAYOUT, stats)[1, column("ffn_up")] == Mark.INF
    stats["nan"][row] = 1
    assert tile(LAYOUT, stats)[1, column("ffn_up")] == Mark.NAN


def test_nonfinite_zero_and_missing_cells_do_not_bend_the_scale() -> None:
    stats = stats_with({Node(0, "ffn_up"): math.nan, Node(1, "ffn_up"): 0.0})
    stats["nan"][GRAPH.order[Node(0, "ffn_up")]] = 8
    stats["count"][GRAPH.order[Node(0, "ffn_gate")]] = 0
    levels = tile(LAYOUT, stats)
    assert levels[:, column("ffn_up")].tolist() == [Mark.NAN, Mark.ZERO, LEVELS // 2]
    assert levels[:, column("ffn_gate")].tolist() == [Mark.MISSING, LEVELS // 2, LEVELS // 2]


def test_grid_of_nothing_but_missing_cells_has_no_levels() -> None:
    assert (tile(LAYOUT, np.zeros(len(GRAPH.nodes), STATS)) == Mark.MISSING).all()


def test_first_nonfinite_stage_is_the_first_in_execution_order() -> None:
    stats = stats_with()
    assert first_nonfinite(stats) is None
    stats["nan"][GRAPH.order[Node(2, "attn_norm")]] = 1
    stats["inf"][GRAPH.order[Node(1, "ffn_out")]] = 1
    assert first_nonfinite(stats) == (GRAPH.order[Node(1, "ffn_out")], Mark.INF)


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        (0.0, ("0", "0", "0")),
        (0.00431, ("4m", "4.3m", "4.31m")),
        (0.0431, ("43m", "43m", "43.1m")),
        (0.0997, (".10", ".10", ".10")),
        (0.431, (".43", ".43", "0.431")),
        (0.9996, ("1.0", "1.00", "1.00")),
        (1.0, ("1.0", "1.00", "1.00")),
        (9.96, ("10", "9.96", "9.96")),
        (43.1, ("43", "43.1", "43.1")),
        (431.0, ("431", "431", "431")),
        (43100.0, ("43k", "43k", "43.1k")),
        (430000.0, (".4M", "430k", "430k")),
        (1e-15, ("~0", "~0", "~0")),
        (1e20, (">T", ">T", ">T")),
        (math.nan, ("NaN", "NaN", "NaN")),
        (math.inf, ("Inf", "Inf", "Inf")),
    ],
)
def test_short_numbers_keep_as_many_digits_as_fit(value: float, texts: tuple[str, str, str]) -> None:
    assert tuple(short(value, width) for width in (3, 4, 5)) == texts


@given(st.floats(0, 1e30), st.integers(3, 9))
def test_short_numbers_always_fit(value: float, width: int) -> None:
    assert 1 <= len(short(value, width)) <= width


@given(st.floats(1e-11, 1e12))
def test_short_numbers_are_true_to_their_digits(value: float) -> None:
    text = short(value, 6)
    scale = {"p": 1e-12, "n": 1e-9, "µ": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    number = float(text.rstrip("".join(scale))) * scale.get(text[-1], 1)
    assert number == pytest.approx(value, rel=0.006)


def test_cells_name_nan_inf_and_what_was_not_tapped() -> None:
    stats = stats_with()
    assert cell_text(stats[0], 3) == "1.0"
    stats["inf"][0] = 1
    assert (cell_text(stats[0], 3), cell_text(stats[0], 1)) == ("Inf", "I")
    stats["nan"][0] = 1
    assert (cell_text(stats[0], 3), cell_text(stats[0], 1)) == ("NaN", "X")
    stats["count"][0] = 0
    assert cell_text(stats[0], 3) == "·"


def test_glyphs_grow_with_the_level_and_marks_have_their_own() -> None:
    glyphs = [glyph(level) for level in range(LEVELS)]
    assert "".join(dict.fromkeys(glyphs)) == RAMP
    assert [glyph(mark) for mark in Mark] == ["·", "0", "I", "X", "+", "-"]
