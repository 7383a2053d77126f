"""`aprtui bench verdicts`: the tables of its parts, on a few cases."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aprtui.cli.bench import _bug_lines, _judged_lines, _kind_lines
from aprtui.compare.verdict import Verdict
from aprtui.engine.evaluation import partial_captures
from aprtui.engine.evaluation.bug_detection import BugCase, BugOutcome, JudgedBug
from aprtui.engine.evaluation.false_alarms import JudgedCapture
from aprtui.engine.evaluation.fault_detection import FaultDetection
from aprtui.engine.faults.faults import Fault
from aprtui.engine.protocol import Mode
from aprtui.trace.capture import Capture
from tests.cli.conftest import Outcome

Run = Callable[..., Outcome]


def found(outcome: BugOutcome, kind: str = "norms") -> JudgedBug:
    return JudgedBug(BugCase("float32", f"bug {outcome.value}", kind), outcome, "", 5.0)


def test_bugs_are_judged_and_recorded(aprtui: Run) -> None:
    done = aprtui("bench", "verdicts", "--part", "bugs", "--every", 3000, "--json")
    records = [json.loads(line) for line in done.out.splitlines()]
    assert done.code == 0 and records
    assert {"bug", "engine", "kind"} == records[0]["case"].keys()
    assert records[0]["outcome"] in list(BugOutcome)


def test_what_is_beneath_the_noise_is_in_no_rate_and_misses_are_named() -> None:
    outcomes = [BugOutcome.NAMED, BugOutcome.IN_SEGMENT, BugOutcome.MISSED, BugOutcome.MISPLACED, BugOutcome.BENEATH]
    lines = list(_bug_lines([found(outcome) for outcome in outcomes]))
    assert "50.0%" in lines[1] and lines[2].startswith("all")
    named = [line for line in lines[3:] if "bug" in line]
    assert len(named) == 2 and "bug missed" in named[0] and "bug misplaced" in named[1]


def test_what_is_found_once_the_arithmetic_is_stated_has_a_column() -> None:
    unknown = found(BugOutcome.UNKNOWN)
    head, row, *_ = _bug_lines([replace(unknown, when_stated=BugOutcome.IN_SEGMENT), unknown])
    assert head.endswith("once stated") and row.split()[-1] == "1"


@pytest.mark.parametrize("count", [1, 3])
def test_unknown_verdicts_are_counted_by_their_reason(count: int) -> None:
    said = "4 of 6 stages, layer 0 ffn_out first: beyond all"
    judged = [JudgedCapture(f"norms: engine {n}", "replay", Verdict.UNKNOWN, said) for n in range(count)]
    assert f"   UNKNOWN {count}: beyond all" in list(_kind_lines("honest", judged))


def test_pairs_of_honest_engines_pass(aprtui: Run) -> None:
    done = aprtui("bench", "verdicts", "--part", "pairs", "--every", 15)
    proved = "honest, but with a cause that is called proved: 0 of 1"
    assert done.code == 0 and done.out.splitlines() == ["honest pairs, judged by diff: 1 PASS", proved]


def test_a_cause_in_an_honest_capture_is_counted_and_said_whatever_the_verdict() -> None:
    said = "layer 1 ffn_up: multiplied by 2"
    judged = [JudgedCapture("norms: a", "replay", Verdict.UNKNOWN, "", causes=(said,)),
              JudgedCapture("norms: b", "replay", Verdict.PASS, "")]  # fmt: skip
    for lines in (list(_kind_lines("honest", judged)), list(_judged_lines("honest", judged))):
        assert "honest, but with a cause that is called proved: 1 of 2" in lines
        assert f"   norms: a, replay: {said}" in lines


def test_chosen_cases_are_judged_once(aprtui: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "kept.jsonl"
    chosen = ("bench", "verdicts", "--part", "kinds", "--only", "logits: float32, f16 K/V", "--results", kept, "--json")
    first, held = aprtui(*chosen), kept.read_text()
    assert json.loads(first.out)["what"] == "logits: float32, f16 K/V" and len(held.splitlines()) == 2
    monkeypatch.setattr(partial_captures, "replay_capture", None)  # a second judgement would be an error
    second = aprtui(*chosen)
    assert first.code == second.code == 0 and first.out == second.out and kept.read_text() == held


@pytest.mark.slow
def test_detection_goes_on_where_it_was_ended(aprtui: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, words = tmp_path / "kept.jsonl", ("bench", "verdicts", "--part", "detection", "--every", 7)
    chosen = (*words, "--only", "replay: layer=0,stage=attn_out,kind=s", "--results", kept)
    first = aprtui(*chosen)
    lines = kept.read_text().splitlines(keepends=True)
    judged = [json.loads(line) for line in lines[1:]]
    assert first.code == 0 and len(judged) > 1
    assert {(one["signal"], one["outcome"]) for one in judged} == {("replay", "named")}
    planted: list[str] = []
    plant = FaultDetection._plant

    def counted(detection: FaultDetection, fault: Fault, mode: Mode) -> tuple[Capture, float]:
        planted.append(f"replay: {fault}")
        return plant(detection, fault, mode)

    monkeypatch.setattr(FaultDetection, "_plant", counted)
    kept.write_text("".join(lines[:-1]) + lines[-1][:20])
    second = aprtui(*chosen)
    assert second.code == 0 and second.out == first.out and kept.read_text() == "".join(lines)
    assert planted == [judged[-1]["what"]]
    assert f"all{'100.0%':>27}{len(judged):>6}{len(judged):>6}" in first.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--part", "kinds", "--only", "fp3"), "--only fp3: in the name of no case, as in 'complete: float32'"),
        (("--part", "pairs", "--only", "fp8"), "--only and --results go with --part detection, kinds, planted, bugs"),
        (("--results", "kept"), "--only and --results go with --part detection, kinds, planted, bugs"),
    ],
)
def test_a_choice_of_nothing_is_refused(aprtui: Run, arguments: tuple[str, ...], said: str) -> None:
    done = aprtui("bench", "verdicts", *arguments)
    assert done.code == 2 and said in done.err and not done.out
