"""Mapping files: how side B's stages correspond to A's, where names or layers are not the same.

stages: {ffn_silu: hidden_act}     # A's stage: the name of B's files without their suffix
layers: {offset: 1}                # B's layer 1 is A's layer 0
layout: {q_post_rope: head-major [heads, tokens, dim]}   # as the layout solver words it; `stated` for as it is
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from aprtui.errors import UsageError
from aprtui.trace.archive import is_single_file
from aprtui.trace.capture import SUFFIXES, Capture, StageFile
from aprtui.trace.graph.names import graph_from_names, known_names
from aprtui.trace.graph.stage import MAX_LAYERS, Node, canonical_name
from aprtui.trace.graph.stage_graph import StageGraph
from aprtui.yaml_file import fields_of, read_settings

STATED = "stated"
"""The layout of a stage that is to be compared as it is."""


@dataclass(frozen=True, slots=True)
class StageMapping:
    """A mapping as read: B's file name for stages of A, how far B's layers are shifted, and layouts by stage."""

    stages: Mapping[str, str] = field(default_factory=dict)
    layer_offset: int = 0
    layouts: Mapping[str, str] = field(default_factory=dict)


def read_mapping(path: Path) -> StageMapping:
    """The mapping in a YAML file. Raises `UsageError`, naming file and field."""
    document = fields_of(read_settings(path), path, "the file", {"stages", "layers", "layout"})
    layers = fields_of(document.get("layers", {}), path, "layers", {"offset"})
    offset = layers.get("offset", 0)
    if not isinstance(offset, int) or isinstance(offset, bool) or abs(offset) > MAX_LAYERS:
        raise UsageError(f"{path}: layers.offset: expected a whole number")
    stages = _named(document.get("stages", {}), path, "stages")
    if any("/" in name or name.startswith(".") for name in stages.values()):
        raise UsageError(f"{path}: stages: expected names of files without folder and suffix")
    return StageMapping(stages, offset, _named(document.get("layout", {}), path, "layout"))


def _named(value: object, path: Path, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(entry, str) and entry for entry in value.values()):
        raise UsageError(f"{path}: {where}: expected stages with a name each")
    named = {canonical_name(str(stage)): entry for stage, entry in value.items()}
    unknown = named.keys() - set(known_names())
    if unknown:
        raise UsageError(f"{path}: {where}: no stage {min(unknown)!r}: there are {', '.join(known_names())}")
    return named


def mapped(b: Capture, graph: StageGraph, mapping: StageMapping) -> Capture:
    """Capture `b` with its files under the names and layers of side A, whose stages `graph` lists.

    A stage whose mapped file does not exist is listed as missing. Raises `UsageError` for a capture whose manifest says
    what its files are.
    """
    if b.manifest is not None:
        raise UsageError(f"--mapping: {b.path} states its stages in a manifest: leave it out")
    shifted = {_shifted(node, -mapping.layer_offset): file for node, file in b.files.items()}
    files = {node: file for node, file in shifted.items() if node is not None}
    # What lies in a layer where no capture has that stage (an embedding in layer 1) is found by its place.
    names = {stage: stage for stage in graph.names} | dict(mapping.stages)
    for stage, name in names.items():
        for node in (node for node in graph.nodes if node.stage == stage and (node not in files or name != stage)):
            path = _file_of(b, node, name, mapping.layer_offset)
            files.pop(node, None)
            own = _shifted(node, mapping.layer_offset)
            if path is not None and own is not None:
                files[node] = StageFile(own, path, None, inferred=True)
    stages = [*graph.names, *(node.stage for node in files)]
    layers = max([graph.layers, *(node.layer + 1 for node in files if node.layer is not None)])
    return replace(b, files=files, graph=graph_from_names(stages, layers))


def _shifted(node: Node, by: int) -> Node | None:
    if node.layer is None:
        return node
    return Node(node.layer + by, node.stage) if node.layer + by >= 0 else None


def _file_of(b: Capture, node: Node, name: str, offset: int) -> Path | None:
    folder = b.folder if node.layer is None else b.folder / f"layer-{node.layer + offset}"
    return next((folder / f"{name}{suffix}" for suffix in SUFFIXES if is_single_file(folder / f"{name}{suffix}")), None)
