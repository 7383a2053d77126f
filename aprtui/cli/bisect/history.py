"""Git's part of a bisection: both ends are tried, `git bisect run` tries the rest, and everything is put back."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprtui.errors import EngineError, ExitCode, UsageError
from aprtui.progress import Progress

_STEP = """#!/bin/sh
# Build, capture, judge: the exit code is what git bisect run expects of one commit.
commit=$(git rev-parse HEAD) || exit 125
exec </dev/null >"{state}/$commit.log" 2>&1
rm -rf "{out}"
( {build} ) || {{ echo "the build failed"; exit 125; }}
( {capture} ) || {{ echo "the engine failed"; exit 125; }}
test -e "{out}" || {{ echo "no capture was written"; exit 125; }}
{judge} >"{state}/$commit.jsonl"
"""
_LEFT = re.compile(rb"Bisecting: (\d+) revisions? left")
_COMMIT = re.compile(r"[0-9a-f]{40,64}")


@dataclass(frozen=True, slots=True)
class Range:
    """Two commits, as the user names them: a good one, and a bad one that comes later."""

    good: str
    bad: str


@dataclass(frozen=True, slots=True)
class Trial:
    """How a commit is tried: `build` and `capture` in a shell, then `judge`, the words of one of our commands. `out`
    stands for the capture."""

    build: str | None
    capture: str
    judge: tuple[str, ...]
    out: str

    def script(self, state: Path) -> str:
        """The shell script that tries the commit which is checked out, and keeps what it says in `state`."""
        path = str(state / "capture")
        judge = [sys.executable, "-P", "-m", "aprtui", *self.judge, "--json", "--bisect"]
        return _STEP.format(
            state=state, out=path, build=self.build or "true",
            capture=self.capture.replace(self.out, shlex.quote(path)),
            judge=shlex.join(path if word == self.out else word for word in judge),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bisection:
    """What a bisection came to.

    `commit` is the first bad one, None where it is one of `candidates`, which could not be judged. `first_divergence`
    is as in the summary of `aprtui diff --json`, `headline` says it in words.
    """

    commit: str | None
    subject: str
    headline: str
    headline_at_bad: str
    first_divergence: Mapping[str, Any] | None
    candidates: tuple[str, ...]
    tried: int
    skipped: tuple[str, ...]


def bisect(folder: Path, ends: Range, trial: Trial, progress: Progress) -> Bisection:
    """Bisect the repository around `folder`. Raises `UsageError` for a repository or a range that cannot be bisected,
    `EngineError` where an end cannot be judged or git fails."""
    top = Path(_git(folder, "rev-parse", "--show-toplevel"))
    good, bad = (_git(top, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}", what=ref) for ref in _refs(ends))
    with tempfile.TemporaryDirectory(prefix="aprtui-bisect-") as state, _bisecting(top):
        run = _Run(top, Path(state))
        run.script.write_text(trial.script(run.state))
        progress("trying the bad end", 0, 2)
        run.require(ends.bad, bad, ExitCode.DIVERGENCE)
        progress("trying the good end", 1, 2)
        run.require(ends.good, good, ExitCode.PASS)
        _git(top, "bisect", "bad", bad)
        _git(top, "bisect", "good", good)
        candidates = run.all_others(progress)
        return run.result(bad, candidates)


def _refs(ends: Range) -> tuple[str, str]:
    return ends.good, ends.bad


@contextmanager
def _bisecting(top: Path) -> Iterator[None]:
    """A bisection of git's; at its end, whatever happened, what was checked out before is checked out again."""
    if (top / _git(top, "rev-parse", "--git-path", "BISECT_LOG")).exists():
        raise UsageError(f"{top}: a bisection is going on: end it by git bisect reset")
    if _git(top, "status", "--porcelain", "--untracked-files=no"):
        raise UsageError(f"{top}: has changes that are not committed: commit or stash them, other commits are tried")
    _git(top, "bisect", "start")
    try:
        yield
    finally:
        subprocess.run(["git", "bisect", "reset"], cwd=top, capture_output=True, check=False)


@dataclass(frozen=True, slots=True)
class _Run:
    """The repository at `top`, and the folder that keeps what each commit came to."""

    top: Path
    state: Path

    @property
    def script(self) -> Path:
        return self.state / "step.sh"

    def require(self, name: str, commit: str, expected: ExitCode) -> None:
        """Try an end of the range. Raises `UsageError` where it is not what it is said to be."""
        _git(self.top, "checkout", "--quiet", "--detach", commit)
        code = subprocess.run(["sh", str(self.script)], cwd=self.top, check=False).returncode
        if code == expected:
            return
        if code in (ExitCode.PASS, ExitCode.DIVERGENCE):
            found, wanted = ("good", "bad") if code == ExitCode.PASS else ("bad", "good")
            raise UsageError(f"{name}: is {found}, not {wanted}: {self.headline(commit)}")
        raise EngineError(f"{name}: cannot be judged: {self._last_line(commit)}")

    def all_others(self, progress: Progress) -> tuple[str, ...]:
        """Have git try what lies between; returns the commits that may be the first bad one where it cannot tell."""
        command = ["git", "bisect", "run", "sh", str(self.script)]
        most, said = 0, []
        with subprocess.Popen(command, cwd=self.top, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line.decode(errors="replace").strip())
                if left := _LEFT.match(line):
                    most = max(most, int(left[1]))
                    progress("bisecting, commits ruled out", most - int(left[1]), most)
        candidates = tuple(line for line in said if _COMMIT.fullmatch(line))
        if process.returncode and not candidates:
            raise EngineError(f"git bisect: {said[-1] if said else 'failed'}")
        return candidates if process.returncode else ()

    def result(self, bad: str, candidates: tuple[str, ...]) -> Bisection:
        first = None if candidates else _git(self.top, "rev-parse", "refs/bisect/bad")
        tried = [path.stem for path in self.state.glob("*.log")]
        summary = {} if first is None else self._summary(first)
        return Bisection(
            first, "" if first is None else _git(self.top, "log", "-1", "--format=%s", first),
            summary.get("headline", ""), self.headline(bad), summary.get("first_divergence"),
            tuple(_git(self.top, "log", "-1", "--format=%h %s", commit) for commit in candidates),
            len(tried), tuple(sorted(commit for commit in tried if not self._summary(commit))),
        )  # fmt: skip

    def headline(self, commit: str) -> str:
        return str(self._summary(commit).get("headline", ""))

    def _summary(self, commit: str) -> dict[str, Any]:
        """The summary of a verdict; empty where the commit had none."""
        path = self.state / f"{commit}.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        summary: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        return summary if summary.get("verdict") in ("PASS", "FAIL") else {}

    def _last_line(self, commit: str) -> str:
        lines = (self.state / f"{commit}.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def _git(folder: Path, *words: str, what: str = "") -> str:
    """What git answers. Raises `UsageError` for `what` it does not know, `EngineError` where it fails."""
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise EngineError("git is not installed: install it") from error
    if done.returncode:
        if what:
            raise UsageError(f"{what}: git knows no such commit: name a commit, a branch or a tag")
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise EngineError(f"git {words[0]}: {lines[-1] if lines else 'failed'}")
    return done.stdout.decode(errors="replace").strip()
