"""Emulated kernels: compiled once for all runs, into pytest's cache."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from aprtui import resources
from tests.kernels.emulated import UNDEFINED_BEHAVIOUR, Image, build
from tests.kernels.machine_code import Code, machine_code_of
from tests.kernels.on_device import DeviceKernels

Images = Callable[..., Image]


@pytest.fixture(scope="session")
def build_image(request: pytest.FixtureRequest) -> Images:
    """Gives the `Image` of `kernels/<name>.cu`, or of a path, built with the given extra flags."""
    cache = request.config.cache
    assert cache is not None, "emulated kernels are kept in pytest's cache: run without -p no:cacheprovider"
    folder = cache.mkdir("emulated-kernels")
    images: dict[tuple[Path, tuple[str, ...]], Image] = {}

    def image(source: str | Path, flags: tuple[str, ...] = ()) -> Image:
        path = source if isinstance(source, Path) else resources.kernels() / f"{source}.cu"
        if (path, flags) not in images:
            images[path, flags] = Image(build(path, folder, flags))
        return images[path, flags]

    return image


@pytest.fixture(scope="session")
def image_cache(request: pytest.FixtureRequest) -> Path:
    """A folder for images that NVRTC compiled."""
    assert request.config.cache is not None, "images are kept in pytest's cache: run without -p no:cacheprovider"
    return request.config.cache.mkdir("nvrtc-images")


@pytest.fixture(scope="session")
def machine_code(image_cache: Path) -> dict[str, Code]:
    """All kernels as NVRTC compiles them for sm_90, by name; for tests of the group `nvdisasm`. One process compiles
    them, the others wait: it is a minute of work."""
    with (image_cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return machine_code_of(image_cache)


@pytest.fixture(scope="session")
def device_kernels() -> Iterator[DeviceKernels]:
    with closing(DeviceKernels()) as kernels:
        yield kernels


PARAMS = [
    "plain",
    pytest.param("undefined", marks=pytest.mark.slow),
    # Not named among the skipped of each run: without a GPU these would be as many as all others.
    pytest.param("device", marks=[pytest.mark.slow, pytest.mark.group("gpu")]),
]


@pytest.fixture(scope="session", params=PARAMS)
def image_of(request: pytest.FixtureRequest, build_image: Images) -> Images:
    """The same for tests of our kernels: each runs again where undefined behaviour traps, and on a GPU."""
    if request.param == "device":
        kernels = request.getfixturevalue("device_kernels")
        return lambda source: kernels
    flags = UNDEFINED_BEHAVIOUR if request.param == "undefined" else ()
    return lambda source: build_image(source, flags)
