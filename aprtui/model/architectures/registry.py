"""The supported architectures: every module of this folder that has an `ARCHITECTURE`."""

from __future__ import annotations

import importlib
import pkgutil
import reprlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from aprtui.errors import UnreadableError
from aprtui.model import architectures
from aprtui.model.architectures.base import Architecture
from aprtui.model.model_file import ModelFile


def _found() -> Iterator[Architecture]:
    for module in pkgutil.iter_modules(architectures.__path__, f"{architectures.__name__}."):
        if module.name != __name__:
            found = getattr(importlib.import_module(module.name), "ARCHITECTURE", None)
            if found is not None:
                yield found


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType({found.name: found for found in _found()})
"""By the name that GGUF gives them."""


def architecture_of(file: ModelFile) -> Architecture:
    """The architecture of `file`. Raises `UnreadableError` for one that is not supported."""
    if file.refusal:
        raise UnreadableError(file.refusal)
    name = file.metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise UnreadableError(
            f"{file.path}: general.architecture is {reprlib.repr(name)}, supported are {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]
