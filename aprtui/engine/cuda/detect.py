"""Whether the CUDA engine can run here, and if not, for which reason and how to fix it.

The driver library is asked directly, through ctypes: on a machine without one that costs a failed `dlopen` and nothing
else, and PyCUDA is imported only where a device is there that it could drive. Initialising a real driver takes tenths
of a second: not a thing to do between two frames.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from dataclasses import dataclass
from enum import StrEnum

from aprtui.errors import EngineError

OLDEST_DRIVER = (12, 0)
"""CUDA version of the oldest driver: older ones lack the functions that instantiate graphs as we do, or C++17 tools."""

OLDEST_CAPABILITY = (7, 5)
"""Compute capability of the oldest device: from Turing on there are int8 tensor cores, and compilers that target it."""

_NO_DEVICE = 100
_STUB_LIBRARY = 34
_DRIVER_MISMATCH = 803


class Obstacle(StrEnum):
    """Why the CUDA engine cannot run here; each has its own sentence and its own advice."""

    NO_DRIVER = "no driver"
    DRIVER_FAILS = "driver fails"
    DRIVER_TOO_OLD = "driver too old"
    NO_DEVICE = "no device"
    UNSUPPORTED_DEVICE = "unsupported device"
    PYCUDA_MISSING = "PyCUDA missing"
    PYCUDA_UNLOADABLE = "PyCUDA does not load"


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """One GPU as the driver describes it; `memory` is what it has in all, in bytes."""

    ordinal: int
    name: str
    capability: tuple[int, int]
    memory: int

    @property
    def supported(self) -> bool:
        return self.capability >= OLDEST_CAPABILITY

    def __str__(self) -> str:
        return f"{self.name} (sm_{self.capability[0]}{self.capability[1]}, {self.memory / 1e9:.1f} GB)"


@dataclass(frozen=True, slots=True)
class Detection:
    """What was found. Without `obstacle`, `device` can be used; with one, `problem` and `advice` say why not."""

    driver: tuple[int, int] | None = None
    """Newest CUDA version that the driver supports."""
    devices: tuple[CudaDevice, ...] = ()
    obstacle: Obstacle | None = None
    problem: str = ""
    advice: str = ""

    @property
    def device(self) -> CudaDevice | None:
        return next((device for device in self.devices if device.supported), None)

    def require(self) -> CudaDevice:
        """The device to run on. Raises `EngineError` with the problem and advice where there is none."""
        if self.obstacle is not None or self.device is None:
            raise EngineError(f"backend cuda: {self.problem}: {self.advice}, or use --backend cpu")
        return self.device


class _DriverError(Exception):
    def __init__(self, call: str, status: int) -> None:
        super().__init__(call, status)
        self.call, self.status = call, status


def detect() -> Detection:
    """Ask the driver, then its devices, then PyCUDA; stops at the first obstacle."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return _without_driver(str(error))
    try:
        driver = _version(library)
        if driver < OLDEST_DRIVER:
            return _too_old(driver)
        _call(library, "cuInit", 0)
        devices = _devices(library)
    except AttributeError as error:
        return _too_old(None, str(error))
    except _DriverError as error:
        return _failed(library, error)
    return _with_devices(driver, devices)


def _call(library: ctypes.CDLL, name: str, *arguments: object) -> None:
    status = getattr(library, name)(*arguments)
    if status:
        raise _DriverError(name, status)


def _version(library: ctypes.CDLL) -> tuple[int, int]:
    number = ctypes.c_int()
    _call(library, "cuDriverGetVersion", ctypes.byref(number))
    return number.value // 1000, number.value % 1000 // 10


def _devices(library: ctypes.CDLL) -> tuple[CudaDevice, ...]:
    count = ctypes.c_int()
    _call(library, "cuDeviceGetCount", ctypes.byref(count))
    return tuple(_device(library, ordinal) for ordinal in range(count.value))


def _device(library: ctypes.CDLL, ordinal: int) -> CudaDevice:
    handle, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    memory, name = ctypes.c_size_t(), ctypes.create_string_buffer(256)
    _call(library, "cuDeviceGet", ctypes.byref(handle), ordinal)
    _call(library, "cuDeviceGetName", name, len(name), handle)
    _call(library, "cuDeviceComputeCapability", ctypes.byref(major), ctypes.byref(minor), handle)
    _call(library, "cuDeviceTotalMem_v2", ctypes.byref(memory), handle)
    return CudaDevice(ordinal, name.value.decode(errors="replace"), (major.value, minor.value), memory.value)


def _without_driver(message: str) -> Detection:
    if "libcuda.so.1: cannot open shared object file" in message:
        return Detection(
            obstacle=Obstacle.NO_DRIVER,
            problem="no NVIDIA driver on this machine (libcuda.so.1 is not found)",
            advice="install the driver, or in a container start it with --gpus all",
        )
    return Detection(
        obstacle=Obstacle.DRIVER_FAILS,
        problem=f"the NVIDIA driver's library does not load ({message})",
        advice="install the driver again",
    )


def _too_old(driver: tuple[int, int] | None, missing: str = "") -> Detection:
    found = f"it lacks a function ({missing})" if driver is None else f"it supports CUDA {_dotted(driver)}"
    return Detection(
        driver,
        obstacle=Obstacle.DRIVER_TOO_OLD,
        problem=f"the NVIDIA driver is too old: {found}, CUDA {_dotted(OLDEST_DRIVER)} is needed",
        advice="update the driver",
    )


def _failed(library: ctypes.CDLL, error: _DriverError) -> Detection:
    if error.status == _NO_DEVICE:
        return _no_device()
    advice = {
        _STUB_LIBRARY: "it is the toolkit's stub: take its folder out of LD_LIBRARY_PATH, or install the driver",
        _DRIVER_MISMATCH: "the kernel module and the library are of different versions: reboot after a driver update",
    }.get(error.status, "see whether nvidia-smi works, and restart the machine or the container if not")
    text = ctypes.c_char_p()
    library.cuGetErrorString(error.status, ctypes.byref(text))
    said = text.value.decode(errors="replace") if text.value else "an unknown error"
    return Detection(
        obstacle=Obstacle.DRIVER_FAILS,
        problem=f"the NVIDIA driver answers {error.call} with {said!r} ({error.status})",
        advice=advice,
    )


def _no_device() -> Detection:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    where = "" if visible is None else f" among CUDA_VISIBLE_DEVICES={visible!r}"
    return Detection(
        obstacle=Obstacle.NO_DEVICE,
        problem=f"the NVIDIA driver sees no device{where}",
        advice="see what nvidia-smi lists, and that this process may use it"
        if visible is None
        else "change or unset CUDA_VISIBLE_DEVICES",
    )


def _with_devices(driver: tuple[int, int], devices: tuple[CudaDevice, ...]) -> Detection:
    if not devices:
        return _no_device()
    if not any(device.supported for device in devices):
        oldest = f"sm_{OLDEST_CAPABILITY[0]}{OLDEST_CAPABILITY[1]}"
        return Detection(
            driver, devices, Obstacle.UNSUPPORTED_DEVICE,
            f"{', '.join(map(str, devices))} is older than {oldest} (Turing), the oldest that kernels are made for",
            "use a newer GPU",
        )  # fmt: skip
    return _with_pycuda(driver, devices)


def _with_pycuda(driver: tuple[int, int], devices: tuple[CudaDevice, ...]) -> Detection:
    if importlib.util.find_spec("pycuda") is None:
        return Detection(
            driver, devices, Obstacle.PYCUDA_MISSING,
            f"{devices[0]} is here, but PyCUDA is not installed",
            "pip install 'aprtui[cuda]' (needs g++ and the CUDA headers)",
        )  # fmt: skip
    try:
        import pycuda.driver  # noqa: F401
    except ImportError as error:
        built_newer = "undefined symbol" in str(error)
        return Detection(
            driver, devices, Obstacle.PYCUDA_UNLOADABLE,
            f"PyCUDA does not load with this driver, which supports CUDA {_dotted(driver)} ({error})",
            "update the driver, or build PyCUDA again with headers no newer than it"
            if built_newer
            else "pip install --force-reinstall --no-cache-dir pycuda",
        )  # fmt: skip
    return Detection(driver, devices)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
