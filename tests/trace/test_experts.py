"""The use of experts: shares of what was chosen, entropy of the router, and what is no choice at all."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import ArrayLike

from aprtui.trace.experts import ExpertCounts, counted_experts, expert_words, most_uneven, router_gives_logits
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.names import graph_from_names
from aprtui.trace.graph.stage import ROUTER
from aprtui.trace.graph.stage_graph import graph_for


def add_choices(counts: ExpertCounts, chosen: ArrayLike, layer: int = 0) -> None:
    rows = np.asarray(chosen, np.float32)
    counts.add_choices(np.full(len(rows), layer), rows)


def add_routers(counts: ExpertCounts, probabilities: ArrayLike, layer: int = 0) -> None:
    rows = np.asarray(probabilities, np.float32)
    counts.add_routers(np.full(len(rows), layer), rows)


def test_loads_are_shares_of_the_choices_whatever_the_pieces() -> None:
    chosen = np.array([[0, 2], [2, 3], [2, 0]], np.float32)
    whole, pieces = ExpertCounts(1, 5), ExpertCounts(1, 5)
    add_choices(whole, chosen)
    for row in chosen:
        add_choices(pieces, [row])
    use = whole.use(0)
    assert use.load == pieces.use(0).load == pytest.approx((2 / 6, 0, 3 / 6, 1 / 6, 0))
    assert (use.slots, use.busiest, use.never_chosen, use.even, use.dropped) == (6, 2, 2, 0.2, 0)
    assert math.isnan(use.entropy)


def test_slots_that_name_no_expert_are_dropped_and_not_part_of_the_load() -> None:
    counts = ExpertCounts(1, 4)
    add_choices(counts, np.array([[1, -1], [np.nan, 4], [0.5, np.inf], [1, 2]], np.float32))
    use = counts.use(0)
    assert (use.dropped, use.slots) == (5, 8) and use.load == pytest.approx((0, 2 / 3, 1 / 3, 0))
    nothing = ExpertCounts(1, 4).use(0)
    assert (nothing.load, nothing.never_chosen, nothing.slots) == ((0, 0, 0, 0), 4, 0)


def test_entropy_is_the_mean_over_tokens_and_rows_that_are_no_probabilities_do_not_count() -> None:
    counts = ExpertCounts(1, 4)
    add_routers(counts, np.array([[0.25] * 4, [1, 0, 0, 0]], np.float32))
    assert counts.use(0).entropy == pytest.approx(math.log(4) / 2)
    add_routers(counts, np.array([[np.nan, 1, 0, 0], [-1, 1, 1, 0], [0, 0, 0, 0], [np.inf, 0, 0, 0]], np.float32))
    assert counts.use(0).entropy == pytest.approx(math.log(4) / 2)
    # Sigmoid routers do not sum to one.
    add_routers(counts, np.array([[3, 3, 0, 0], [3, 3, 0, 0]], np.float32))
    assert counts.use(0).entropy == pytest.approx((math.log(4) + 2 * math.log(2)) / 4)


def test_words_say_what_is_uneven() -> None:
    counts = ExpertCounts(1, 16)
    add_choices(counts, np.arange(13, dtype=np.float32).reshape(13, 1))
    add_choices(counts, np.array([[5], [5], [-1]], np.float32))
    add_routers(counts, np.full((1, 16), 1 / 16, np.float32))
    assert expert_words(counts.use(0)) == [
        "load max 20 % (even: 6.2 %)", "entropy 2.77 of 2.77", "never chosen: 3 of 16", "1 dropped",
        "busiest: 5", "16 choices",
    ]  # fmt: skip
    even = ExpertCounts(1, 16)
    add_choices(even, np.arange(16, dtype=np.float32)[None])
    assert most_uneven([even.use(0), counts.use(0), counts.use(0)]) == 1
    assert "entropy" not in " ".join(expert_words(even.use(0)))


def test_logits_count_as_the_probabilities_that_a_softmax_makes_of_them() -> None:
    logits = np.array([[2.0, -1.0, 0.5, 0.0], [-300, -300, -301, -300]], np.float32)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    of_logits, of_probabilities = ExpertCounts(1, 4, logits=True), ExpertCounts(1, 4)
    add_routers(of_logits, np.vstack([logits, np.full((1, 4), np.nan, np.float32)]))
    add_routers(of_probabilities, powers / powers.sum(1, keepdims=True))
    np.testing.assert_allclose(of_logits.entropy, of_probabilities.entropy, rtol=1e-6)


def test_a_router_gives_logits_where_a_softmax_of_the_chosen_ones_follows() -> None:
    dimensions = (2, 256, 4, 2, 64, 768, 1024)
    config = GraphConfig("gpt-oss", *dimensions, experts=8, experts_used=2, expert_ffn=128, biased_experts=True)
    assert router_gives_logits(graph_for(config))
    assert router_gives_logits(graph_from_names(graph_for(config).names, 2))
    assert not router_gives_logits(graph_for(replace(config, biased_experts=False)))
    assert not router_gives_logits(graph_for(GraphConfig("qwen2", *dimensions)))


def test_how_many_experts_there_are_is_known_from_the_graph_alone() -> None:
    config = GraphConfig("qwen3moe", 2, 256, 4, 2, 64, 768, 1024, experts=8, experts_used=2, expert_ffn=128)
    assert counted_experts(graph_for(config)) == 8
    assert counted_experts(graph_from_names([ROUTER], 1)) == 0
    assert counted_experts(graph_for(GraphConfig("qwen2", 2, 256, 4, 2, 64, 768, 1024))) == 0


def test_layers_are_counted_apart_also_in_one_call() -> None:
    counts, apart = ExpertCounts(3, 4), ExpertCounts(3, 4)
    chosen, routers = np.array([[0, 1], [3, -1], [2, 1]], np.float32), np.array([[1, 1, 0, 0]] * 3, np.float32)
    counts.add_choices(np.array([2, 0, 2]), chosen)
    counts.add_routers(np.array([2, 0, 2]), routers)
    for layer, rows in ((2, [0, 2]), (0, [1])):
        add_choices(apart, chosen[rows], layer)
        add_routers(apart, routers[rows], layer)
    for layer in (0, 2):
        assert counts.use(layer) == apart.use(layer)
    assert counts.use(0).load == (0, 0, 0, 1) and counts.use(2).load == (0.25, 0.5, 0.25, 0)
    assert math.isnan(counts.use(1).entropy) and counts.use(1).slots == 0
