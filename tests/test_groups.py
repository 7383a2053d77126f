"""Groups of tests skip with a reason where the machine lacks something, and fail where they are required."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import CHECKOUT


def run_conformance_tests(tmp_path: Path, required: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"APRTUI_CONFORMANCE": str(tmp_path / "absent"), "APRTUI_REQUIRE": required}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/engine/test_conformance.py"]
    return subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)


def test_missing_folder_skips_its_group_and_the_run_ends_with_the_list(tmp_path: Path) -> None:
    done = run_conformance_tests(tmp_path, required="")
    assert done.returncode == 0, done.stdout
    assert "skipped groups" in done.stdout
    assert f"conformance: no folder at $APRTUI_CONFORMANCE ({tmp_path / 'absent'})" in done.stdout


def test_required_group_fails_instead_of_skipping(tmp_path: Path) -> None:
    done = run_conformance_tests(tmp_path, required="conformance")
    assert done.returncode == 1
    assert "required by APRTUI_REQUIRE" in done.stdout
    assert " passed" not in done.stdout


def test_unknown_group_is_refused(tmp_path: Path) -> None:
    done = run_conformance_tests(tmp_path, required="conformanse")
    assert done.returncode == 4
    assert "conformanse" in done.stdout + done.stderr
