"""Tests marked `fake_driver` run in a process of their own: a process loads one driver, and a crash ends only that."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import CHECKOUT
from tests.engine.cuda.fake_driver import build_fake_driver
from tests.kernels.conftest import image_of  # noqa: F401  # a fixture of tests here too

INSIDE = "APRTUI_FAKE_DRIVER"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    mark = pyfuncitem.get_closest_marker("fake_driver")
    if mark is None or INSIDE in os.environ:
        return None
    assert pyfuncitem.config.cache is not None, "the fake driver is kept in pytest's cache"
    folder = build_fake_driver(pyfuncitem.config.cache.mkdir("fake-driver"))
    environment = os.environ | mark.kwargs | {INSIDE: "1", "LD_LIBRARY_PATH": str(folder)}
    command = [sys.executable, "-m", "pytest", "-q", pyfuncitem.nodeid]
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"in its own process, exit code {done.returncode}:\n{done.stdout}{done.stderr}", pytrace=False)
    return True
