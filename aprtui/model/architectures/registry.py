"""The supported architectures. A new one is a file of its own, an import and an entry of the list here."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from types import MappingProxyType

from aprtui.errors import UnreadableError
from aprtui.model.architectures.base import Architecture
from aprtui.model.architectures.llama import LLAMA
from aprtui.model.architectures.qwen2 import QWEN2
from aprtui.model.architectures.qwen3 import QWEN3
from aprtui.model.gguf_file import GgufFile

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        architecture.name: architecture
        for architecture in (
            LLAMA,
            QWEN2,
            QWEN3,
        )
    }
)  # fmt: skip
"""By the name that GGUF gives them."""


def architecture_of(file: GgufFile) -> Architecture:
    """The architecture of `file`. Raises `UnreadableError` for one that is not supported."""
    name = file.metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise UnreadableError(
            f"{file.path}: general.architecture is {reprlib.repr(name)}, supported are {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]
