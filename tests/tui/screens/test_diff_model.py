"""What records tell, and what a bound says that the user moves: the same as the command with `--tolerance`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.explain.classify import ErrorState
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.verdict import Tolerance, Verdict, parse_tolerance
from aprtui.trace.graph import Node
from aprtui.tui.screens.diff.cells import Sign, cells, layout, rows, step_level
from aprtui.tui.screens.diff.model import METRICS, Told, as_told, by_bound, moved_bound, told
from tests.compare.synthetic import changed, write_capture
from tests.tui.screens.diff_recorded import EDITS, FAULT, records_of, two_captures


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return two_captures(tmp_path_factory.mktemp("sides"))


@pytest.fixture(scope="module")
def plain(sides: tuple[Path, Path]) -> Told:
    return told(records_of(*sides))


def test_stages_are_in_the_order_of_execution_with_their_elements_and_flips(plain: Told) -> None:
    nodes = list(plain.stages)
    assert nodes[0] == Node(0, "embedding") and nodes[-1] == Node(None, "lm_head")
    assert nodes.index(Node(1, "ffn_gate")) < nodes.index(Node(1, "ffn_silu")) < nodes.index(Node(2, "attn_norm"))
    assert plain.focus == FAULT and plain.elements[0].b == pytest.approx(1.5 * plain.elements[0].a)
    assert plain.flips is None, "logits of the last token alone tell of no other token"


def test_flips_are_told_where_all_tokens_have_logits(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a", all_logits=True)
    b = write_capture(tmp_path / "b", all_logits=True, edits={Node(None, "lm_head"): changed((3, 7), 99.0)})
    flips = told(records_of(a, b)).flips
    assert flips is not None and [(flip.token, flip.id_b) for flip in flips] == [(3, 7)]


@pytest.mark.parametrize("metric", METRICS)
def test_a_moved_bound_says_what_the_command_says_with_that_tolerance(
    sides: tuple[Path, Path], plain: Told, metric: Metric
) -> None:
    verdicts = set()
    smallest = as_told(told(records_of(*sides, f"{metric}={1.0 if metric.is_similarity else 1e9}"))).smallest
    assert smallest is not None
    bound = parse_tolerance(smallest)
    for step in range(6):
        mine, headless = by_bound(plain, bound), as_told(told(records_of(*sides, str(bound))))
        assert mine.verdict is headless.verdict
        assert mine.first == headless.first
        assert mine.divergent == headless.divergent
        assert mine.smallest == headless.smallest
        assert mine.reasons == headless.reasons
        verdicts.add(mine.verdict)
        assert step or mine.verdict is Verdict.PASS
        bound = moved_bound(mine, metric, -3) or bound
    assert verdicts == {Verdict.PASS, Verdict.FAIL}


def test_a_bound_cannot_pass_an_unfinished_capture_nor_fail_other_tokens(tmp_path: Path) -> None:
    a, b = two_captures(tmp_path, complete=False)
    loose = Tolerance(Metric.REL_L2, 10.0)
    mine, headless = by_bound(told(records_of(a, b)), loose), as_told(told(records_of(a, b, "rel_l2=10.0")))
    assert mine.verdict is headless.verdict is Verdict.UNKNOWN and mine.reasons == headless.reasons
    other = write_capture(tmp_path / "other", tokens=(5, 3, 8, 1, 7))
    tight = by_bound(told(records_of(a, other)), Tolerance(Metric.REL_L2, 1e-9))
    assert tight.verdict is Verdict.UNKNOWN and "token ids differ" in tight.reasons[0]


def test_nan_on_one_side_fails_whatever_the_bound(tmp_path: Path) -> None:
    a, b = two_captures(tmp_path, {FAULT: changed((2, 3), np.nan)})
    mine = by_bound(told(records_of(a, b)), Tolerance(Metric.REL_L2, 1e9))
    assert mine.verdict is Verdict.FAIL and mine.first == FAULT
    assert cells(mine, Metric.REL_L2)[FAULT].sign is Sign.NAN


def test_bounds_begin_where_everything_passes_and_move_by_steps(plain: Told) -> None:
    judged = as_told(plain)
    first = moved_bound(judged, Metric.REL_L2, 1)
    assert first is not None and by_bound(plain, first).verdict is Verdict.PASS
    narrower = moved_bound(by_bound(plain, first), Metric.REL_L2, -1)
    assert narrower is not None and narrower.bound < first.bound
    assert by_bound(plain, narrower).verdict is Verdict.FAIL
    cosine = moved_bound(judged, Metric.COSINE, -1)
    assert cosine is not None and cosine.bound <= 1


def test_cells_show_what_a_stage_adds_above_and_what_is_observed_below(plain: Told) -> None:
    found = cells(by_bound(plain, Tolerance(Metric.REL_L2, 0.01)), Metric.REL_L2)
    assert found[FAULT].sign is Sign.ADDS
    assert found[FAULT].upper == found[FAULT].lower == step_level(5), "0.5 over 0.01 is more than 30 ×"
    inherited = found[Node(1, "ffn_silu")]
    assert inherited.sign is Sign.BEYOND and inherited.upper is None and inherited.lower == step_level(5)
    clean = found[Node(0, "ffn_gate")]
    assert clean.sign is Sign.NONE and clean.upper == clean.lower == step_level(0)


def test_without_a_bound_cells_are_greys_and_say_that_nothing_judges_them(plain: Told) -> None:
    found = cells(as_told(plain), Metric.REL_L2)
    assert found[FAULT].grey and found[FAULT].sign is Sign.UNJUDGED
    less = found[Node(2, "qkv_matmul")]
    lower = found[FAULT].lower
    assert less.lower is not None and lower is not None and less.lower < lower
    assert not found[Node(0, "ffn_gate")].grey, "what is equal needs no bound"


def test_a_stage_that_one_side_lacks_has_a_sign_of_its_own(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a")
    b = write_capture(tmp_path / "b", without=[FAULT])
    comparison = told(records_of(a, b))
    assert cells(as_told(comparison), Metric.REL_L2)[FAULT].sign is Sign.ONLY_A
    assert comparison.stages[FAULT].reason


def test_folding_hides_the_layers_in_which_nothing_is_beyond_the_bound(plain: Told) -> None:
    judged = by_bound(plain, Tolerance(Metric.REL_L2, 0.2))
    folded = rows(judged, layout(plain), True)
    assert [(row.layers, row.folded) for row in folded] == [((0,), True), ((1,), False), ((2,), True)]
    assert folded[0].text == "layer 0: 1 layer alike, nothing beyond the bound"
    assert [row.layers for row in rows(judged, layout(plain), False)] == [(0,), (1,), (2,)]


def test_a_replay_shows_what_each_side_adds_over_what_is_observed(plain: Told, sides: tuple[Path, Path]) -> None:
    records = [dict(record) for record in records_of(*sides)]
    for record in records:
        if record["record"] == "comparison":
            own = (record["layer"], record["stage"]) == (FAULT.layer, FAULT.stage)
            added = {"verdict": "FAIL" if own else "PASS", "error": 0.5 if own else 0.0, "floor": 3e-7, "bound": 2e-6}
            record |= {"injected_a": {**added, "verdict": "PASS", "error": 0.0}, "injected_b": added}
            record |= {name: added[name] for name in ("verdict", "error", "floor", "bound")}
            record |= {"metric": "token_rel_l2", "state": "injected" if own else "inherited"}
    judged = as_told(told(records))
    found = cells(judged, Metric.TOKEN_REL_L2)
    assert found[FAULT].upper == step_level(5) and found[FAULT].sign is Sign.ADDS
    silu = found[Node(1, "ffn_silu")]
    assert silu.upper == step_level(0) and silu.lower == step_level(5) and silu.sign is Sign.NONE
    before = by_bound(plain, Tolerance(Metric.REL_L2, 0.3))
    assert cells(judged, Metric.TOKEN_REL_L2, before)[Node(1, "ffn_silu")].lower == step_level(3)
    assert judged.stages[FAULT].state is ErrorState.INJECTED
    assert set(EDITS) <= set(judged.stages)
