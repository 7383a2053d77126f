"""The sentence of a verdict: one for each kind of outcome, and true of the numbers of its comparison."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from aprtui.cli.diff import command
from aprtui.compare.captures import Criteria, DiffOptions, compare_captures
from aprtui.compare.comparison import Comparison
from aprtui.compare.conclusion import judge_by_bound
from aprtui.compare.files import compare_files
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.report.headline import headline
from aprtui.compare.report.records import read_comparison
from aprtui.compare.verdict import Tolerance, Verdict, parse_tolerance
from aprtui.trace.aprt import read_aprt
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.compare.recorded import EDITS, FAULT, read_back, records_of, two_captures
from tests.compare.synthetic import Edit, changed, scaled, write_capture

Writer = Callable[[Path], tuple[Path, Path]]
"""Writes both sides into a folder."""


def between(**b: object) -> Writer:
    """A good capture and another one."""
    return lambda folder: (write_capture(folder / "a"), write_capture(folder / "b", **b))  # type: ignore[arg-type]


def without_manifest(folder: Path) -> tuple[Path, Path]:
    edits = {Node(0, "embedding"): scaled(2)}
    return write_capture(folder / "a", manifest=False), write_capture(folder / "b", manifest=False, edits=edits)


WRONG = between(edits=EDITS)
OTHER_TOKENS = between(tokens=(5, 3, 8, 1, 7))
OUTCOMES: dict[str, tuple[Writer, tuple[str, ...], Verdict, str]] = {
    "identical": (between(), (), Verdict.PASS, "every compared stage is bit-equal"),
    "equal but for the sign of a zero": (
        lambda folder: (
            write_capture(folder / "a", edits={FAULT: changed((0, 0), 0.0)}),
            write_capture(folder / "b", edits={FAULT: changed((0, 0), -0.0)}),
        ),
        (), Verdict.PASS, "every compared stage is equal",
    ),
    "NaN alike": (
        lambda folder: (
            write_capture(folder / "a", edits={FAULT: changed((0, 0), np.nan)}),
            write_capture(folder / "b", edits={FAULT: changed((0, 0), np.nan)}),
        ),
        (), Verdict.PASS, "every compared stage is bit-equal; 1 NaN, 0 Inf on both sides in layer 1 ffn_gate",
    ),
    "within a bound": (
        WRONG, ("rel_l2=1",), Verdict.PASS,
        "5 of 54 stages compared differ, none beyond its bound; nearest is layer 1 ffn_gate: rel_l2 0.5, bound 1",
    ),
    "beyond a bound": (
        WRONG, ("rel_l2=0.2",), Verdict.FAIL,
        "layer 1 ffn_gate, token 0: looks like × 1.5 (a scale that is missing or applied twice)",
    ),
    "NaN on one side": (
        between(edits={FAULT: changed((2, 3), np.nan)}), (), Verdict.FAIL,
        ("layer 1 ffn_gate, token 2: looks like 1 NaN (a division by zero, an overflow, or memory that was "
        "never written)"),
    ),
    "beyond a bound behind a gap": (
        lambda folder: (
            write_capture(folder / "a", unplanned=["ffn_norm"]),
            write_capture(folder / "b", unplanned=["ffn_norm"], edits={FAULT: scaled(2)}),
        ),
        ("rel_l2=0.1",), Verdict.FAIL,
        ("layer 1 ffn_gate, token 0, or 1 stage before it that was not compared: looks like × 2 (a scale that is "
        "missing or applied twice)"),
    ),
    "like no known bug": (
        between(edits={FAULT: lambda values: np.roll(values, 1, axis=1) ** 3}), ("max_abs=0.1",), Verdict.FAIL,
        "layer 1 ffn_gate, token 0: max_abs ",
    ),
    "no bound": (
        WRONG, (), Verdict.UNKNOWN,
        "5 of 54 stages differ, and nothing says how much is allowed: look first at layer 1 ffn_gate (rel_l2 0.5)",
    ),
    "one stage without a bound": (
        between(edits={FAULT: scaled(1.5)}), (), Verdict.UNKNOWN,
        "1 of 54 stages differs, and nothing says how much is allowed: look first at layer 1 ffn_gate (rel_l2 0.5)",
    ),
    "different tokens": (
        OTHER_TOKENS, (), Verdict.UNKNOWN,
        "token ids differ from position 2 on: A has 9, B has 8; of the first 2 tokens all stages compared are equal",
    ),
    "different tokens, different values": (
        between(tokens=(5, 3, 8, 1, 7), edits={FAULT: scaled(1.5)}), ("rel_l2=0.1",), Verdict.UNKNOWN,
        ("token ids differ from position 2 on: A has 9, B has 8; of the first 2 tokens 1 of 53 stages compared "
        "differs: look first at layer 1 ffn_gate (rel_l2 0.5)"),
    ),
    "no token in common": (
        between(tokens=(4, 3, 8, 1, 7)), (), Verdict.UNKNOWN,
        "token ids differ from position 0 on: A has 5, B has 4; nothing was compared",
    ),
    "tokens unknown": (
        without_manifest, (), Verdict.UNKNOWN,
        "token ids are not recorded and the embedding stages differ: give the ids with --tokens; nothing was compared",
    ),
    "stages missing, the others equal": (
        between(without=[FAULT]), (), Verdict.UNKNOWN,
        (
            "1 of 54 expected stages could not be compared (layer 1 ffn_gate: in A only); all stages compared are equal"
        ),
    ),
    "two stages missing": (
        between(without=[FAULT, Node(0, "ffn_up")]), (), Verdict.UNKNOWN,
        (
            "2 of 54 expected stages could not be compared (first layer 0 ffn_up: in A only); all stages compared are "
            "equal"
        ),
    ),
    "stages missing, others differ": (
        between(without=[FAULT], edits={Node(2, "ffn_up"): scaled(1.2)}), ("rel_l2=0.1",), Verdict.FAIL,
        "layer 2 ffn_up, token 0: looks like × 1.2 (a scale that is missing or applied twice)",
    ),
    "stages missing, others differ within a bound": (
        between(without=[FAULT], edits={Node(2, "ffn_up"): scaled(1.2)}), ("rel_l2=1",), Verdict.UNKNOWN,
        ("1 of 54 expected stages could not be compared (layer 1 ffn_gate: in A only); 1 of 53 stages compared "
        "differs: look first at layer 2 ffn_up (rel_l2 0.2)"),
    ),
    "a run that did not finish": (
        between(complete=False), (), Verdict.UNKNOWN,
        "B is incomplete: its run did not finish; all stages compared are equal",
    ),
    "no finite value": (
        lambda folder: (
            write_capture(folder / "a", edits={FAULT: changed((slice(None),), np.nan)}),
            write_capture(folder / "b", edits={FAULT: changed((slice(None),), np.nan)}),
        ),
        (), Verdict.UNKNOWN, "1 stage has no finite value to compare; all others are equal",
    ),
}  # fmt: skip

Outcome = tuple[Path, Path, tuple[str, ...], Verdict, str]


@pytest.fixture(params=OUTCOMES)
def outcome(request: pytest.FixtureRequest, tmp_path: Path) -> Outcome:
    writer, tolerances, verdict, sentence = OUTCOMES[request.param]
    return *writer(tmp_path), tolerances, verdict, sentence


def test_each_outcome_has_its_sentence_which_is_true_of_its_numbers(outcome: Outcome) -> None:
    a, b, tolerances, verdict, sentence = outcome
    comparison = compared(a, b, *tolerances)
    assert comparison.verdict is verdict
    assert headline(comparison).startswith(sentence), headline(comparison)
    check_truth(comparison, headline(comparison))


def test_each_outcome_has_the_same_sentence_on_the_screen_and_in_the_text_of_the_command(outcome: Outcome) -> None:
    a, b, tolerances, verdict, sentence = outcome
    read = read_back(a, b, *tolerances)
    assert headline(read).startswith(sentence), "the screen has the comparison from its records"
    words = [word for text in tolerances for word in ("--tolerance", text)]
    text = CliRunner().invoke(command, [str(a), str(b), *words], standalone_mode=False).output
    assert f"{verdict} {sentence}" in " ".join(text.split())


def check_truth(comparison: Comparison, sentence: str) -> None:
    """What a sentence says of equality, of counts and of the stage in it holds for the numbers."""
    differing = [stage for stage in comparison.stages if stage.metrics.max_abs or stage.metrics.mismatches]
    if "equal" in sentence:
        assert not differing
    if found := re.search(r"(\d+) of (\d+) stages", sentence):
        assert list(map(int, found.groups())) == [len(differing), len(comparison.stages)]
    if "bit-equal" in sentence:
        assert all(stage.metrics.equal_bits == 1 for stage in comparison.stages)
    if found := re.search(r"(?:look first at|nearest is) (.*?)(?::| \()", sentence):
        assert comparison.focus is not None and str(comparison.focus.node) == found[1]
        assert comparison.elements, "the largest differences are listed of the stage that the sentence names"
    if "none beyond its bound" in sentence:
        assert not comparison.divergent
    if comparison.first_divergence is not None:
        assert sentence.startswith(str(comparison.first_divergence.verdict.node))
        assert comparison.focus is not None and comparison.focus.node == comparison.first_divergence.verdict.node


def compared(a: Path, b: Path, *tolerances: str) -> Comparison:
    options = DiffOptions(tolerances=tuple(map(parse_tolerance, tolerances)))
    return compare_captures(Capture.open(a), Capture.open(b), options)


def test_a_moved_bound_has_a_sentence_of_its_own(tmp_path: Path) -> None:
    plain = read_back(*two_captures(tmp_path))
    assert headline(judge_by_bound(plain, Tolerance(Metric.REL_L2, 1.0))) == (
        "5 of 54 stages compared differ, none beyond its bound; nearest is layer 1 ffn_gate: rel_l2 0.5, bound 1"
    )
    failed = judge_by_bound(plain, Tolerance(Metric.REL_L2, 0.2))
    assert headline(failed) == "layer 1 ffn_gate: rel_l2 0.5, above its bound 0.2"
    with_hypotheses = judge_by_bound(
        read_back(tmp_path / "good", tmp_path / "bad", "rel_l2=0.2"), Tolerance(Metric.REL_L2, 0.3)
    )
    assert headline(with_hypotheses).startswith("layer 1 ffn_gate: looks like × 1.5 (")


def test_hypotheses_about_another_stage_than_the_one_a_moved_bound_blames_are_gone(tmp_path: Path) -> None:
    edits = {Node(0, "ffn_up"): scaled(1.05), **EDITS}
    judged = read_back(*two_captures(tmp_path, edits), "rel_l2=0.2")
    assert judged.hypotheses and judged.first_divergence is not None
    assert judged.first_divergence.verdict.node == FAULT
    narrower = judge_by_bound(judged, Tolerance(Metric.REL_L2, 0.01))
    assert narrower.hypotheses == ()
    assert headline(narrower) == "layer 0 ffn_up: rel_l2 0.05, above its bound 0.01"


def test_the_error_that_a_replay_finds_has_its_sentence(tmp_path: Path) -> None:
    a, b = two_captures(tmp_path)
    honest = {"verdict": "PASS", "error": 1e-7, "floor": 3e-7, "bound": 2e-6}
    both, alone = [], []
    for record in map(dict, records_of(a, b)):
        if record["record"] == "comparison":
            judged = {**record, **honest, "metric": "token_rel_l2", "signal": "injected", "state": "clean"}
            both.append({**judged, "injected_a": honest, "injected_b": honest})
            alone.append(judged)
        else:
            passed = {**record, "verdict": "PASS", "reasons": []} if record["record"] == "summary" else record
            both.append(passed)
            alone.append(passed)
    figures = "nearest is layer 1 ffn_gate: token_rel_l2 1e-07, bound 2e-06"
    assert headline(read_comparison(both)) == (
        f"5 of 54 stages compared differ, and neither side adds error beyond its bound at any of them; {figures}"
    )
    assert headline(read_comparison(alone)) == f"no stage adds error beyond its bound; {figures}"


def test_a_fault_that_a_replay_finds_has_its_place_and_its_appearance(tmp_path: Path) -> None:
    records = [
        {**record, "signal": "injected"} if record["record"] == "comparison" else record
        for record in records_of(*two_captures(tmp_path), "rel_l2=0.2")
    ]
    judged = read_comparison(records)
    assert judged.adding == {FAULT}
    assert headline(judged) == "layer 1 ffn_gate, token 0: looks like × 1.5 (a scale that is missing or applied twice)"


def test_doubts_of_a_replay_are_the_reason_that_the_sentence_gives(tmp_path: Path) -> None:
    a, b = (Capture.open(path) for path in two_captures(tmp_path))
    doubtful = Criteria(doubts=("the replay of B: the weights are not those of MODEL",))
    comparison = compare_captures(a, b, DiffOptions(), None, doubtful)
    assert comparison.verdict is Verdict.UNKNOWN
    assert headline(comparison) == (
        "the replay of B: the weights are not those of MODEL; 5 of 54 stages compared differ: look first at layer 1 "
        "ffn_gate (rel_l2 0.5)"
    )


@pytest.mark.parametrize(
    ("edit", "tolerances", "sentence"),
    [
        (scaled(1), (), "layer 1 ffn_gate is bit-equal"),
        (scaled(1.5), (), "layer 1 ffn_gate differs (rel_l2 0.5), and nothing says how much is allowed"),
        (scaled(1.5), ("rel_l2=1",), "layer 1 ffn_gate differs, but not beyond its bound: rel_l2 0.5, bound 1"),
        (scaled(1.5), ("rel_l2=0.1",), "layer 1 ffn_gate, element "),
        (changed((slice(None),), np.nan), (), "layer 1 ffn_gate, element 0: 60 values NaN or Inf on one side only"),
    ],
)
def test_two_stage_files_have_sentences_of_one_stage(
    tmp_path: Path, edit: Edit, tolerances: tuple[str, ...], sentence: str
) -> None:
    a, b = (read_aprt(side / "layer-1" / "ffn_gate.bin") for side in two_captures(tmp_path, {FAULT: edit}))
    comparison = compare_files(a, b, tuple(map(parse_tolerance, tolerances)), 10)
    assert headline(comparison).startswith(sentence), headline(comparison)


@pytest.mark.parametrize(("limit", "said"), [(0.6, True), (None, False)])
def test_what_is_unknown_before_the_first_certain_divergence_is_said(
    tmp_path: Path, limit: float | None, said: bool
) -> None:
    """Where a stage before it is far beyond its bound and an unknown arithmetic may explain that."""
    later = Node(None, "final_norm")
    a, b = write_capture(tmp_path / "a"), write_capture(tmp_path / "b", edits={FAULT: scaled(1.5), later: scaled(2)})

    def bounds(node: Node) -> tuple[Tolerance, ...]:
        return (Tolerance(Metric.REL_L2, 0.01, limit=limit if node == FAULT else None),)

    found = compare_captures(Capture.open(a), Capture.open(b), DiffOptions(), criteria=Criteria(bounds=bounds))
    assert found.verdict is Verdict.FAIL and found.first_divergence is not None
    assert found.first_divergence.verdict.node == (later if said else FAULT)
    assert headline(found).endswith("; or before: layer 1 (ffn_gate) is UNKNOWN") is said
