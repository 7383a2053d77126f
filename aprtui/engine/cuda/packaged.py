"""The kernel images that a wheel brings: fat binaries of all targets, beside the kernel files.

`python -m aprtui.engine.cuda.packaged` writes them into a checkout, before a wheel is built from it.
"""

from __future__ import annotations

import json
import sys

from aprtui.engine.cuda.compilers import CompilerError, Version, find_nvcc
from aprtui.engine.cuda.sources import KernelImages, kernel_files, source_digest
from aprtui.resources import kernels

TARGETS = (75, 80, 86, 89, 90, 100, 110, 120)
"""Compute capabilities from Turing to Blackwell; devices newer than the last compile its portable code."""


def packaged_images(sources: str, driver: Version) -> KernelImages | None:
    """The wheel's images, if there are any, made from these very sources, and of no newer CUDA than the driver's."""
    folder = kernels() / "images"
    try:
        about = json.loads((folder / "about.json").read_text())
        made_from, (major, minor) = about["sources"], about["version"]
        code = {path.stem: (folder / f"{path.stem}.fatbin").read_bytes() for path in kernel_files()}
    except (OSError, ValueError, KeyError, TypeError):
        return None  # there are none, or not all of them: kernels are compiled instead
    if made_from != sources or major > driver[0]:
        return None
    return KernelImages(code, f"wheel, nvcc {major}.{minor}")


def write_packaged_images() -> None:
    """Compile all kernel files for all targets. Raises `CompilerError`."""
    compiler, folder = find_nvcc(), kernels() / "images"
    folder.mkdir(exist_ok=True)
    for path in kernel_files():
        (folder / f"{path.stem}.fatbin").write_bytes(compiler.fat_binary(path, TARGETS))
    # Last: without it there are no images.
    (folder / "about.json").write_text(json.dumps({"sources": source_digest(), "version": compiler.version}))


if __name__ == "__main__":
    try:
        write_packaged_images()
    except CompilerError as error:
        sys.exit(f"aprtui: {error}: install the CUDA toolkit and g++")
