"""What the grid of a comparison shows: two signals a cell, signs, folded rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.align.pairing import Unpaired
from aprtui.compare.comparison import Comparison, ErrorState, StageComparison
from aprtui.compare.conclusion import judge_by_bound
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.report.records import read_comparison
from aprtui.compare.report.svg import render_svg
from aprtui.compare.verdict import Tolerance
from aprtui.trace.graph.stage import Node
from aprtui.tui.draw.colours import ColourMap
from aprtui.tui.screens.diff.cells import Sign, cells, layout, rows, step_level
from aprtui.tui.screens.diff.words import stage_words
from tests.compare.recorded import EDITS, FAULT, read_back, records_of, two_captures
from tests.compare.synthetic import changed, scaled, write_capture


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return two_captures(tmp_path_factory.mktemp("sides"))


@pytest.fixture(scope="module")
def plain(sides: tuple[Path, Path]) -> Comparison:
    return read_back(*sides)


def test_cells_show_what_a_stage_adds_above_and_what_is_observed_below(plain: Comparison) -> None:
    found = cells(judge_by_bound(plain, Tolerance(Metric.REL_L2, 0.01)), Metric.REL_L2)
    assert found[FAULT].sign is Sign.ADDS
    assert found[FAULT].upper == found[FAULT].lower == step_level(5), "0.5 over 0.01 is more than 30 ×"
    inherited = found[Node(1, "ffn_silu")]
    assert inherited.sign is Sign.BEYOND and inherited.upper is None and inherited.lower == step_level(5)
    assert (found[FAULT].lower_map, inherited.lower_map) == (ColourMap.ADDED, ColourMap.OBSERVED), (
        "red is for the fault"
    )
    clean = found[Node(0, "ffn_gate")]
    assert clean.sign is Sign.NONE and clean.upper == clean.lower == step_level(0)


def test_without_a_bound_cells_are_greys_and_say_that_nothing_judges_them(plain: Comparison) -> None:
    found = cells(plain, Metric.REL_L2)
    assert found[FAULT].grey and found[FAULT].sign is Sign.UNJUDGED
    less = found[Node(2, "qkv_matmul")]
    lower = found[FAULT].lower
    assert less.lower is not None and lower is not None and less.lower < lower
    assert not found[Node(0, "ffn_gate")].grey, "what is equal needs no bound"


def test_a_stage_that_one_side_lacks_has_a_sign_of_its_own(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a")
    b = write_capture(tmp_path / "b", without=[FAULT])
    comparison = read_back(a, b)
    assert cells(comparison, Metric.REL_L2)[FAULT].sign is Sign.ONLY_A
    assert isinstance(comparison.by_node[FAULT], Unpaired)


def test_folding_hides_the_layers_in_which_nothing_is_beyond_the_bound(plain: Comparison) -> None:
    judged = judge_by_bound(plain, Tolerance(Metric.REL_L2, 0.2))
    folded = rows(judged, layout(plain), True)
    assert [(row.layers, row.folded) for row in folded] == [((0,), True), ((1,), False), ((2,), True)]
    assert folded[0].text == "layer 0: 1 layer alike, nothing beyond the bound"
    assert [row.layers for row in rows(judged, layout(plain), False)] == [(0,), (1,), (2,)]


def test_a_replay_shows_what_each_side_adds_over_what_is_observed(plain: Comparison, sides: tuple[Path, Path]) -> None:
    records = [dict(record) for record in records_of(*sides)]
    for record in records:
        if record["record"] == "comparison":
            own = (record["layer"], record["stage"]) == (FAULT.layer, FAULT.stage)
            added = {"verdict": "FAIL" if own else "PASS", "error": 0.5 if own else 0.0, "floor": 3e-7, "bound": 2e-6}
            record |= {"injected_a": {**added, "verdict": "PASS", "error": 0.0}, "injected_b": added}
            record |= {name: added[name] for name in ("verdict", "error", "floor", "bound")}
            record |= {"metric": "token_rel_l2", "signal": "injected", "state": "injected" if own else "inherited"}
    judged = read_comparison(records)
    found = cells(judged, Metric.TOKEN_REL_L2)
    assert found[FAULT].upper == step_level(5) and found[FAULT].sign is Sign.ADDS
    silu = found[Node(1, "ffn_silu")]
    assert silu.upper == step_level(0) and silu.sign is Sign.NONE
    assert silu.lower_map is ColourMap.UNBOUNDED, "an observed difference that nothing bounds is grey, not red"
    before = judge_by_bound(plain, Tolerance(Metric.REL_L2, 0.3))
    bounded = cells(judged, Metric.TOKEN_REL_L2, before)[Node(1, "ffn_silu")]
    assert bounded.lower == step_level(3) and bounded.lower_map is ColourMap.OBSERVED
    blamed = judged.by_node[FAULT]
    assert isinstance(blamed, StageComparison) and blamed.state is ErrorState.INJECTED
    assert set(EDITS) <= set(judged.by_node)


def test_nan_on_one_side_has_a_sign_of_its_own(tmp_path: Path) -> None:
    comparison = read_back(*two_captures(tmp_path, {FAULT: changed((2, 3), np.nan)}))
    assert cells(judge_by_bound(comparison, Tolerance(Metric.REL_L2, 1e9)), Metric.REL_L2)[FAULT].sign is Sign.NAN


def test_without_a_replay_the_first_divergence_alone_is_said_to_add_error(tmp_path: Path) -> None:
    later = Node(2, "ffn_up")
    records = records_of(*two_captures(tmp_path, {FAULT: scaled(2), later: scaled(2)}), "rel_l2=0.2")
    judged = read_comparison(records)
    entry = judged.by_node[later]
    assert isinstance(entry, StageComparison) and entry.state is ErrorState.INJECTED, "its inputs are within bounds"
    assert judged.adding == {FAULT}
    found = cells(judged, Metric.REL_L2)
    assert found[FAULT].sign is Sign.ADDS
    assert found[later].sign is Sign.BEYOND and found[later].upper is None
    assert render_svg(records).count("stroke-width") == 1
    replayed = [{**record, "signal": "injected"} if record["record"] == "comparison" else record for record in records]
    assert read_comparison(replayed).adding == {FAULT, later}
    assert render_svg(replayed).count("stroke-width") == 2


def test_an_error_that_a_bound_leaves_open_is_not_judged(tmp_path: Path) -> None:
    records = [dict(record) for record in records_of(*two_captures(tmp_path), "rel_l2=0.2")]
    for record in records:
        if (record.get("layer"), record.get("stage")) == (FAULT.layer, FAULT.stage):
            record |= {"verdict": "UNKNOWN", "state": "unknown"}
    (fault,) = (cell for node, cell in cells(read_comparison(records), Metric.REL_L2).items() if node == FAULT)
    assert fault.sign is Sign.UNJUDGED and fault.upper is None and fault.lower_map is ColourMap.OBSERVED


def test_a_damaged_stage_has_a_sign_of_its_own(tmp_path: Path) -> None:
    a, b = write_capture(tmp_path / "a"), write_capture(tmp_path / "b")
    (b / "layer-1" / "ffn_gate.bin").write_bytes(b"APRT")
    comparison = read_back(a, b)
    found = cells(comparison, Metric.REL_L2)
    assert found[Node(1, "ffn_gate")].sign is Sign.DAMAGED
    assert "damaged: " in stage_words(comparison.by_node[Node(1, "ffn_gate")], Metric.REL_L2, False)
