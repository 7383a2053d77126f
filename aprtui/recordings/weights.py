"""Weights that a recording has by name: read from the model file that was recorded."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprtui.errors import UnreadableError, UsageError
from aprtui.model.digest import file_digest
from aprtui.model.model_file import ModelFile
from aprtui.model.open_file import open_model_file
from aprtui.model.weights import stored_tensor
from aprtui.oracle.transformers_model import AttentionKind, DataType
from aprtui.recordings.format import OpSet, RootKind
from aprtui.recordings.memory import NamedWeights
from aprtui.recordings.reading import Recording
from aprtui.recordings.recorders.modules import folder_digest, load_module
from aprtui.recordings.recorders.torch import named_storages

Bytes = NDArray[np.uint8]


class FileWeights:
    """The tensors of a model file by name."""

    def __init__(self, file: ModelFile) -> None:
        self._file = file

    def weight_bytes(self, name: str, size: int) -> Bytes | None:
        entry = self._file.tensors.get(name)
        stored = None if entry is None else stored_tensor(self._file, entry)
        if stored is None or stored.data.size != size:
            return None
        return stored.data.reshape(-1)


class TransformersWeights:
    """Parameters and buffers of a model of transformers by the names that they have there."""

    def __init__(self, module: Any) -> None:
        self._storages = named_storages(module)

    def weight_bytes(self, name: str, size: int) -> Bytes | None:
        storage = self._storages.get(name)
        if storage is None or storage.nbytes() != size:
            return None
        return np.frombuffer(memoryview((ctypes.c_char * size).from_address(storage.data_ptr())).cast("B"), np.uint8)


class NoWeights:
    """Of a recording that has all its weights by value."""

    def weight_bytes(self, _name: str, _size: int) -> Bytes | None:
        return None


def weights_of_recording(recording: Recording, given: Path | None) -> NamedWeights:
    """Where a recording's weights are: in the model `given`, or in the one that it names.

    Raises `UsageError` for another model than the recorded one, `UnreadableError` where it is not there.
    """
    named = any(
        root.kind is RootKind.WEIGHT and root.blob is None for graph in recording.graphs for root in graph.roots
    )
    if not named:
        return NoWeights()
    model = recording.header.model
    path = given or (Path(model.path) if model else None)
    if path is None:
        raise UsageError(f"{recording.path}: has its weights by name, and names no model: give it with --model")
    if not path.exists():
        raise UnreadableError(f"{path}: the model that {recording.path} names is not there: give it with --model")
    file = None if path.is_dir() else open_model_file(path)
    digest = folder_digest(path) if file is None else file_digest(*file.paths)
    if model is not None and model.sha256 is not None and digest != model.sha256:
        raise UsageError(f"{path}: is not the model that was recorded (sha256 {model.sha256[:12]}…): give that one")
    if recording.header.ops is OpSet.ATEN or file is None:
        return TransformersWeights(_loaded(recording, path))
    return FileWeights(file)


def _loaded(recording: Recording, path: Path) -> Any:
    """The module of transformers that was recorded."""
    settings = recording.header.engine.settings
    try:
        kind, attention = DataType(settings["dtype"]), AttentionKind(settings["attention"])
    except (KeyError, ValueError) as error:
        raise UnreadableError(f"{recording.path}: does not say what transformers computed in: record again") from error
    return load_module(path, kind, attention, None).module
