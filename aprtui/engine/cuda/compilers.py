"""Compilers that turn a kernel file into code for a device: nvcc, or NVRTC where only the library is installed.

Both take the same flags. Fast mathematics stays off: `exact` mode promises float32, and replays are held to it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

FLAGS = ("-std=c++17",)

Version = tuple[int, int]


class CompilerError(Exception):
    """A compiler is missing or does not take a source; says which and why."""


@dataclass(frozen=True, slots=True)
class Nvcc:
    """The compiler of the CUDA toolkit; needs g++."""

    path: Path
    version: Version
    name: str = "nvcc"

    def compile(self, source: Path, architecture: str) -> bytes:
        """A cubin for e.g. `sm_90`. Raises `CompilerError`."""
        return self._run(source, "-cubin", f"-arch={architecture}")

    def fat_binary(self, source: Path, capabilities: Sequence[int]) -> bytes:
        """Code for each of `capabilities` (90 for `sm_90`) and portable code of the last, for newer devices."""
        native = (f"-gencode=arch=compute_{number},code=sm_{number}" for number in capabilities)
        portable = f"-gencode=arch=compute_{capabilities[-1]},code=compute_{capabilities[-1]}"
        return self._run(source, "-fatbin", *native, portable)

    def _run(self, source: Path, *options: str) -> bytes:
        with tempfile.TemporaryDirectory(prefix="aprtui-nvcc-") as folder:
            target = Path(folder) / "image"
            command = [str(self.path), *options, *FLAGS, str(source), "-o", str(target)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise CompilerError(f"{self.path} {options[-1]} refuses {source.name}: {_last(done.stderr)}")
            return target.read_bytes()


def find_nvcc() -> Nvcc:
    """nvcc on PATH, in CUDA_HOME or CUDA_PATH, or from PyPI. Raises `CompilerError` where there is none."""
    roots = [Path(root) for name in ("CUDA_HOME", "CUDA_PATH") if (root := os.environ.get(name))]
    candidates = [shutil.which("nvcc"), *(shutil.which("nvcc", path=root / "bin") for root in (*roots, *_packages()))]
    for path in filter(None, candidates):
        output = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
        found = re.search(r"release (\d+)\.(\d+)", output)
        if found:
            return Nvcc(Path(path), (int(found[1]), int(found[2])))
    raise CompilerError("nvcc is not on PATH, in CUDA_HOME or installed from PyPI")


class Nvrtc:
    """NVIDIA's compiler as a library, by ctypes; needs no g++, but the headers of half precision."""

    name = "NVRTC"

    def __init__(self) -> None:
        self._library = _load_nvrtc()
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version: Version = (major.value, minor.value)

    def compile(self, source: Path, architecture: str) -> bytes:
        """A cubin for e.g. `sm_90`. Raises `CompilerError`."""
        folders = [source.parent, *(root / "include" for root in _toolkits())]
        # It takes lambdas for functions of the host otherwise; nvcc asks about calls and sees that they are not.
        options = [f"-arch={architecture}", "-default-device", *FLAGS]
        options += [f"-I{folder}" for folder in folders if folder.is_dir()]
        program = ctypes.c_void_p()
        text, name = source.read_bytes(), source.name.encode()
        self._call("nvrtcCreateProgram", ctypes.byref(program), text, name, 0, None, None)
        try:
            arguments = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            if self._library.nvrtcCompileProgram(program, len(options), arguments):
                log = self._bytes(program, "nvrtcGetProgramLog").rstrip(b"\0").decode(errors="replace")
                raise CompilerError(f"NVRTC -arch={architecture} refuses {source.name}: {_last(log)}")
            return self._bytes(program, "nvrtcGetCUBIN")
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _bytes(self, program: ctypes.c_void_p, name: str) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"{name}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(name, program, buffer)
        return buffer.raw

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise CompilerError(f"{name}: {self._library.nvrtcGetErrorString(status).decode()}")


Compiler = Nvcc | Nvrtc


def _load_nvrtc() -> ctypes.CDLL:
    for folder in (root / "lib" for root in _toolkits()):
        for path in sorted(folder.glob("libnvrtc.so.*")):
            # NVRTC asks for its built-in functions by bare name, which only finds what is loaded already.
            for builtins in sorted(folder.glob("libnvrtc-builtins.so.*")):
                with contextlib.suppress(OSError):  # NVRTC itself says more of what is wrong
                    ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
            try:
                return ctypes.CDLL(str(path))
            except OSError as error:
                raise CompilerError(f"NVRTC does not load ({error})") from error
    for major in (13, 12):
        try:
            return ctypes.CDLL(f"libnvrtc.so.{major}")
        except OSError:
            continue
    raise CompilerError("NVRTC is not installed")


def _packages() -> Iterator[Path]:
    """Folders of the CUDA wheels from PyPI: one for all of CUDA 13, one for each part of CUDA 12."""
    for packages in dict.fromkeys([*site.getsitepackages(), *sys.path]):
        for pattern in ("nvidia/cu[0-9]*", "nvidia/cuda_*"):
            yield from sorted(Path(packages).glob(pattern))


def _toolkits() -> Iterator[Path]:
    """Folders that may hold `lib` and `include` of CUDA."""
    yield from _packages()
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if root := os.environ.get(name):
            yield Path(root)
    yield Path("/usr/local/cuda")


def _last(log: str) -> str:
    """The line of a compiler's output that says what is wrong."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line or "fatal" in line]
    return (errors or lines or ["it gives no reason"])[0]
