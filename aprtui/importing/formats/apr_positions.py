"""`apr parity --per-op`: a tree of stage files for each position of the prompt.

`OUT/{cpu,gpu}/pos-%04d/layer-N/STAGE.bin` (aprender, `apr parity --per-op`): one token each, in APRT files. Attention
maps of a position have the keys so far only, and are left out.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np

from aprtui.errors import UnreadableError
from aprtui.importing.elements import ELEMENTS, Raw, SourceTensor
from aprtui.importing.import_format import ImportFormat, PartChoice
from aprtui.importing.mapping import SCOPES, Piece, Rule, SourceAxis, TensorMapping
from aprtui.importing.planning import MAPS
from aprtui.importing.source import Source
from aprtui.trace.aprt import read_aprt
from aprtui.trace.capture import claimed_files
from aprtui.trace.graph.ops import Scope
from aprtui.trace.graph.stage import ENTRY
from aprtui.trace.graph.stage_graph import StageGraph

_POSITION = re.compile(r"pos-(\d{4,9})")


def _positions(path: Path) -> dict[int, Path]:
    children = sorted(path.iterdir()) if path.is_dir() else []
    return {int(match[1]): child for child in children if (match := _POSITION.fullmatch(child.name)) and child.is_dir()}


def _recognises(path: Path) -> bool:
    return bool(_positions(path))


def _read(path: Path, choice: PartChoice, graph: StageGraph | None) -> tuple[Source, TensorMapping]:
    positions = _positions(path)
    if sorted(positions) != list(range(len(positions))) or not positions:
        raise UnreadableError(f"{path}: expected pos-0000, pos-0001, … without a gap, found {len(positions)}")
    tensors: dict[str, SourceTensor] = {}
    stages: dict[str, set[str]] = {}
    for number, folder in positions.items():
        for node, file in claimed_files(folder):
            if node.stage in MAPS:
                continue
            where = "" if node.layer is None else f"layer-{node.layer}/"
            name = f"pos-{number}/{where}{node.stage}"
            count = read_aprt(file).values.size
            tensors[name] = SourceTensor(name, (count,), ELEMENTS["F32"], partial(_bytes, file))
            stages.setdefault(node.stage, set()).add(where and "layer-{layer}/")
    axes = (SourceAxis.CHANNEL,)
    rules = []
    for stage, folders in stages.items():
        place = "" if SCOPES[stage] is Scope.MODEL else "layer-0/" if stage == ENTRY else "layer-{layer}/"
        if place.replace("-0/", "-{layer}/") in folders:
            rules.append(Rule(stage, Piece(f"pos-{{token}}/{place}{stage}", axes=axes)))
    notes = ("attention maps of single positions are left out",)
    return Source(path, tensors, None, {"engine": "apr"}, notes), TensorMapping(tuple(rules))


def _bytes(file: Path) -> Raw:
    return np.ascontiguousarray(read_aprt(file).values, "<f4").view(np.uint8)


FORMAT = ImportFormat("apr-positions", "apr parity --per-op: pos-0000/layer-0/STAGE.bin, …", _recognises, _read)
