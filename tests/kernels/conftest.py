"""Emulated kernels: compiled once for all runs, into pytest's cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aprtui import resources
from tests.kernels.emulated import Image, build


@pytest.fixture(scope="session")
def image_of(request: pytest.FixtureRequest) -> Callable[..., Image]:
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
