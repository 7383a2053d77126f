"""Tests marked `fake_driver` run in a process of their own: a process loads one driver, and a crash ends only that.

There the program's cache is one of the tests: its CUDA images are emulated kernels (see `emulated_kernels`), which no
program with a real device must find.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from aprtui.engine.cuda.images import kernel_files, source_digest
from aprtui.resources import kernel_cache
from tests.conftest import CHECKOUT
from tests.engine.cuda.fake_driver import build_fake_driver
from tests.kernels.conftest import build_image as image_of  # noqa: F401  # a fixture of tests here too
from tests.kernels.emulated import Image

INSIDE = "APRTUI_FAKE_DRIVER"


def _cache(config: pytest.Config) -> Path:
    """The program's cache in processes with the fake driver; compiled CPU kernels are shared with all others."""
    assert config.cache is not None, "the fake driver is kept in pytest's cache"
    folder = config.cache.mkdir("fake-driver")
    cpu_kernels = folder / "kernels"
    if not cpu_kernels.is_symlink():
        kernel_cache().mkdir(parents=True, exist_ok=True)
        cpu_kernels.symlink_to(kernel_cache())
    return folder


@pytest.fixture(scope="session")
def emulated_kernels(image_of: Callable[..., Image], request: pytest.FixtureRequest) -> None:  # noqa: F811
    """Lays emulated kernels where the engine looks for compiled ones, under the name of a compiler "emulator 13.0"."""
    if INSIDE in os.environ:
        return
    folder = _cache(request.config) / "cuda" / f"{source_digest()}-sm_90-emulator-13.0"
    folder.mkdir(parents=True, exist_ok=True)
    for source in kernel_files():
        shutil.copy(image_of(source).path, folder / f"{source.stem}.cubin")


@dataclass(frozen=True)
class Outcome:
    """How a test ended in the other process."""

    passed: bool
    text: str


_outcomes: dict[str, Outcome] = {}


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    mark = pyfuncitem.get_closest_marker("fake_driver")
    if mark is None or INSIDE in os.environ:
        return None
    if pyfuncitem.nodeid not in _outcomes:
        _run_elsewhere(pyfuncitem, mark)
    outcome = _outcomes[pyfuncitem.nodeid]
    if not outcome.passed:
        pytest.fail(f"in its own process:\n{outcome.text}", pytrace=False)
    return True


def _run_elsewhere(item: pytest.Function, mark: pytest.Mark) -> None:
    """Run `item` where the fake driver is; with `together`, all tests of its module that have the same mark."""
    companions = [
        other.nodeid
        for other in item.session.items
        if mark.kwargs.get("together") and other.path == item.path and other.get_closest_marker("fake_driver") == mark
    ]
    cache = _cache(item.config)
    reports = cache / f"reports-{os.getpid()}"
    reports.unlink(missing_ok=True)
    ours = {INSIDE: str(reports), "LD_LIBRARY_PATH": str(build_fake_driver(cache)), "APRTUI_CACHE_DIR": str(cache)}
    settings = {name: value for name, value in mark.kwargs.items() if name != "together"}
    command = [sys.executable, "-m", "pytest", "-q", *(companions or [item.nodeid])]
    done = subprocess.run(
        command, cwd=CHECKOUT, env=os.environ | settings | ours, capture_output=True, text=True, check=False
    )
    for line in reports.read_text().splitlines() if reports.exists() else ():
        outcome = json.loads(line)
        before = _outcomes.get(outcome["nodeid"], Outcome(True, ""))
        _outcomes[outcome["nodeid"]] = Outcome(before.passed and outcome["passed"], before.text + outcome["text"])
    reports.unlink(missing_ok=True)
    died = Outcome(False, f"exit code {done.returncode}:\n{done.stdout}{done.stderr}")
    _outcomes.setdefault(item.nodeid, died)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if INSIDE not in os.environ or (report.when != "call" and report.passed):
        return
    outcome = {"nodeid": report.nodeid, "passed": report.passed, "text": report.longreprtext}
    with open(os.environ[INSIDE], "a") as file:
        file.write(json.dumps(outcome) + "\n")
