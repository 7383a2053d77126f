"""Injected and inherited error are told apart along the graph, token by token."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.comparison import ErrorState
from aprtui.compare.explain.classify import TokenJudgement, classify, tokens_beyond
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.verdict import StageVerdict, Verdict
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import graph_for
from tests.compare.synthetic import CONFIG

GRAPH = graph_for(CONFIG)
TOKENS = 5


def beyond(*tokens: int) -> NDArray[np.bool_]:
    return np.isin(np.arange(TOKENS), tokens)


def states(**wrong: tuple[int, ...]) -> dict[str, ErrorState]:
    """States of layer 0 where the named stages are beyond their bound at some tokens, all others within."""
    judged = {node: TokenJudgement(0, beyond(*wrong.get(node.stage, ()))) for node in GRAPH.nodes if node.layer == 0}
    return {node.stage: state for node, state in classify(GRAPH, judged).items()}


def test_where_nothing_is_beyond_its_bound_all_is_clean() -> None:
    assert set(states().values()) == {ErrorState.CLEAN}


def test_the_first_stage_beyond_its_bound_injects_and_what_reads_it_inherits() -> None:
    found = states(ffn_gate=(2,), ffn_silu=(2,), ffn_swigl=(2,))
    assert (found["ffn_gate"], found["ffn_silu"], found["ffn_swigl"]) == (
        ErrorState.INJECTED, ErrorState.INHERITED, ErrorState.INHERITED,
    )  # fmt: skip


def test_parallel_branches_do_not_taint_each_other() -> None:
    """K and Q, gate and up: neither reads the other, so both inject."""
    found = states(q_post_rope=(1,), k_post_rope=(1,), ffn_gate=(1,), ffn_up=(1,))
    assert {found[stage] for stage in ("q_post_rope", "k_post_rope", "ffn_gate", "ffn_up")} == {ErrorState.INJECTED}


def test_an_error_at_another_token_is_not_inherited_but_through_attention() -> None:
    assert states(ffn_gate=(1,), ffn_silu=(2,))["ffn_silu"] is ErrorState.INJECTED
    found = states(k_post_rope=(1,), attn_scores=(3,))
    assert found["attn_scores"] is ErrorState.INHERITED, "a later query sees the wrong key"
    assert states(k_post_rope=(3,), attn_scores=(1,))["attn_scores"] is ErrorState.INJECTED, "an earlier one does not"


def test_behind_a_stage_that_nothing_judges_it_stays_unknown() -> None:
    judged = {
        Node(0, "ffn_gate"): TokenJudgement(0, None),
        Node(0, "ffn_silu"): TokenJudgement(0, beyond(1)),
    }
    assert set(classify(GRAPH, judged).values()) == {ErrorState.UNKNOWN}


def test_a_stage_that_was_not_compared_is_looked_through() -> None:
    judged = {
        Node(0, "ffn_norm"): TokenJudgement(0, beyond(2)),
        Node(0, "ffn_silu"): TokenJudgement(0, beyond(2)),
    }
    assert classify(GRAPH, judged)[Node(0, "ffn_silu")] is ErrorState.INHERITED


def test_what_a_replay_found_is_taken_over_what_the_graph_suggests() -> None:
    judged = {
        Node(0, "ffn_gate"): TokenJudgement(0, beyond(2), injects=False),
        Node(0, "ffn_silu"): TokenJudgement(0, beyond(2), injects=True),
    }
    assert classify(GRAPH, judged) == {
        Node(0, "ffn_gate"): ErrorState.INHERITED,
        Node(0, "ffn_silu"): ErrorState.INJECTED,
    }


def test_tokens_beyond_a_bound_on_rel_l2_are_those_above_it() -> None:
    node = Node(0, "ffn_gate")
    errors = np.array([0.0, 0.1, 0.3])

    def verdict(word: Verdict, metric: Metric, bound: float | None) -> StageVerdict:
        return StageVerdict(node, word, metric, 0.3, None, bound, "")

    found = tokens_beyond(verdict(Verdict.FAIL, Metric.TOKEN_REL_L2, 0.2), errors)
    assert found is not None and found.tolist() == [False, False, True]
    found = tokens_beyond(verdict(Verdict.FAIL, Metric.MAX_ABS, 0.2), errors)
    assert found is not None and found.tolist() == [False, True, True]
    found = tokens_beyond(verdict(Verdict.PASS, Metric.TOKEN_REL_L2, 0.5), errors)
    assert found is not None and not found.any()
    assert tokens_beyond(verdict(Verdict.UNKNOWN, Metric.TOKEN_REL_L2, None), errors) is None
