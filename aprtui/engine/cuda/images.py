"""Kernel images: the code of all kernel files for one architecture, from where it is quickest to have.

First the user's cache, by digest of the sources, architecture and compiler; then what the wheel brought; then nvcc;
then NVRTC. Code of a newer major version of CUDA than the driver's cannot be loaded, and is passed over.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aprtui.engine.cuda.compilers import Compiler, CompilerError, Nvrtc, Version, find_nvcc
from aprtui.engine.cuda.packaged import packaged_images
from aprtui.engine.cuda.sources import KernelImages, kernel_files, source_digest
from aprtui.errors import EngineError
from aprtui.progress import Progress
from aprtui.resources import kernel_image_cache


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
