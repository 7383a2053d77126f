"""Steps of `docs/extending.md`, taken in a copy of the checkout and then run there in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import CHECKOUT


@dataclass(frozen=True)
class Step:
    """One edit: `before` stands in `file` once and becomes `after`; an empty `before` makes a new file."""

    file: str
    before: str
    after: str


def copy_with(steps: Sequence[Step], folder: Path) -> Path:
    """A copy of the package and its tests in `folder`, in which the steps have been taken."""
    for part in ("aprtui", "tests"):
        shutil.copytree(CHECKOUT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "data"))
    for step in steps:
        path = folder / step.file
        if not step.before:
            assert not path.exists(), step.file
            path.write_text(step.after)
            continue
        text = path.read_text()
        assert text.count(step.before) == 1, f"{step.file}: {step.before}"
        path.write_text(text.replace(step.before, step.after))
    return folder


def run_in(copy: Path, script: str, *arguments: str) -> None:
    """Run Python code in the copy; compiled kernels are kept there as well."""
    environment = os.environ | {"PYTHONPATH": str(copy), "APRTUI_CACHE_DIR": str(copy / "cache")}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
