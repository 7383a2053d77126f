"""What every format of model files is read as: metadata by the keys of GGUF, tensors by its names and types."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aprtui.model.conversion import Conversion
from aprtui.model.gguf_file import TensorEntry
from aprtui.trace.graph.config import RopeLayout


class ModelFile(Protocol):
    """An opened model file. `path` is that of the first part, `size` the bytes of all."""

    @property
    def path(self) -> Path: ...

    @property
    def paths(self) -> tuple[Path, ...]: ...

    @property
    def size(self) -> int: ...

    @property
    def metadata(self) -> Mapping[str, Any]: ...

    @property
    def tensors(self) -> Mapping[str, TensorEntry]: ...

    @property
    def refusal(self) -> str:
        """Why the metadata describe no model that can be run, where that is known already; else empty."""
        ...

    @property
    def rope_layout(self) -> RopeLayout | None:
        """Which channels of Q and K belong together in RoPE, where the file says so; else the architecture does."""
        ...

    def location(self, entry: TensorEntry) -> tuple[Path, int]:
        """The file that holds a tensor, and the tensor's offset from its start."""
        ...

    def tensor_bytes(self, entry: TensorEntry, size: int) -> NDArray[np.uint8]:
        """The `size` bytes of a tensor in the type of its entry, read-only; they must lie inside its file."""
        ...

    def conversion(self, name: str) -> Conversion | None:
        """How a tensor is stored, where that is not the type of its entry."""
        ...
