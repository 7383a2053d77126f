"""A recording as a capture, written to a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aprtui.errors import AprtuiError, UnreadableError, printable
from aprtui.model.digest import file_digest
from aprtui.model.model import Model, load_model
from aprtui.model.open_file import open_model_file
from aprtui.model.split_files import model_stem
from aprtui.oracle.llamacpp_stages import FUSED, StagePlaces
from aprtui.oracle.requests import Evaluation, planned_manifest
from aprtui.progress import Progress
from aprtui.recordings.captures.stage_values import stage_values
from aprtui.recordings.format import OpSet
from aprtui.recordings.reading import Recording
from aprtui.trace.aprt import write_aprt, write_atomically
from aprtui.trace.capture import PROVENANCE
from aprtui.trace.graph.stage import Node
from aprtui.trace.manifest import EngineInfo, relative_path
from aprtui.trace.writer import CaptureWriter, require_usable

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class WrittenCapture:
    """What a recording has become: its stages, their bytes, and what a person should know."""

    nodes: tuple[Node, ...]
    size: int
    notes: tuple[str, ...]


def write_as_capture(
    recording: Recording, model: Path | None, directory: Path, progress: Progress, *, overwrite: bool = False
) -> WrittenCapture:
    """Write the stages that the nodes of `recording` are as a capture to `directory`.

    `model` is the file that was recorded, where it is not where the recording says. With a model of a known
    architecture the capture has a manifest; without, only the names of nodes tell its stages.
    Raises `UsageError`, `UnreadableError` or `EngineError`.
    """
    require_usable(directory, overwrite)
    known = recorded_model(recording, model)
    places = None if known is None else StagePlaces.of_model(known)
    found = stage_values(recording, None if known is None else known.graph, places, progress)
    if not found.values:
        raise UnreadableError(
            f"{recording.path}: no op of it is a stage that is known: name some, aprtui record names {recording.path}"
        )
    if known is not None and recording.header.ops is OpSet.GGML:
        values = {node: values for node, values in found.values.items() if node in known.graph.order}
        _write_with_manifest(recording, known, values, directory, overwrite)
    else:
        _write_plain(recording, known, found.values, directory)
    size = sum(values.nbytes for values in found.values.values())
    return WrittenCapture(tuple(found.values), size, found.notes)


def recorded_model(recording: Recording, given: Path | None) -> Model | None:
    """The model that was recorded, where it is at hand and of an architecture that is known here."""
    stated = recording.header.model
    path = given or (Path(stated.path) if stated else None)
    if path is None or not path.is_file():
        return None
    try:
        digest = file_digest(*open_model_file(path, headers_only=True).paths)
        return load_model(path) if stated is None or stated.sha256 in (None, digest) else None
    except AprtuiError:
        return None


def _write_with_manifest(
    recording: Recording, model: Model, values: Mapping[Node, Floats], directory: Path, overwrite: bool
) -> None:
    header = recording.header
    done = recording.graphs[-1].position + recording.graphs[-1].count
    evaluation = Evaluation(header.tokens[:done], header.text, recording.graphs[0].count)
    settings = ", ".join(f"{name} {value}" for name, value in header.engine.settings.items())
    mode = "weights repacked" if header.engine.settings.get("repack") == "on" else "weights as in the file"
    runs_on = "cpu" if header.engine.settings.get("gpu_layers", "0") == "0" else "gpu"
    engine = EngineInfo(header.engine.name, header.engine.version, runs_on, "", settings, mode, {})
    manifest = planned_manifest(model, evaluation, engine, values.keys(), FUSED)
    writer = CaptureWriter(directory, manifest, overwrite=overwrite)
    try:
        for node, found in values.items():
            writer.put(node, 0, found, None)
        writer.finish(manifest)
    finally:
        writer.close()


def _write_plain(recording: Recording, model: Model | None, values: Mapping[Node, Floats], directory: Path) -> None:
    header = recording.header
    for node, found in values.items():
        write_aprt(directory / relative_path(node), node.layer, found)
    name = model.name if model else model_stem(Path(header.model.path)) if header.model else None
    lines = {
        "model": name, "prompt": header.text, "tokens": str(list(header.tokens)),
        "token_count": str(sum(graph.count for graph in recording.graphs)),
        "engine": f"{header.engine.name} {header.engine.version}", "complete": str(header.complete).lower(),
        "recorded_in": str(recording.path),
    }  # fmt: skip
    text = "".join(f"{key}: {printable(value)}\n" for key, value in lines.items() if value)
    write_atomically(directory / PROVENANCE, f"# stages of a recording\n{text}".encode())
