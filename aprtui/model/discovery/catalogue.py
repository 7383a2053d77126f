"""What the models on this machine are: architecture, types, size, and whether they can be run, in the words that
opening them would give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from aprtui.errors import UnreadableError
from aprtui.model.discovery.places import FoundModel
from aprtui.model.model import bound_model
from aprtui.model.model_file import ModelFile
from aprtui.model.open_file import open_model_file
from aprtui.model.split_files import parts_there
from aprtui.model.weights import type_name


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model file and what its header says; `architecture` is empty where that cannot be read.

    `files` and `size` are those of all parts, in bytes. `types` counts tensors, the most frequent first. `problem` says
    why the model cannot be run, empty for one that can.
    """

    found: FoundModel
    files: int
    size: int
    architecture: str = ""
    quantization: str = ""
    types: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    problem: str = ""

    @property
    def can_run(self) -> bool:
        return not self.problem

    @property
    def path(self) -> Path:
        return self.found.path


def describe(found: FoundModel) -> ListedModel:
    """Read the header of a model file; whatever is wrong with it is said in the result."""
    parts = parts_there(found.path)
    size = sum(map(_size, parts))
    architecture, quantization = "", ""
    types: Mapping[str, int] = {}
    try:
        file = open_model_file(found.path, headers_only=True)
        architecture = str(file.metadata.get("general.architecture", ""))
        counts = Counter(_type_of(file, name) for name in file.tensors)
        types = MappingProxyType(dict(counts.most_common()))
    except (UnreadableError, OSError) as error:
        return ListedModel(found, len(parts), size, architecture, quantization, types, str(error))
    problem = refusal(file)
    if not problem:
        quantization = bound_model(file).quantization
    return ListedModel(found, len(file.paths), file.size, architecture, quantization, types, problem)


def refusal(file: ModelFile) -> str:
    """Why the model in an opened file cannot be run; empty where it can."""
    try:
        bound_model(file)
    except (UnreadableError, OSError, MemoryError) as error:
        return str(error) or type(error).__name__
    return ""


def _type_of(file: ModelFile, tensor: str) -> str:
    conversion = file.conversion(tensor)
    return type_name(file.tensors[tensor].type) if conversion is None else conversion.name


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
