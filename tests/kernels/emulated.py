"""Kernels of one .cu file, compiled for the host and called with numpy arrays.

Each call of `Image.run` launches the kernel three times, with threads and blocks in three orders, other fillings of
uninitialised memory each time, and demands the same bytes: so every kernel test is also one of missing barriers, of
uninitialised memory, of writing out of bounds, and of determinism.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aprtui import resources

Array = NDArray[Any]

_FLAGS = (
    "-x", "c++", "-std=c++17", "-O2", "-g1", "-march=native", "-ffp-contract=off", "-fPIC", "-shared",
    "-fvisibility=hidden", "-fno-strict-aliasing", "-Wall", "-Wno-unknown-pragmas", "-DAPRTUI_EMULATOR",
)  # fmt: skip
UNDEFINED_BEHAVIOUR = (
    "-fsanitize=undefined,float-cast-overflow",
    "-fno-sanitize=vptr",
    "-fsanitize-undefined-trap-on-error",
)
"""Flags of a build in which undefined behaviour traps; the emulator reports the trap as it does a fault."""

_KERNEL = re.compile(r"^KERNEL\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(", re.MULTILINE)

# Order of threads and blocks; filling of shared memory, and of outputs that a launch does not write.
_SCHEDULES = ((0, 0xFF), (1, 0xC3), (2, 0x41))


class KernelError(Exception):
    """What the emulator says of a launch."""


@dataclass(frozen=True, slots=True)
class Out:
    """An array that a kernel writes: filled with garbage before the launch, so that a gap in it shows."""

    shape: tuple[int, ...]
    dtype: type | np.dtype = np.float32


@dataclass(frozen=True, slots=True)
class InOut:
    """An array that a kernel reads and writes."""

    values: Array


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct by value: its members in order, laid out as C does."""

    members: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class DeviceStruct:
    """A pointer to a struct in device memory."""

    value: Struct


def build(source: Path, cache: Path, flags: Sequence[str] = ()) -> Path:
    """The shared object of `source`, compiled unless `cache` has it from the same sources, flags and compiler."""
    compiler = shutil.which("g++")
    assert compiler is not None
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    digest = hashlib.sha256(version + " ".join([*_FLAGS, *flags]).encode() + _machine())
    folder = resources.kernels()
    for path in (source, *sorted(folder.rglob("*.cuh")), *sorted(folder.rglob("*.h"))):
        digest.update(path.read_bytes())
    target = cache / f"{source.stem}-{digest.hexdigest()[:16]}.so"
    if not target.exists():
        text = f'#include "{source}"\n' + "".join(f"EMULATED_KERNEL({name})\n" for name in kernel_names(source))
        partial = target.with_suffix(".partial")
        command = [compiler, *_FLAGS, *flags, "-I", str(folder), "-", "-o", str(partial)]
        done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert not done.stderr, done.stderr
        partial.replace(target)
    return target


def _machine() -> bytes:
    """What -march=native depends on: an object from another processor must not be loaded."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags"))})).encode()


def kernel_names(source: Path) -> list[str]:
    """Entry points of a .cu file, in its order."""
    return _KERNEL.findall(source.read_text())


class Image:
    """The kernels of one .cu file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._library.emulator_error.restype = ctypes.c_char_p
        self._library.emulator_allocate.restype = ctypes.c_void_p
        self._library.emulator_allocate.argtypes = [ctypes.c_size_t, ctypes.c_int]
        for name in ("emulator_free", "emulator_intact"):
            getattr(self._library, name).argtypes = [ctypes.c_void_p, ctypes.c_size_t]

    def run(
        self, kernel: str, grid: Sequence[int], block: int, *arguments: object, shared: int = 0, orders: int = 3
    ) -> list[Array]:
        """Launch `kernel`; what it left in its `Out` and `InOut` arguments, in their order.

        Arguments: numpy arrays (copied to the device), `Out`, `InOut`, `Struct`, `DeviceStruct`, None (a null
        pointer), int and float (32 bits), np.float64. Raises `KernelError` for what the emulator finds, and
        `AssertionError` where orders disagree.
        """
        results = [self._launch(kernel, grid, block, arguments, shared, *_SCHEDULES[order]) for order in range(orders)]
        for other in results[1:]:
            for place, (first, second) in enumerate(zip(results[0], other, strict=True)):
                assert first.tobytes() == second.tobytes(), (
                    f"{kernel}: output {place} depends on the order of threads, or on memory that was never written"
                )
        return results[0]

    def _launch(
        self,
        kernel: str,
        grid: Sequence[int],
        block: int,
        arguments: Sequence[object],
        shared: int,
        order: int,
        fill: int,
    ) -> list[Array]:
        memory = _Memory(self._library, fill)
        try:
            packed = Packer(memory).pack(arguments)
            grid3 = [*grid, 1, 1][:3]
            self._library.emulator_schedule(order, fill)
            failed = self._library.emulator_launch(
                ctypes.cast(getattr(self._library, f"emulated_{kernel}"), ctypes.c_void_p),
                *grid3, block, 1, 1, ctypes.c_size_t(shared), packed,
            )  # fmt: skip
            if failed:
                raise KernelError(self._explained(f"{kernel}: {self._library.emulator_error().decode()}"))
            return memory.results(kernel)
        finally:
            memory.free()

    def _explained(self, message: str) -> str:
        """`message` with the source line where it names an offset in the image."""
        found = re.search(r"image offset (0x[0-9a-f]+)", message)
        if found is None or shutil.which("addr2line") is None:
            return message
        command = ["addr2line", "-s", "-i", "-e", str(self.path), found[1]]
        frames = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
        ours = [frame for frame in frames if ".cu" in frame] or frames
        return message.replace(found[0], "at " + " in ".join(ours))


class Kernels(Protocol):
    """What runs kernels: an image compiled for the host, or a device."""

    def run(
        self, kernel: str, grid: Sequence[int], block: int, *arguments: object, shared: int = 0, orders: int = 3
    ) -> list[Array]:
        """See `Image.run`."""


Images = Callable[..., Kernels]
"""The kernels of `kernels/<name>.cu`, by the name or by a path."""


class _Memory:
    """Device memory of one launch."""

    def __init__(self, library: ctypes.CDLL, fill: int) -> None:
        self._library = library
        self._fill = fill
        self._held: list[tuple[int, int]] = []
        self._outputs: list[tuple[int, tuple[int, ...], np.dtype]] = []

    def copy(self, values: Array, written: bool) -> int:
        values = np.ascontiguousarray(values)
        place = self._allocate(values.nbytes)
        ctypes.memmove(place, values.ctypes.data, values.nbytes)
        if written:
            self._outputs.append((place, values.shape, values.dtype))
        return place

    def blank(self, out: Out) -> int:
        dtype = np.dtype(out.dtype)
        place = self._allocate(int(np.prod(out.shape)) * dtype.itemsize)
        self._outputs.append((place, out.shape, dtype))
        return place

    def _allocate(self, size: int) -> int:
        place = self._library.emulator_allocate(size, self._fill)
        assert place, f"no memory for {size} bytes"
        self._held.append((place, size))
        return int(place)

    def results(self, kernel: str) -> list[Array]:
        for place, size in self._held:
            if not self._library.emulator_intact(place, size):
                raise KernelError(f"{kernel}: wrote in front of an array of {size} bytes, or just behind it")
        found = []
        for place, shape, dtype in self._outputs:
            size = int(np.prod(shape)) * dtype.itemsize
            found.append(np.frombuffer(ctypes.string_at(place, size), dtype).reshape(shape))
        return found

    def free(self) -> None:
        for place, size in self._held:
            self._library.emulator_free(place, size)


class Memory(Protocol):
    """Where a launch finds its arrays."""

    def copy(self, values: Array, written: bool) -> int:
        """The address of a copy of `values`; a result of the launch where it is `written`."""

    def blank(self, out: Out) -> int:
        """The address of room for a result."""


class Packer:
    """Arguments as a kernel takes them: each at its natural alignment."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def pack(self, arguments: Sequence[object]) -> bytes:
        packed = b""
        for argument in arguments:
            item, alignment = self._item(argument)
            packed += b"\0" * (-len(packed) % alignment) + item
        return packed

    def _item(self, argument: object) -> tuple[bytes, int]:
        match argument:
            case None:
                return struct.pack("P", 0), 8
            case Out():
                return struct.pack("P", self._memory.blank(argument)), 8
            case InOut(values):
                return struct.pack("P", self._memory.copy(values, written=True)), 8
            case np.ndarray():
                return struct.pack("P", self._memory.copy(argument, written=False)), 8
            case DeviceStruct(value):
                packed, _ = self._item(value)
                return struct.pack("P", self._memory.copy(np.frombuffer(packed, np.uint8), written=False)), 8
            case Struct(members):
                alignment = max(self._alignment(member) for member in members)
                packed = self.pack(members)
                return packed + b"\0" * (-len(packed) % alignment), alignment
            case bool():
                raise TypeError("pass flags as int")
            case int():
                return struct.pack("i", argument), 4
            case np.float64():
                return struct.pack("d", argument), 8
            case float():
                return struct.pack("f", argument), 4
        raise TypeError(f"no argument of a kernel: {argument!r}")

    def _alignment(self, argument: object) -> int:
        if isinstance(argument, Struct):
            return max(self._alignment(member) for member in argument.members)
        return 4 if isinstance(argument, int | float) and not isinstance(argument, np.float64) else 8
