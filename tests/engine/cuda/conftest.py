"""Tests marked `fake_driver` run in a process of their own: a process loads one driver, and a crash ends only that.

There the program's cache is one of the tests: its CUDA images are emulated kernels (see `emulated_kernels`), which no
program with a real device must find.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aprtui.engine.cuda.sources import kernel_files, source_digest
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


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    mark = pyfuncitem.get_closest_marker("fake_driver")
    if mark is None or INSIDE in os.environ:
        return None
    cache = _cache(pyfuncitem.config)
    ours = {INSIDE: "1", "LD_LIBRARY_PATH": str(build_fake_driver(cache)), "APRTUI_CACHE_DIR": str(cache)}
    environment = os.environ | mark.kwargs | ours
    command = [sys.executable, "-m", "pytest", "-q", pyfuncitem.nodeid]
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"in its own process, exit code {done.returncode}:\n{done.stdout}{done.stderr}", pytrace=False)
    return True
