"""A comparison judged again by a bound that the user moves says what the command with that `--tolerance` says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.comparison import Comparison
from aprtui.compare.conclusion import judge_by_bound
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.verdict import TOLERABLE, Tolerance, Verdict, moved_bound
from aprtui.trace.graph.stage import Node
from tests.compare.recorded import FAULT, read_back, two_captures
from tests.compare.synthetic import changed, write_capture


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return two_captures(tmp_path_factory.mktemp("sides"))


@pytest.fixture(scope="module")
def plain(sides: tuple[Path, Path]) -> Comparison:
    return read_back(*sides)


def blamed(comparison: Comparison) -> Node | None:
    return None if comparison.first_divergence is None else comparison.first_divergence.verdict.node


def moved(comparison: Comparison, bound: Tolerance | None, metric: Metric, steps: int) -> Tolerance:
    return moved_bound(bound, (stage.metrics for stage in comparison.stages), metric, steps)


def test_stages_are_in_the_order_of_execution_with_their_elements_and_flips(plain: Comparison) -> None:
    nodes = list(plain.by_node)
    assert nodes[0] == Node(0, "embedding") and nodes[-1] == Node(None, "lm_head")
    assert nodes.index(Node(1, "ffn_gate")) < nodes.index(Node(1, "ffn_silu")) < nodes.index(Node(2, "attn_norm"))
    assert plain.focus is not None and plain.focus.node == FAULT
    assert plain.elements[0].b == pytest.approx(1.5 * plain.elements[0].a)
    assert plain.flips is None, "logits of the last token alone tell of no other token"


def test_flips_are_told_where_all_tokens_have_logits(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a", all_logits=True)
    b = write_capture(tmp_path / "b", all_logits=True, edits={Node(None, "lm_head"): changed((3, 7), 99.0)})
    flips = read_back(a, b).flips
    assert flips is not None and [(flip.row, flip.token_b) for flip in flips] == [(3, 7)]


@pytest.mark.parametrize("metric", TOLERABLE)
def test_a_moved_bound_says_what_the_command_says_with_that_tolerance(
    sides: tuple[Path, Path], plain: Comparison, metric: Metric
) -> None:
    verdicts = set()
    smallest = read_back(*sides, f"{metric}={1.0 if metric.is_similarity else 1e9}").smallest
    assert smallest is not None
    bound = smallest
    for step in range(6):
        mine, headless = judge_by_bound(plain, bound), read_back(*sides, str(bound))
        assert mine.verdict is headless.verdict
        assert blamed(mine) == blamed(headless)
        assert [stage.node for stage in mine.divergent] == [stage.node for stage in headless.divergent]
        assert mine.smallest == headless.smallest
        assert mine.reasons == headless.reasons
        verdicts.add(mine.verdict)
        assert step or mine.verdict is Verdict.PASS
        bound = moved(mine, bound, metric, -3)
    assert verdicts == {Verdict.PASS, Verdict.FAIL}


def test_a_bound_cannot_pass_an_unfinished_capture_nor_fail_other_tokens(tmp_path: Path) -> None:
    a, b = two_captures(tmp_path, complete=False)
    loose = Tolerance(Metric.REL_L2, 10.0)
    mine, headless = judge_by_bound(read_back(a, b), loose), read_back(a, b, "rel_l2=10.0")
    assert mine.verdict is headless.verdict is Verdict.UNKNOWN and mine.reasons == headless.reasons
    other = write_capture(tmp_path / "other", tokens=(5, 3, 8, 1, 7))
    tight = judge_by_bound(read_back(a, other), Tolerance(Metric.REL_L2, 1e-9))
    assert tight.verdict is Verdict.UNKNOWN and "token ids differ" in tight.reasons[0]


def test_nan_on_one_side_fails_whatever_the_bound(tmp_path: Path) -> None:
    a, b = two_captures(tmp_path, {FAULT: changed((2, 3), np.nan)})
    mine = judge_by_bound(read_back(a, b), Tolerance(Metric.REL_L2, 1e9))
    assert mine.verdict is Verdict.FAIL and blamed(mine) == FAULT


def test_bounds_begin_where_everything_passes_and_move_by_steps(plain: Comparison) -> None:
    first = moved(plain, None, Metric.REL_L2, 1)
    assert judge_by_bound(plain, first).verdict is Verdict.PASS
    narrower = moved(plain, first, Metric.REL_L2, -1)
    assert narrower.bound < first.bound
    assert judge_by_bound(plain, narrower).verdict is Verdict.FAIL
    assert moved(plain, narrower, Metric.COSINE, -1).bound <= 1
