"""Kernel images: the code of all kernel files for one architecture, from where it is quickest to have.

First the user's cache, by digest of the sources, architecture and compiler; then what the wheel brought, fat binaries
of all targets beside the kernel files; then nvcc; then NVRTC. Code of a newer major version of CUDA than the driver's
cannot be loaded, and is passed over.

`python -m aprtui.engine.cuda.images` writes the fat binaries into a checkout, before a wheel is built from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from aprtui.engine.cuda.compilers import Compiler, CompilerError, Nvrtc, Version, find_nvcc
from aprtui.errors import EngineError
from aprtui.progress import Progress
from aprtui.resources import kernel_image_cache, kernels

_ENTRY_POINT = re.compile(r"^KERNEL\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(", re.MULTILINE)

TARGETS = (75, 80, 86, 89, 90, 100, 110, 120)
"""Compute capabilities from Turing to Blackwell; devices newer than the last compile its portable code."""


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


def kernel_images(capability: Version, driver: Version, progress: Progress) -> KernelImages:
    """Images for a device of `capability` under a driver that supports CUDA `driver`.

    Raises `EngineError` with what each way failed at, and what to install.
    """
    architecture, sources = f"sm_{capability[0]}{capability[1]}", source_digest()
    found = _cached(sources, architecture, driver) or packaged_images(sources, driver)
    if found is not None:
        return found
    failures = []
    ways: tuple[Callable[[], Compiler], ...] = (find_nvcc, Nvrtc)
    for find in ways:
        try:
            compiler = find()
            if compiler.version[0] > driver[0]:
                raise CompilerError(f"{_named(compiler)} is newer than the driver (CUDA {driver[0]}.{driver[1]})")
            return _compiled(compiler, sources, architecture, progress)
        except CompilerError as error:
            failures.append(str(error))
    suffix = f"=={driver[0]}.*" if driver[0] >= 13 else f"-cu{driver[0]}"
    raise EngineError(
        f"no kernels for {architecture}: {'; '.join(failures)}: install the CUDA toolkit {driver[0]}.x and g++, or "
        f"pip install 'nvidia-cuda-nvrtc{suffix}' 'nvidia-cuda-runtime{suffix}'"
    )


def _named(compiler: Compiler) -> str:
    return f"{compiler.name} {compiler.version[0]}.{compiler.version[1]}"


def _compiled(compiler: Compiler, sources: str, architecture: str, progress: Progress) -> KernelImages:
    """Compile all files, a few at a time, and keep them."""
    files, code, doing = kernel_files(), {}, f"compiling kernels for {architecture}"
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for done, (path, image) in enumerate(
            zip(files, pool.map(lambda path: compiler.compile(path, architecture), files), strict=True)
        ):
            progress(doing, done + 1, len(files))
            code[path.stem] = image
    _keep(code, _cache_folder(sources, architecture, _named(compiler)))
    return KernelImages(code, _named(compiler))


def _cache_folder(sources: str, architecture: str, compiler: str) -> Path:
    return kernel_image_cache() / f"{sources}-{architecture}-{compiler.replace(' ', '-')}"


def _keep(code: Mapping[str, bytes], folder: Path) -> None:
    """Write the images as a whole or not at all; a cache that cannot be written costs the next start, not this one."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent))
        for name, image in code.items():
            (partial / f"{name}.cubin").write_bytes(image)
        shutil.rmtree(folder, ignore_errors=True)  # it is there only if it could not be used
        partial.replace(folder)
    except OSError:
        return


def _cached(sources: str, architecture: str, driver: Version) -> KernelImages | None:
    """Images that were compiled here before, by whichever compiler the driver takes."""
    names = {path.stem for path in kernel_files()}
    for folder in sorted(kernel_image_cache().glob(f"{sources}-{architecture}-*-*"), reverse=True):
        _, _, compiler, version = folder.name.split("-")
        code = {path.stem: path.read_bytes() for path in sorted(folder.glob("*.cubin"))}
        if code.keys() == names and all(code.values()) and int(version.partition(".")[0]) <= driver[0]:
            return KernelImages(code, f"{compiler} {version}")
    return None


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
