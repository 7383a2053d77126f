"""Every reason why the CUDA engine may not run is told apart, in one sentence with its cure, and at little cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aprtui.engine.cuda.detect import CudaDevice, Detection, Obstacle

SOURCE = Path(__file__).with_name("drivers.c")

SCRIPT = """
import json, sys
if {blocked}:
    sys.modules["pycuda"] = None
from aprtui.engine.cuda.detect import detect
events, modules = [], set(sys.modules)
sys.addaudithook(lambda event, arguments: events.append([event, *map(str, arguments)]))
found = detect()
print(json.dumps({{
    "obstacle": found.obstacle, "problem": found.problem, "advice": found.advice,
    "imported": sorted(set(sys.modules) - modules), "events": events,
    "device": None if found.device is None else found.device.ordinal, "driver": found.driver,
    "pycuda": "pycuda.driver" in sys.modules,
}}))
"""


def found_with(folder: Path, *defines: str, blocked: bool = True, **environment: str) -> dict[str, Any]:
    """What a new process detects that finds the driver library in `folder`, compiled with `defines`."""
    if defines:
        command = ["gcc", "-shared", "-fPIC", "-w", *(f"-D{define}" for define in defines)]
        subprocess.run([*command, str(SOURCE), "-o", str(folder / "libcuda.so.1")], check=True)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(blocked=blocked)],
        env=os.environ | {"LD_LIBRARY_PATH": str(folder)} | environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def fake_pycuda(folder: Path, statement: str) -> str:
    """A folder for PYTHONPATH whose `pycuda.driver` does `statement` when it is imported."""
    package = folder / "modules" / "pycuda"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "driver.py").write_text(statement)
    return os.pathsep.join([str(package.parent), os.environ.get("PYTHONPATH", "")])


needs_gcc = pytest.mark.group("gcc")


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has an NVIDIA driver")
def test_no_driver_costs_one_look_for_a_library_and_imports_nothing(tmp_path: Path) -> None:
    record = found_with(tmp_path)
    assert record["obstacle"] == Obstacle.NO_DRIVER
    assert "libcuda.so.1 is not found" in record["problem"]
    assert record["imported"] == []
    assert record["events"] == [["ctypes.dlopen", "libcuda.so.1"]]


def test_a_library_that_does_not_load_is_no_missing_driver(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_bytes(b"not a library")
    record = found_with(tmp_path)
    assert record["obstacle"] == Obstacle.DRIVER_FAILS
    assert "does not load" in record["problem"]


@needs_gcc
@pytest.mark.parametrize(
    ("defines", "obstacle", "problem", "advice"),
    [
        (["INIT=34"], Obstacle.DRIVER_FAILS, "'CUDA driver is a stub library' (34)", "LD_LIBRARY_PATH"),
        (["INIT=803"], Obstacle.DRIVER_FAILS, "(803)", "reboot"),
        (["INIT=999"], Obstacle.DRIVER_FAILS, "'an unknown error' (999)", "nvidia-smi"),
        (["INIT=100"], Obstacle.NO_DEVICE, "sees no device", "nvidia-smi"),
        (["COUNT=0"], Obstacle.NO_DEVICE, "sees no device", "nvidia-smi"),
        (["VERSION=11040"], Obstacle.DRIVER_TOO_OLD, "supports CUDA 11.4, CUDA 12.0 is needed", "update"),
        (["WITHOUT_INIT"], Obstacle.DRIVER_TOO_OLD, "undefined symbol: cuInit", "update"),
        (["MAJOR=6"], Obstacle.UNSUPPORTED_DEVICE, "Test GPU (sm_60, 8.0 GB) is older than sm_75", "newer"),
        (["MAJOR=9"], Obstacle.PYCUDA_MISSING, "Test GPU (sm_90, 8.0 GB) is here", "aprtui[cuda]"),
    ],
)
def test_each_obstacle_has_its_own_sentence_and_cure(
    tmp_path: Path, defines: list[str], obstacle: Obstacle, problem: str, advice: str
) -> None:
    record = found_with(tmp_path, *defines)
    assert record["obstacle"] == obstacle
    assert problem in record["problem"]
    assert advice in record["advice"]
    assert not record["pycuda"]


@needs_gcc
def test_hidden_devices_are_explained_by_the_variable_that_hides_them(tmp_path: Path) -> None:
    record = found_with(tmp_path, "INIT=100", CUDA_VISIBLE_DEVICES="7")
    assert "CUDA_VISIBLE_DEVICES='7'" in record["problem"]
    assert "unset CUDA_VISIBLE_DEVICES" in record["advice"]


@needs_gcc
def test_pycuda_built_for_a_newer_driver_is_told_apart_from_a_broken_one(tmp_path: Path) -> None:
    broken = fake_pycuda(tmp_path, "raise ImportError('_driver.so: undefined symbol: cuCtxCreate_v4')")
    record = found_with(tmp_path, "VERSION=12040", blocked=False, PYTHONPATH=broken)
    assert record["obstacle"] == Obstacle.PYCUDA_UNLOADABLE
    assert "supports CUDA 12.4" in record["problem"]
    assert "undefined symbol: cuCtxCreate_v4" in record["problem"]
    assert "update the driver, or build PyCUDA again" in record["advice"]


@needs_gcc
def test_pycuda_that_lacks_a_library_is_to_be_installed_again(tmp_path: Path) -> None:
    broken = fake_pycuda(tmp_path, "raise ImportError('libcurand.so.10: cannot open shared object file')")
    record = found_with(tmp_path, "MAJOR=9", blocked=False, PYTHONPATH=broken)
    assert record["obstacle"] == Obstacle.PYCUDA_UNLOADABLE
    assert "libcurand.so.10" in record["problem"]
    assert "pip install --force-reinstall" in record["advice"]


@needs_gcc
def test_driver_device_and_pycuda_together_are_no_obstacle(tmp_path: Path) -> None:
    record = found_with(tmp_path, "MAJOR=9", blocked=False, PYTHONPATH=fake_pycuda(tmp_path, ""))
    assert (record["obstacle"], record["device"], record["driver"]) == (None, 0, [13, 0])
    assert record["pycuda"]


@needs_gcc
def test_the_first_supported_device_is_taken(tmp_path: Path) -> None:
    record = found_with(tmp_path, "MAJOR=7", "COUNT=2", blocked=False, PYTHONPATH=fake_pycuda(tmp_path, ""))
    assert (record["obstacle"], record["device"]) == (None, 1)


def test_a_required_device_is_never_replaced() -> None:
    from aprtui.errors import EngineError, ExitCode

    device = CudaDevice(0, "Test GPU", (9, 0), 8_000_000_000)
    assert Detection((13, 0), (device,)).require() == device
    with pytest.raises(EngineError, match="backend cuda: it is gone: bring it back, or use --backend cpu") as raised:
        Detection(obstacle=Obstacle.NO_DEVICE, problem="it is gone", advice="bring it back").require()
    assert raised.value.exit_code is ExitCode.ENGINE
