"""What a source holds, read as a format, by a mapping file, or as what it is recognised as."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from aprtui.errors import UnreadableError, UsageError
from aprtui.importing.formats.registry import format_named, format_of, sample_format_of
from aprtui.importing.import_format import PartChoice
from aprtui.importing.mapping import TensorMapping, read_mapping_file
from aprtui.importing.source import READERS, Source, read_tensors, tensor_files
from aprtui.trace.capture import is_capture
from aprtui.trace.graph.stage_graph import StageGraph


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """How a source is to be read: as a format, by a mapping file, or as what it is recognised as."""

    format_name: str | None = None
    mapping: Path | None = None
    choice: PartChoice = field(default_factory=PartChoice)
    graph: StageGraph | None = None
    """That of the model that was run, where it is known."""
    model_name: str = ""


def contents(path: Path, request: ImportRequest) -> tuple[Source, TensorMapping]:
    """The tensors at `path` and the rules for them. Raises `UsageError` and `UnreadableError`."""
    named = request.format_name
    if request.mapping is not None:
        mapping = read_mapping_file(request.mapping)
        if request.choice.sequence is not None and named is None:
            mapping = mapping.of_sequence(request.choice.sequence)
        if named is None:
            return Source(path, read_tensors(path)), mapping
        source, _ = format_named(named).read(path, request.choice, request.graph)
        return source, mapping
    entry = format_of(path) if named is None else format_named(named)
    if entry is None:
        raise UnreadableError(unknown_source(path))
    try:
        source, mapping = entry.read(path, request.choice, request.graph)
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read as {entry.name}: {error.strerror or error}") from error
    return replace(source, facts={"format": entry.name, **source.facts}), mapping


def unknown_source(path: Path) -> str:
    """Why nothing can be read at `path`, and what to do."""
    if not path.exists():
        return f"{path}: does not exist: expected a capture, or one of another tool"
    if is_capture(path):
        return f"{path}: is a capture already: aprtui replay {path} judges it, aprtui export {path} converts it"
    samples = sample_format_of(path)
    if samples is not None:
        return f"{path}: {samples.name} holds parts of tensors, which are no capture: aprtui diff CAPTURE {path}"
    if any(file.suffix in READERS for file in tensor_files(path)):
        return f"{path}: tensors, but nothing says which stages they are: aprtui import {path} --guess proposes it"
    return f"{path}: of no format that is known: --as FORMAT names one, --help lists them"


def stated_tokens(source: Source, mapping: TensorMapping) -> tuple[int, ...] | None:
    """The token ids that a mapping states, or names a tensor of. Raises `UsageError` for a tensor that holds none."""
    if not isinstance(mapping.tokens, str):
        return mapping.tokens
    tensor = source.tensors.get(mapping.tokens)
    values = None if tensor is None else tensor.integers()
    if values is None or values.size != max(values.shape, default=1) or (values < 0).any():
        raise UsageError(f"tokens: {mapping.tokens!r:.80} is no tensor of the ids of one sequence in {source.path}")
    return tuple(int(value) for value in values.reshape(-1))
