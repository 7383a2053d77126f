"""A folder of tensors that says itself which stages they are, by a mapping file in it."""

from __future__ import annotations

from pathlib import Path

from aprtui.importing.import_format import ImportFormat, PartChoice
from aprtui.importing.mapping import TensorMapping, read_mapping_file
from aprtui.importing.source import Source, read_tensors
from aprtui.trace.export.tensors import MAPPING_FILE
from aprtui.trace.graph.stage_graph import StageGraph


def _recognises(path: Path) -> bool:
    return (path / MAPPING_FILE).is_file()


def _read(path: Path, choice: PartChoice, graph: StageGraph | None) -> tuple[Source, TensorMapping]:
    return Source(path, read_tensors(path)), read_mapping_file(path / MAPPING_FILE)


FORMAT = ImportFormat(
    "mapped", f"a folder of .npy, .npz, .safetensors or .pt files with a mapping in {MAPPING_FILE}", _recognises, _read
)
