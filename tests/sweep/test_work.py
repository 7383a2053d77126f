"""What workers do, in this process: results are whole or not there, and nothing is done twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aprtui.compare.verdict import Verdict
from aprtui.errors import UnreadableError, UsageError
from aprtui.sweep.folder import SweepFolder
from aprtui.sweep.outcome import Made, PairOutcome, TaskFailed, read_outcome
from aprtui.sweep.plan import read_plan
from aprtui.sweep.results import ResultRow, RollupRow, exit_code, read_rows, write_rows
from aprtui.sweep.rollup import RollupTask, roll_up
from aprtui.sweep.rows import result_row
from aprtui.sweep.tasks import VerdictTask
from aprtui.sweep.work import judge_pair, make_capture
from tests.sweep.plans import FAULT, PROGRAM, copying_plan, groups_of, new_folder, planned


def done(task: VerdictTask, folder: SweepFolder) -> PairOutcome:
    return judge_pair(task, folder.root, 1, *(make_capture(each, folder.root, 1) for each in task.captures))


def test_a_capture_and_a_verdict_are_made_once(tmp_path: Path) -> None:
    group, folder = planned(copying_plan(tmp_path, 2))[1], new_folder(tmp_path / "out")
    right, wrong, _ = group.verdicts
    made = make_capture(right.captures[0], folder.root, 1)
    assert isinstance(made, Made) and made.bytes > 10_000 and made.peak > 10 << 20
    assert make_capture(right.captures[0], folder.root, 1) == Made(0, 0.0, made.peak)
    assert done(right, folder).verdict is Verdict.PASS
    outcome = done(wrong, folder)
    assert (outcome.verdict, outcome.layer, outcome.stage) == (Verdict.FAIL, FAULT.layer, FAULT.stage)
    for capture in wrong.captures:
        folder.remove_capture(capture.key)
    assert judge_pair(wrong, folder.root, 1) == outcome, "what is known needs no capture"
    assert [path.name for path in (folder.root / "captures").iterdir()] == [right.captures[1].key]


def test_a_verdict_holds_all_records_of_its_comparison(tmp_path: Path) -> None:
    group, folder = planned(copying_plan(tmp_path, 2))[1], new_folder(tmp_path / "out")
    outcome = done(group.verdicts[1], folder)
    head, header, *stages, summary = folder.read_verdict(group.verdicts[1].key)
    assert read_outcome(head) == outcome
    assert (header["record"], header["path_a"], header["path_b"]) == ("header", "one", "wrong")
    assert summary["headline"] == outcome.headline
    assert len([record for record in stages if record["record"] == "comparison"]) == outcome.compared


def test_an_engine_that_fails_is_no_verdict_and_says_why(tmp_path: Path) -> None:
    path, folder = copying_plan(tmp_path, 1), new_folder(tmp_path / "out")
    (tmp_path / PROGRAM).write_text("echo no such kernel >&2; exit 1")
    (group,) = planned(path)
    assert make_capture(group.verdicts[0].b, folder.root, 1) == TaskFailed("two: sh: exit code 1: no such kernel")
    outcome = done(group.verdicts[0], folder)
    assert outcome.verdict is Verdict.UNKNOWN and outcome.problem.endswith("exit code 1: no such kernel")
    assert not folder.verdict(group.verdicts[0].key).exists(), "it is tried again"
    assert list((folder.root / "captures").iterdir()) == []


def test_a_capture_of_other_tokens_is_refused(tmp_path: Path) -> None:
    path, folder = copying_plan(tmp_path, 2), new_folder(tmp_path / "out")
    path.write_text(path.read_text().replace("one-{tokens}", "one-5,0,9"))
    group = planned(path)[1]
    failed = make_capture(group.verdicts[0].captures[0], folder.root, 1)
    assert failed == TaskFailed("one: the capture is of other tokens than the prompt's: pass {tokens} to the engine")


def test_our_own_engines_are_captured_and_judged_by_their_floor_and_by_replay(tmp_path: Path) -> None:
    path, folder = tmp_path / "plan.yaml", new_folder(tmp_path / "out")
    path.write_text(
        "models: {tiny: embedded}\nprompts: [{tokens: [1, 2, 3]}]\nengines:\n  exact: {backend: numpy}\n"
        "  faulty: {backend: numpy, mode: q8, inject: ['layer=1,stage=ffn_up,kind=zero-channel']}\n"
        "pairs: [{a: exact, b: faulty}, {replay: faulty}]\n"
    )
    (group,) = groups_of(read_plan(path))
    for task in group.verdicts:
        outcome = done(task, folder)
        assert (outcome.verdict, outcome.layer, outcome.stage) == (Verdict.FAIL, 1, "ffn_up"), outcome.headline
        assert outcome.compared == outcome.expected > 60


def test_a_verdict_that_is_damaged_is_told(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    folder.verdict("k").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(UnreadableError, match="damaged: remove it"):
        folder.read_outcome("k")


def test_only_one_sweep_is_at_work_in_a_folder_and_it_removes_what_was_half_made(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "out")
    (tmp_path / "out/captures/.being-made-x").mkdir()
    with folder.locked():
        assert list((tmp_path / "out/captures").iterdir()) == []
        with pytest.raises(UsageError, match="another sweep is at work there"), folder.locked():
            pass


def test_of_two_workers_that_make_one_capture_one_is_kept(tmp_path: Path) -> None:
    folder = new_folder(tmp_path)
    with folder.making("k") as first, folder.making("k") as second:
        for directory in (first, second):
            directory.mkdir()
            (directory / "file").write_text("x")
    assert (folder.capture("k") / "file").exists()
    assert [path.name for path in (tmp_path / "captures").iterdir()] == ["k"]


def test_the_roll_up_counts_first_wrong_stages_and_the_tables_are_read_back(tmp_path: Path) -> None:
    groups, folder = planned(copying_plan(tmp_path, 4)), new_folder(tmp_path / "out")
    outcomes = {task.key: done(task, folder) for group in groups for task in group.verdicts}
    wrong = RollupTask("tiny", "one × wrong", "wrong", tuple((g.prompt, g.verdicts[1].key) for g in groups))
    rows = roll_up(wrong, folder.root)
    assert [(row.layer, row.stage, row.judged, row.first, row.failed) for row in rows if row.first] == [
        (FAULT.layer, FAULT.stage, 4, 2, 2)
    ]
    for group in groups:
        for task in group.verdicts:
            folder.verdict(task.key).unlink()
    assert roll_up(wrong, folder.root) == rows, "a roll-up is kept"
    results = [result_row(folder, g, task, outcomes[task.key]) for g in groups for task in g.verdicts]
    write_rows(folder.root, "results", ResultRow, results)
    write_rows(folder.root, "rollup", RollupRow, rows)
    assert list(read_rows(folder.root, "results", ResultRow)) == results
    assert exit_code(results) == 1
    assert exit_code(row for row in results if row.verdict != "FAIL") == 0


def test_the_parquet_tables_say_what_the_json_lines_say(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    groups, folder = planned(copying_plan(tmp_path, 2)), new_folder(tmp_path / "out")
    results = [result_row(folder, g, task, done(task, folder)) for g in groups for task in g.verdicts]
    write_rows(folder.root, "results", ResultRow, results)
    lines = [json.loads(line) for line in (folder.root / "results.jsonl").read_text().splitlines()]
    table = parquet.read_table(folder.root / "results.parquet").to_pylist()
    assert [{"record": "results", **row} for row in table] == lines
