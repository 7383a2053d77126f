"""Whole sweeps on a local cluster of Dask: the verdicts are those of one by one, and no death of a process changes
them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aprtui.errors import ExitCode
from aprtui.sweep.folder import SweepFolder
from aprtui.sweep.results import ResultRow, RollupRow, read_rows
from tests.sweep.plans import PROGRAM, copying_plan, new_folder
from tests.sweep.test_work import done

pytestmark = pytest.mark.group("dask")

LOCAL = ("--workers", "2", "--threads", "1")
VARIABLES = ("DASK_SCHEDULER_ADDRESS", "DASK_SCHEDULER__ADDRESS")


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in VARIABLES}


def sweep(plan: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aprtui", "sweep", str(plan), *words]
    return subprocess.run(command, cwd=plan.parent, env=environment(), capture_output=True, text=True, check=False)


@contextmanager
def started(plan: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A sweep that runs beside the test; it is killed at the end where it still does."""
    command = [sys.executable, "-m", "aprtui", "sweep", str(plan), *words]
    with subprocess.Popen(command, cwd=plan.parent, env=environment(), stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def dask(*words: str) -> subprocess.Popen[bytes]:
    """A program of Dask's own, as a user starts it."""
    quiet = subprocess.DEVNULL
    return subprocess.Popen([sys.executable, "-m", "dask", *words], env=environment(), stdout=quiet, stderr=quiet)


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until something has happened; a process that ends first will not make it happen."""
    deadline = time.monotonic() + 300
    while not happened():
        assert time.monotonic() < deadline, "it does not happen"
        assert process is None or process.poll() is None, "the process has ended"
        time.sleep(0.05)


def verdicts(folder: Path) -> dict[str, tuple[int, int]]:
    """The verdicts that are there: which file each is, and when it was written."""
    found = ((path.name, path.stat()) for path in (folder / "verdicts").glob("*.gz"))
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found}


def stated(folder: Path) -> list[tuple[Any, ...]]:
    """What each row of the results says, but for times and places."""
    rows = read_rows(folder, "results", ResultRow)
    return [(r.prompt, r.pair, r.key, r.verdict, r.headline, r.layer, r.stage, r.error, r.compared) for r in rows]


def one_by_one(plan: Path) -> list[tuple[Any, ...]]:
    """The same of every pair judged in this process, one after the other."""
    folder = new_folder(plan.parent / "one-by-one")
    stated = []
    for group in planned_as_run(plan):
        for task in group.verdicts:
            o = done(task, folder)
            stated.append(
                (group.prompt, task.pair.name, task.key, o.verdict, o.headline, o.layer, o.stage, o.error, o.compared)
            )
    return stated


def planned_as_run(plan: Path) -> Any:
    from aprtui.sweep.plan import read_plan
    from aprtui.sweep.tasks import planned_groups

    read = read_plan(plan)
    identities = {name: engine.identity() for name, engine in read.engines.items()}
    return planned_groups(read, identities, lambda *_: None)


def children(process: int) -> list[int]:
    """The processes that `process` has started."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False)
    return [int(word) for word in listed.stdout.split()]


def workers(process: subprocess.Popen[bytes]) -> list[int]:
    """The workers of a sweep: Python processes that it has spawned, but for the one that watches shared resources."""
    return [pid for pid in children(process.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_sweep_says_what_one_by_one_says_and_is_done_once(tmp_path: Path) -> None:
    plan = copying_plan(tmp_path, 4)
    first = sweep(plan, *LOCAL)
    out = tmp_path / "plan-sweep"
    assert first.returncode == ExitCode.DIVERGENCE, first.stderr
    assert "4 FAIL, 0 UNKNOWN, 8 PASS" in first.stdout
    assert "layer 1 ffn_up: the first wrong stage at 2 of 4 prompts" in first.stdout
    assert stated(out) == one_by_one(plan)
    kept = {path.name for path in (out / "captures").iterdir()}
    assert len(kept) == 2 * 3, "two prompts fail, each with the three engines of its failing pairs"
    assert {row.stage for row in read_rows(out, "rollup", RollupRow) if row.first} == {"ffn_up"}
    before = verdicts(out)
    again = sweep(plan, *LOCAL, "--json", "--keep", "none")
    *rows, summary = map(json.loads, again.stdout.splitlines())
    assert (summary["verdicts_before"], summary["captures_made"], len(rows)) == (12, 0, 12)
    assert verdicts(out) == before
    assert list((out / "captures").iterdir()) == []
    assert "FAIL" in (out / "index.html").read_text()


@pytest.mark.slow
def test_a_killed_worker_costs_nothing(tmp_path: Path) -> None:
    plan = copying_plan(tmp_path, 10, seconds=0.3)
    out = tmp_path / "plan-sweep"
    with started(plan, *LOCAL) as process:
        wait_for(lambda: len(verdicts(out)) >= 3, process)
        before = verdicts(out)
        os.kill(workers(process)[0], signal.SIGKILL)
        assert process.wait() == ExitCode.DIVERGENCE
    assert stated(out) == one_by_one(plan)
    after = verdicts(out)
    assert len(after) == 30
    assert {name: after[name] for name in before} == before, "what was there was not made again"


@pytest.mark.slow
def test_a_killed_scheduler_leaves_what_is_done_and_the_same_command_goes_on(tmp_path: Path) -> None:
    plan = copying_plan(tmp_path, 10, seconds=0.3)
    out = tmp_path / "plan-sweep"
    with started(plan, *LOCAL) as process:  # the scheduler of a local cluster runs in the process of the sweep
        wait_for(lambda: len(verdicts(out)) >= 3, process)
        left = workers(process)
        process.kill()
        process.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left))
    before = verdicts(out)
    assert 3 <= len(before) < 30
    resumed = sweep(plan, *LOCAL, "--json")
    assert resumed.returncode == ExitCode.DIVERGENCE, resumed.stderr
    assert json.loads(resumed.stdout.splitlines()[-1])["verdicts_before"] == len(before)
    assert stated(out) == one_by_one(plan)
    after = verdicts(out)
    assert len(after) == 30
    assert {name: after[name] for name in before} == before
    assert not list((out / "captures").glob(".being-made-*"))


@pytest.mark.slow
def test_an_interrupt_leaves_tables_and_a_state_that_goes_on(tmp_path: Path) -> None:
    plan = copying_plan(tmp_path, 10, seconds=0.3)
    out = tmp_path / "plan-sweep"
    with started(plan, *LOCAL) as process:
        wait_for(lambda: len(verdicts(out)) >= 3, process)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        said = process.stderr.read().decode()
        assert process.wait() == ExitCode.INTERRUPTED, said
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    open_rows = [row for row in read_rows(out, "results", ResultRow) if row.problem == "not done yet"]
    assert 0 < len(open_rows) <= 27
    assert sweep(plan, *LOCAL).returncode == ExitCode.DIVERGENCE
    assert stated(out) == one_by_one(plan)


@pytest.mark.slow
def test_a_cluster_that_is_there_is_used_and_losing_its_scheduler_is_one_line(tmp_path: Path) -> None:
    plan = copying_plan(tmp_path, 12, seconds=0.5)
    out = tmp_path / "plan-sweep"
    where = tmp_path / "scheduler.json"
    with (
        dask("scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(where)) as scheduler,
        dask(
            "worker", "--nworkers", "2", "--nthreads", "1", "--no-dashboard", "--scheduler-file", str(where)
        ) as worker,
    ):
        try:
            wait_for(where.exists)
            address = json.loads(where.read_text())["address"]
            with started(plan, "--scheduler", address) as process:
                wait_for(lambda: len(verdicts(out)) >= 3, process)
                scheduler.kill()
                assert process.stderr is not None
                said = process.stderr.read().decode()
                assert process.wait() == ExitCode.ENGINE, said
            assert "lost its scheduler: what is done stays" in said
            assert "Traceback" not in said
        finally:
            for each in (scheduler, worker):
                each.terminate()
    before = verdicts(out)
    assert sweep(plan, *LOCAL).returncode == ExitCode.DIVERGENCE
    assert stated(out) == one_by_one(plan)
    assert before.items() <= verdicts(out).items()


@pytest.mark.slow
def test_a_task_that_kills_its_workers_is_no_verdict(tmp_path: Path) -> None:
    plan = copying_plan(tmp_path, 2)
    (tmp_path / PROGRAM).write_text('case "$1" in *wrong*) kill -9 $PPID;; esac\ncp -r "$1" "$2"\n')
    swept = sweep(plan, *LOCAL)
    assert swept.returncode == ExitCode.UNKNOWN, swept.stderr
    assert "the worker died at it, again and again" in swept.stdout
    assert "0 FAIL, 4 UNKNOWN, 2 PASS" in swept.stdout


@pytest.mark.slow
def test_two_hundred_pairs_of_our_engines_are_judged_as_aprtui_diff_judges_them(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from aprtui.cli.diff import command
    from aprtui.resources import embedded_model

    prompts = "".join(f"  - {{tokens: [{1 + number}, {2 * number + 3}, 7]}}\n" for number in range(68))
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        f"models: {{tiny: embedded}}\nprompts:\n{prompts}engines:\n  exact: {{backend: cpu}}\n"
        "  q8: {backend: cpu, mode: q8}\n  f16: {backend: cpu, kv: f16}\n"
        "  wrong: {backend: cpu, inject: ['layer=2,stage=ffn_gate,kind=scale']}\n"
        "pairs: [{a: exact, b: q8}, {a: exact, b: f16}, {a: exact, b: wrong}]\n"
    )
    swept = sweep(plan, *LOCAL, "--keep", "all")
    out = tmp_path / "plan-sweep"
    assert swept.returncode == ExitCode.DIVERGENCE, swept.stderr
    rows = list(read_rows(out, "results", ResultRow))
    assert len(rows) == 204
    for row in rows:
        sides = [str(out / side) for side in (row.capture_a, row.capture_b)]
        diffed = CliRunner().invoke(command, [*sides, "--model", str(embedded_model()), "--json"])
        _, _, *records = SweepFolder(out).read_verdict(row.key)
        *lines, summary = [json.loads(line) for line in diffed.stdout.splitlines()][1:]
        assert lines == records[:-1]
        assert {**summary, "next": []} == records[-1]


@pytest.mark.slow
def test_captures_that_are_larger_than_the_memory_of_a_worker_are_judged_within_it(tmp_path: Path) -> None:
    from tests.model.gguf_files import write_model

    write_model(tmp_path / "long.gguf", context=2048, layers=8)
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        f"models: {{long: long.gguf}}\nprompts: [{{tokens: {[number % 250 for number in range(1900)]}}}]\n"
        "engines:\n  exact: {backend: cpu}\n  f16: {backend: cpu, kv: f16}\npairs: [{a: exact, b: f16, "
        "tolerance: [rel_l2=0.1]}]\n"
    )
    swept = sweep(plan, "--workers", "1", "--threads", "1", "--memory", "0.85", "--json")
    summary = json.loads(swept.stdout.splitlines()[-1])
    assert swept.returncode == ExitCode.PASS, swept.stdout
    assert summary["peak_worker_bytes"] < 0.85e9 < summary["bytes_captured"] / 2


@pytest.mark.slow
def test_a_task_that_no_worker_has_the_memory_for_is_refused(tmp_path: Path) -> None:
    refused = sweep(copying_plan(tmp_path, 1), "--workers", "1", "--memory", "0.2")
    assert refused.returncode == ExitCode.USAGE
    assert "a task needs about 0.3 GB, the largest worker has 0.2 GB: fewer --workers" in refused.stderr
