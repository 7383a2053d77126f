"""Judgements that are kept as they are made: what a run goes on behind, and files that are none."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from aprtui.bench.judgements import going_on, judged_bug, judged_capture, judged_cause, judged_fault
from aprtui.compare.verdict import Verdict
from aprtui.engine.evaluation.bug_detection import BugCase, BugOutcome, JudgedBug
from aprtui.engine.evaluation.cause_detection import CauseCase, CauseOutcome, JudgedCause
from aprtui.engine.evaluation.false_alarms import JudgedCapture
from aprtui.engine.evaluation.fault_detection import DetectionCase, DetectionOutcome, JudgedFault
from aprtui.engine.faults.faults import Fault
from aprtui.errors import UnreadableError, UsageError
from aprtui.trace.graph.stage import Node

OF = {"record": "judgements", "part": "kinds", "model": "a.gguf", "sha256": "00ff"}
NAMES = ("norms: float32", "norms: TF32", "logits: TF32")


class Judge:
    """Judges cases by name, and remembers which; ends at `last`, as a run that is cancelled does."""

    def __init__(self, last: str | None = None) -> None:
        self.judged: list[str] = []
        self._last = last

    def __call__(self, cases: Sequence[str]) -> Iterator[JudgedCapture]:
        for case in cases:
            self.judged.append(case)
            yield JudgedCapture(case, "replay", Verdict.PASS, "nearest at ×")
            if case == self._last:
                raise KeyboardInterrupt


def run(path: Path, judge: Judge, names: Sequence[str] = NAMES) -> list[str]:
    return [found.what for found in going_on(path, OF, names, judged_capture, judge)]


def test_a_run_goes_on_where_another_was_ended(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(path, Judge(last=NAMES[1]))
    with path.open("a") as file:
        file.write('{"what": "logits: T')  # killed amid a line
    later = Judge()
    assert run(path, later) == list(NAMES) and later.judged == [NAMES[2]]
    assert run(path, Judge(), NAMES[1:2]) == [NAMES[1]]
    assert [json.loads(line).get("what") for line in path.read_text().splitlines()] == [None, *NAMES]


@pytest.mark.parametrize(
    "judged",
    [
        JudgedBug(BugCase("TF32", "a mask off by one", "norms"), BugOutcome.UNKNOWN, "", 1e300, BugOutcome.NAMED),
        JudgedBug(BugCase("TF32", "a mask off by one", "norms"), BugOutcome.MISSED, "said", float("inf")),
    ],
)
def test_a_bug_is_read_as_it_was_written(tmp_path: Path, judged: JudgedBug) -> None:
    path = tmp_path / "kept.jsonl"
    assert list(going_on(path, OF, [judged.case], judged_bug, lambda cases: iter([judged]))) == [judged]
    assert list(going_on(path, OF, [judged.case], judged_bug, lambda cases: iter([]))) == [judged]


@pytest.mark.parametrize("outcome", DetectionOutcome)
def test_a_planted_fault_is_read_as_it_was_written(tmp_path: Path, outcome: DetectionOutcome) -> None:
    path = tmp_path / "kept.jsonl"
    case = DetectionCase("diff", Fault("scale", Node(1, "ffn_out"), {"magnitude": 1e-6}))
    judged = JudgedFault(str(case), "scale", "diff", outcome, "said")
    assert list(going_on(path, OF, [case], judged_fault, lambda cases: iter([judged]))) == [judged]
    assert list(going_on(path, OF, [case], judged_fault, lambda cases: iter([]))) == [judged]


@pytest.mark.parametrize("node", [Node(3, "ffn_out"), Node(None, "lm_head")])
def test_a_cause_is_read_as_it_was_written(tmp_path: Path, node: Node) -> None:
    path = tmp_path / "kept.jsonl"
    judged = JudgedCause(CauseCase("bias left out", node), CauseOutcome.PROVED, "without its bias")
    assert list(going_on(path, OF, [judged.case], judged_cause, lambda cases: iter([judged]))) == [judged]
    assert list(going_on(path, OF, [judged.case], judged_cause, lambda cases: iter([]))) == [judged]


def test_judgements_of_another_model_are_not_mixed_in(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    run(path, Judge())
    path.write_text(path.read_text().replace("00ff", "ff00"))
    with pytest.raises(UsageError, match="holds judgements of the part kinds on a"):
        run(path, Judge())


@pytest.mark.parametrize("text", ["some notes", '{"a": 1}\nnotes\n', json.dumps(OF) + '\n{"what": 1}\n'])
def test_a_file_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text)
    with pytest.raises((UnreadableError, UsageError), match="choose another file"):
        run(path, Judge())
    assert path.read_text() == text


def test_a_record_holds_all_of_a_judgement() -> None:
    judged = JudgedCapture("norms: TF32", "replay", Verdict.FAIL, "said", right=True)
    assert judged_capture(json.loads(json.dumps(asdict(judged)))) == judged
