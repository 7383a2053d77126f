"""What the stage grid shows: statistics, their levels and their texts."""

from __future__ import annotations

import math
import sys
from collections import Counter

import numpy as np
import pytest

from aprtui.engine.process.slots import STATS
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import graph_for
from aprtui.tui.draw.colours import LEVELS, Mark
from aprtui.tui.draw.figures import FULL_CHANGE, SHARED, Statistic, figures_of, first_nonfinite, grid_tile
from aprtui.tui.draw.grid_layout import grid_layout
from tests.engine.fake_engine import CONFIG

GRAPH = graph_for(CONFIG)
LAYOUT = grid_layout(GRAPH)
MIDDLE = LEVELS // 2


def stats_with(values: dict[Node, float] | None = None, *, name: str = "rms", otherwise: float = 1.0) -> np.ndarray:
    stats = np.zeros(len(GRAPH.nodes), STATS)
    stats["count"], stats["rms"], stats[name] = 8, 1.0, otherwise
    for node, value in (values or {}).items():
        stats[name][GRAPH.order[node]] = value
    return stats


def tile(stats: np.ndarray, statistic: Statistic = Statistic.RMS, **more: np.ndarray) -> np.ndarray:
    return grid_tile(LAYOUT, figures_of(statistic, stats, **more))


def column(name: str) -> int:
    return [stage.name for stage in LAYOUT.stages].index(name)


def at(node: Node) -> int:
    return GRAPH.order[node]


@pytest.mark.parametrize("statistic", [Statistic.RMS, Statistic.ABSMAX])
def test_column_spans_from_its_smallest_to_its_largest_value_on_a_log_scale(statistic: Statistic) -> None:
    values = {Node(layer, "ffn_up"): 10.0 ** (2 * layer) for layer in range(3)}
    levels = tile(stats_with(values, name=statistic.value), statistic)
    assert levels[:, column("ffn_up")].tolist() == [0, 32, LEVELS - 1]


def test_columns_do_not_disturb_each_other() -> None:
    alone = tile(stats_with())
    beside = tile(stats_with({Node(0, "ffn_up"): 1e6}))
    kept = [index for index in range(len(LAYOUT.stages)) if index != column("ffn_up")]
    assert np.array_equal(alone[:, kept], beside[:, kept])


def test_column_that_hardly_varies_looks_even() -> None:
    levels = tile(stats_with({Node(layer, "ffn_up"): 1 + 0.01 * layer for layer in range(3)}))
    assert np.ptp(levels[:, column("ffn_up")].astype(int)) <= 1
    assert (tile(stats_with()) == MIDDLE).all()


@pytest.mark.parametrize("statistic", [Statistic.RMS, Statistic.MEAN, Statistic.CHANGE, Statistic.NONFINITE])
def test_nan_wins_over_inf_and_inf_over_any_level(statistic: Statistic) -> None:
    stats = stats_with()
    stats["inf"][at(Node(1, "ffn_up"))] = 1
    assert tile(stats, statistic, before=stats_with())[1, column("ffn_up")] == Mark.INF
    stats["nan"][at(Node(1, "ffn_up"))] = 1
    assert tile(stats, statistic, before=stats_with())[1, column("ffn_up")] == Mark.NAN


def test_nonfinite_zero_and_missing_cells_do_not_bend_the_scale() -> None:
    stats = stats_with({Node(0, "ffn_up"): math.nan, Node(1, "ffn_up"): 0.0})
    stats["nan"][at(Node(0, "ffn_up"))] = 8
    stats["count"][at(Node(0, "ffn_gate"))] = 0
    levels = tile(stats)
    assert levels[:, column("ffn_up")].tolist() == [Mark.NAN, Mark.ZERO, MIDDLE]
    assert levels[:, column("ffn_gate")].tolist() == [Mark.MISSING, MIDDLE, MIDDLE]


@pytest.mark.parametrize("statistic", list(Statistic))
def test_grid_of_nothing_but_missing_cells_has_no_levels(statistic: Statistic) -> None:
    assert (tile(np.zeros(len(GRAPH.nodes), STATS), statistic) == Mark.MISSING).all()


def test_means_lie_about_zero_as_far_as_the_largest_of_their_column() -> None:
    levels = tile(
        stats_with({Node(layer, "ffn_up"): value for layer, value in enumerate((-4.0, 1.0, 2.0))}, name="mean"),
        Statistic.MEAN,
    )
    assert levels[:, column("ffn_up")].tolist() == [0, 39, 47]


def test_change_is_told_in_per_cent_of_the_token_before_on_one_scale_for_all() -> None:
    before = stats_with({Node(0, "ffn_up"): 4.0, Node(1, "ffn_up"): 1.0, Node(2, "ffn_up"): 0.0})
    now = stats_with({Node(0, "ffn_up"): 1.0, Node(1, "ffn_up"): FULL_CHANGE})
    figures = figures_of(Statistic.CHANGE, now, before=before)
    assert [figures.text(at(Node(layer, "ffn_up")), 4) for layer in range(3)] == ["−75", "+300", "·"]
    levels = grid_tile(LAYOUT, figures)
    assert levels[:, column("ffn_up")].tolist() == [0, LEVELS - 1, Mark.MISSING]
    assert levels[0, column("ffn_gate")] == Mark.ZERO


def test_change_of_the_first_token_is_missing() -> None:
    assert (figures_of(Statistic.CHANGE, stats_with()).marks == Mark.MISSING).all()


def test_times_compare_all_cells_and_stages_computed_together_say_so() -> None:
    seconds = np.full(len(GRAPH.nodes), 1e-5, np.float32)
    seconds[at(Node(1, "ffn_up"))] = 1e-3
    seconds[at(Node(1, "attn_softmax"))] = np.nan
    figures = figures_of(Statistic.TIME, stats_with(), seconds)
    assert figures.text(at(Node(1, "ffn_up")), 5) == "1.00m"
    assert figures.text(at(Node(1, "attn_softmax")), 5) == SHARED
    levels = grid_tile(LAYOUT, figures)
    assert levels[1, column("ffn_up")] == LEVELS - 1
    assert levels[0, column("ffn_up")] == 0
    assert levels[1, column("attn_softmax")] == Mark.MISSING


def test_engine_without_times_shows_none() -> None:
    figures = figures_of(Statistic.TIME, stats_with(), np.full(len(GRAPH.nodes), np.nan, np.float32))
    assert figures.text(at(Node(1, "ffn_up")), 5) == "·"
    assert not figures.shared.any()


def test_cells_name_nan_inf_and_what_was_not_tapped() -> None:
    stats = stats_with()
    assert figures_of(Statistic.RMS, stats).text(0, 3) == "1.0"
    stats["inf"][0] = 1
    assert [figures_of(Statistic.RMS, stats).text(0, width) for width in (3, 1)] == ["Inf", "I"]
    stats["nan"][0] = 1
    assert [figures_of(Statistic.RMS, stats).text(0, width) for width in (3, 1)] == ["NaN", "X"]
    stats["count"][0] = 0
    assert figures_of(Statistic.RMS, stats).text(0, 3) == "·"


def test_every_statistic_comes_in_turn() -> None:
    seen, statistic = [], Statistic.RMS
    for _ in Statistic:
        seen.append(statistic)
        statistic = statistic.following
    assert seen == list(Statistic)
    assert statistic is Statistic.RMS
    assert all(statistic.words for statistic in Statistic)


def calls_for_a_grid_of(layers: int) -> int:
    """How many functions are called for one frame, those of numpy among them."""
    graph = graph_for(GraphConfig("qwen3", layers, 8, 2, 1, 4, 16, 128, qk_norm=True))
    layout, random = grid_layout(graph), np.random.default_rng(0)
    stats = np.zeros(len(graph.nodes), STATS)
    stats["count"], stats["rms"] = 8, random.lognormal(size=len(graph.nodes))
    grid_tile(layout, figures_of(Statistic.RMS, stats))
    calls: Counter[str] = Counter()
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, argument: calls.update([event]))
    try:
        grid_tile(layout, figures_of(Statistic.RMS, stats))
    finally:
        sys.setprofile(before)
    return calls["call"] + calls["c_call"]


def test_a_grid_of_eighty_layers_takes_no_more_calls_than_one_of_eight() -> None:
    assert calls_for_a_grid_of(80) == calls_for_a_grid_of(8) < 200


def test_first_nonfinite_stage_is_the_first_in_execution_order() -> None:
    stats = stats_with()
    assert first_nonfinite(stats) is None
    stats["nan"][GRAPH.order[Node(2, "attn_norm")]] = 1
    stats["inf"][GRAPH.order[Node(1, "ffn_out")]] = 1
    assert first_nonfinite(stats) == (GRAPH.order[Node(1, "ffn_out")], Mark.INF)
