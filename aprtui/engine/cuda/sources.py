"""Kernel files, what their code depends on, and that code once it is there."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aprtui.resources import kernels

_ENTRY_POINT = re.compile(r"^KERNEL\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class KernelImages:
    """Code by the stem of its kernel file, and where it is from, e.g. `nvcc 13.0`."""

    code: Mapping[str, bytes]
    origin: str

    @property
    def digest(self) -> str:
        """Names the code in manifests: 12 hexadecimal digits."""
        total = hashlib.sha256()
        for name in sorted(self.code):
            total.update(name.encode() + hashlib.sha256(self.code[name]).digest())
        return total.hexdigest()[:12]


def kernel_files() -> list[Path]:
    """The files with entry points, each of which becomes an image."""
    return sorted(kernels().glob("*.cu"))


def entry_points(source: Path) -> tuple[str, ...]:
    """The kernels of a file, in its order."""
    return tuple(_ENTRY_POINT.findall(source.read_text()))


def source_digest() -> str:
    """Digest of all that compiled code depends on: the kernel files and their headers."""
    total = hashlib.sha256()
    for path in sorted([*kernels().glob("*.cu"), *kernels().glob("*.cuh")]):
        total.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]
