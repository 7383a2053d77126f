"""Building the driver library that PyCUDA is tested on, and images of kernels for it."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import subprocess
from pathlib import Path

from aprtui.resources import kernels

EMULATOR = kernels() / "emulator"


def _undefined_functions() -> set[str]:
    """Driver functions that PyCUDA asks for when it is loaded."""
    spec = importlib.util.find_spec("pycuda")
    assert spec is not None and spec.origin is not None
    (library,) = Path(spec.origin).parent.glob("_driver*.so")
    symbols = subprocess.run(
        ["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True
    ).stdout
    return set(re.findall(r"\bcu[A-Z]\w+", symbols))


def build_fake_driver(cache: Path) -> Path:
    """The folder of a `libcuda.so.1` with all functions that PyCUDA needs: ours, others answer "not supported"."""
    source = (EMULATOR / "fake_driver.cpp").read_text()
    ours = set(re.findall(r"^API (\w+)\(", source, re.MULTILINE))
    others = sorted(_undefined_functions() - ours)
    text = source + "".join(f"API {name}() {{ return NOT_SUPPORTED; }}\n" for name in others)
    digest = hashlib.sha256(text.encode() + (EMULATOR / "guarded_memory.h").read_bytes()).hexdigest()[:16]
    folder = cache / digest
    target = folder / "libcuda.so.1"
    if not target.exists():
        folder.mkdir(exist_ok=True)
        partial = target.with_suffix(".partial")
        flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-Wl,-soname,libcuda.so.1"]
        command: list[str | Path] = ["g++", "-x", "c++", *flags, "-I", EMULATOR, "-", "-o", partial]
        subprocess.run(command, input=text, text=True, check=True)
        partial.replace(target)
    return folder
