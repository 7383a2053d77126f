"""The git revision that a contract's project is at."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from aprtui.contracts.evidence.files import Revision

_SECONDS = 20


def revision_of(root: Path, files: Sequence[str]) -> Revision | str:
    """The commit checked out at `root`; a text that says why there is none.

    Dirty where a tracked file was changed, or one of `files` (relative to `root`) is not committed at all.
    """
    try:
        commit = _git(root, "rev-parse", "--verify", "HEAD").strip()
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--ignore-submodules")
        uncommitted = _git(root, "status", "--porcelain", "--untracked-files=all", "--ignored", "--", *files)
    except FileNotFoundError:
        return "git is not installed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"git failed: {error}"
    except subprocess.CalledProcessError as error:
        return str(error.stderr).strip().partition("\n")[0] or f"git exited with {error.returncode}"
    return Revision(commit, bool(changed or uncommitted))


def _git(root: Path, *words: str) -> str:
    command = ["git", "--no-optional-locks", "--literal-pathspecs", "-C", str(root), *words]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=_SECONDS, encoding="utf-8",
        errors="replace",
    )  # fmt: skip
    return done.stdout
