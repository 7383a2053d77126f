"""`aprtui bisect` on a toy repository: 32 commits of an engine, of which one breaks a kernel and some do not build."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aprtui.errors import ExitCode

COMMITS, FIRST_BAD = 32, 20
DOES_NOT_BUILD = (15, 18, 23)
STAGE = "ffn_silu"

_ENGINE = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from aprtui.trace.graph.stage import Node
from tests.compare.synthetic import scaled, write_capture
SCALE = {scale}
write_capture(Path(sys.argv[1]), edits={{}} if SCALE == 1 else {{Node(2, {stage!r}): scaled(SCALE)}})
"""


def git(folder: Path, *words: str) -> str:
    names = {f"GIT_{who}_{what}": "toy" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **names, "GIT_CONFIG_GLOBAL": os.devnull}
    command = ["git", *words]
    return subprocess.run(
        command, cwd=folder, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


def toy(folder: Path, does_not_build: tuple[int, ...] = DOES_NOT_BUILD) -> list[str]:
    """The repository; returns its commits, the oldest first."""
    git(folder.parent, "init", "-q", "-b", "main", str(folder))
    engine, tests = folder / "engine.py", str(Path(__file__).parents[2])
    commits = []
    for number in range(COMMITS):
        scale = 1 if number < FIRST_BAD else 1.5
        text = _ENGINE.format(tests=tests, scale=scale, stage=STAGE) + f"# revision {number}\n"
        engine.write_text(f"this is no Python {number}\n" if number in does_not_build else text)
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "-m", f"revision {number}")
        commits.append(git(folder, "rev-parse", "HEAD"))
    return commits


def bisect(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    build, capture = f"{sys.executable} -m py_compile engine.py", f"{sys.executable} engine.py {{out}}"
    command = [sys.executable, "-P", "-m", "aprtui", "bisect", "--build", build, "--capture", capture, *words]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    from tests.compare.synthetic import write_capture

    return write_capture(tmp_path / "reference")


@pytest.mark.slow
def test_the_first_bad_commit_and_its_stage_are_named_and_commits_that_do_not_build_are_skipped(
    tmp_path: Path, reference: Path
) -> None:
    commits = toy(tmp_path / "toy")
    words = ("--good", commits[0], "--reference", str(reference), "--json", "--", "--tolerance", "rel_l2=1e-5")
    done = bisect(tmp_path / "toy", *words)
    assert done.returncode == ExitCode.DIVERGENCE, done.stderr
    found = json.loads(done.stdout)
    assert (found["commit"], found["subject"]) == (commits[FIRST_BAD], f"revision {FIRST_BAD}")
    assert (found["first_divergence"]["layer"], found["first_divergence"]["stage"]) == (2, STAGE)
    assert found["tried"] < 12
    skipped = set(found["skipped"])
    assert skipped and skipped <= {commits[number] for number in DOES_NOT_BUILD}
    assert git(tmp_path / "toy", "symbolic-ref", "--short", "HEAD") == "main"
    assert git(tmp_path / "toy", "status", "--porcelain", "--untracked-files=no") == ""


@pytest.mark.slow
def test_where_the_commits_before_do_not_build_all_of_them_are_named(tmp_path: Path, reference: Path) -> None:
    gap = (FIRST_BAD - 1, FIRST_BAD)
    commits = toy(tmp_path / "toy", does_not_build=gap)
    words = ("--reference", str(reference), "--json", "--", "--tolerance", "rel_l2=1e-5")
    done = bisect(tmp_path / "toy", "--good", commits[FIRST_BAD - 2], *words)
    assert done.returncode == ExitCode.UNKNOWN, done.stderr
    found = json.loads(done.stdout)
    assert found["commit"] is None
    assert {line.partition(" ")[2] for line in found["candidates"]} == {
        f"revision {number}" for number in (*gap, FIRST_BAD + 1)
    }


@pytest.mark.slow
def test_an_end_that_is_not_what_it_is_said_to_be_is_refused(tmp_path: Path, reference: Path) -> None:
    commits = toy(tmp_path / "toy", does_not_build=())
    words = ("--reference", str(reference), "--", "--tolerance", "rel_l2=1e-5")
    done = bisect(tmp_path / "toy", "--good", commits[FIRST_BAD + 1], *words)
    assert done.returncode == ExitCode.USAGE
    assert f"is bad, not good: layer 2 {STAGE}" in done.stderr
    done = bisect(tmp_path / "toy", "--good", commits[0], "--bad", commits[3], *words)
    assert done.returncode == ExitCode.USAGE
    assert f"{commits[3]}: is good, not bad" in done.stderr
    assert git(tmp_path / "toy", "symbolic-ref", "--short", "HEAD") == "main"


def test_what_cannot_be_bisected_is_refused_in_a_line(tmp_path: Path, reference: Path) -> None:
    folder = tmp_path / "toy"
    folder.mkdir()
    words = ("--good", "v1", "--reference", str(reference))
    outside = bisect(folder, *words)
    assert outside.returncode == ExitCode.ENGINE and "not a git repository" in outside.stderr
    git(tmp_path, "init", "-q", "-b", "main", str(folder))
    (folder / "engine.py").write_text("")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    unknown = bisect(folder, *words)
    assert unknown.returncode == ExitCode.USAGE and "v1: git knows no such commit" in unknown.stderr
    (folder / "engine.py").write_text("changed")
    changed = bisect(folder, "--good", "HEAD", *words[2:])
    assert changed.returncode == ExitCode.USAGE and "changes that are not committed" in changed.stderr
    assert "--model" in bisect(folder, "--good", "HEAD").stderr
    assert all("Traceback" not in each.stderr for each in (outside, unknown, changed))
