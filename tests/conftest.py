"""Groups of tests that need something a machine may lack: they skip with a reason, and the run ends with their list.

`APRTUI_REQUIRE=conformance,pty,…` turns the skips of those groups into failures.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import platform
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.thinning import mark_slow_cases

pytest.register_assert_rewrite("tests.engine.cuda.engine_claims")

# Collecting makes a million objects that stay, and walking them for garbage took a third of its time.
gc.disable()

# A shell starts what runs in the background with SIGINT ignored, and so would be what tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

CHECKOUT = Path(__file__).parent.parent

# How fast a busy machine makes inputs and runs tests says nothing of the code.
settings.register_profile("gate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gate")

os.environ["APRTUI_CONFIG"] = os.devnull  # what a user has configured changes no test


def conformance_folder() -> Path:
    """Captures and models made by other engines."""
    return Path(os.environ.get("APRTUI_CONFORMANCE", CHECKOUT.parent / "shared" / "conformance"))


def _folder_missing(variable: str, folder: Path | None) -> str | None:
    return None if folder and folder.is_dir() else f"no folder at ${variable} ({folder or 'not set'})"


def _module_missing(name: str) -> str | None:
    return None if importlib.util.find_spec(name) else f"the Python module {name} is not installed"


def _tool_missing(name: str) -> str | None:
    return None if shutil.which(name) else f"{name} is not installed"


def _vocabularies() -> str | None:
    named = os.environ.get("APRTUI_VOCABS")
    return _folder_missing("APRTUI_VOCABS", Path(named) if named else None)


def _real_models() -> str | None:
    named = os.environ.get("APRTUI_REAL_MODELS")
    return _folder_missing("APRTUI_REAL_MODELS", Path(named) if named else None)


def _emulator_missing() -> str | None:
    if platform.machine() != "x86_64" or not sys.platform.startswith("linux"):
        return f"the emulator of CUDA runs on Linux on x86-64, this is {sys.platform} on {platform.machine()}"
    return _tool_missing("g++")


def _nvrtc_missing() -> str | None:
    from aprtui.engine.cuda.compilers import CompilerError, Nvrtc

    try:
        Nvrtc()
    except CompilerError as error:
        return str(error)
    return None


def _nvdisasm_missing() -> str | None:
    from tests.kernels.machine_code import find_nvdisasm

    missing = None if find_nvdisasm() else "nvdisasm is neither on PATH nor installed from PyPI (nvidia-cuda-nvdisasm)"
    return missing or _nvrtc_missing()


def _fake_driver_missing() -> str | None:
    return _module_missing("pycuda") or _tool_missing("g++") or _tool_missing("nm")


def _gpu_missing() -> str | None:
    from aprtui.engine.cuda.detect import detect

    return detect().problem or None


# A group's check returns why it cannot run here, or None.
GROUPS: dict[str, Callable[[], str | None]] = {
    "conformance": lambda: _folder_missing("APRTUI_CONFORMANCE", conformance_folder()),
    "dask": lambda: _module_missing("distributed") or _module_missing("pyarrow"),
    "emulator": _emulator_missing,
    "fsspec": lambda: _module_missing("fsspec"),
    "gcc": lambda: _tool_missing("gcc"),
    "gpu": _gpu_missing,
    "jq": lambda: _tool_missing("jq"),
    "llama_cpp": lambda: _module_missing("llama_cpp"),
    "msprobe": lambda: _module_missing("torch") or _module_missing("transformers") or _module_missing("msprobe"),
    "nvdisasm": _nvdisasm_missing,
    "nvcc": lambda: _tool_missing("nvcc"),
    "nvrtc": _nvrtc_missing,
    "real_models": _real_models,
    "s3": lambda: _module_missing("s3fs") or _module_missing("moto") or _module_missing("flask"),
    "sanitizer": lambda: _gpu_missing() or _tool_missing("compute-sanitizer"),
    "sftp": lambda: _module_missing("fsspec") or _module_missing("paramiko"),
    "pipx": lambda: _tool_missing("pipx"),
    "pty": lambda: _tool_missing("tmux"),
    "pycuda": _fake_driver_missing,
    "torch": lambda: _module_missing("torch"),
    "transformers": lambda: _module_missing("torch") or _module_missing("transformers"),
    "uv": lambda: _tool_missing("uv"),
    "vocabularies": _vocabularies,
    "zstandard": lambda: _module_missing("zstandard"),
}

_MISSING = pytest.StashKey[str]()
_REASON = "group "


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: for a fifth of its time a test of the app waits for what it draws."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_slow_cases(items)
    required = {name for name in os.environ.get("APRTUI_REQUIRE", "").split(",") if name}
    unknown = required - GROUPS.keys()
    if unknown:
        raise pytest.UsageError(f"APRTUI_REQUIRE names unknown groups {sorted(unknown)}: there are {sorted(GROUPS)}")
    reasons = {name: check() for name, check in GROUPS.items()}
    for item in items:
        fixtures: list[str] = getattr(item, "fixturenames", [])
        marked = [mark.args[0] for mark in item.iter_markers("group")]
        for group in dict.fromkeys(marked + ["conformance"] * ("conformance" in fixtures)):
            reason = reasons[group]
            if reason is None:
                continue
            if group in required:
                item.stash[_MISSING] = f"required by APRTUI_REQUIRE: {group}: {reason}"
            else:
                item.add_marker(pytest.mark.skip(reason=f"{_REASON}{group}: {reason}"))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail, before any fixture, a test whose group is required but cannot run here."""
    if _MISSING in item.stash:
        pytest.fail(item.stash[_MISSING], pytrace=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the groups that were skipped. With several workers only the reports know all of them."""
    reasons = [report.longrepr[2] for report in terminalreporter.stats.get("skipped", ())]
    groups = Counter(reason.partition(_REASON)[2] for reason in reasons if _REASON in reason)
    if groups:
        terminalreporter.section("skipped groups")
    for reason, count in sorted(groups.items()):
        terminalreporter.write_line(f"{reason} ({count} tests)")


@pytest.fixture(scope="session")
def conformance() -> Path:
    """The conformance folder; what uses it is of the group `conformance`."""
    return conformance_folder()
