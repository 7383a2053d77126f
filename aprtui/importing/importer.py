"""The way from another tool's files to a capture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from aprtui.errors import UnreadableError, UsageError
from aprtui.importing.formats.registry import format_named, format_of, sample_format_of
from aprtui.importing.guess import guess
from aprtui.importing.import_format import PartChoice
from aprtui.importing.planning import plan
from aprtui.importing.proposal import Confidence, GuessedMapping
from aprtui.importing.ranks.result import description_of, join_ranks
from aprtui.importing.ranks.sources import rank_numbers
from aprtui.importing.reading import ImportRequest, contents, stated_tokens, unknown_source
from aprtui.importing.samples import write_pair
from aprtui.importing.source import READERS, Source, read_tensors, tensor_files
from aprtui.importing.writing import Imported, write_import
from aprtui.model.latent_forms import other_form
from aprtui.model.model import Model
from aprtui.progress import Progress
from aprtui.trace.capture import Capture, is_capture
from aprtui.trace.export.tensors import MAPPING_FILE
from aprtui.trace.graph.stage_graph import StageGraph, graph_for


def import_capture(
    path: Path, directory: Path, request: ImportRequest, progress: Progress, *, overwrite: bool = False
) -> Imported:
    """Write the source at `path` as a capture to `directory`. Raises `UsageError`, `UnreadableError`, `EngineError`."""
    source, mapping = contents(path, request)
    tokens = source.tokens or stated_tokens(source, mapping)
    # Of a format that tells what its tensors are, the others are none of its stages.
    of_user = request.mapping is not None or (path / MAPPING_FILE).is_file()
    found = plan(mapping, {name: tensor for name, tensor in source.tensors.items() if name != mapping.tokens})
    found = found if of_user else replace(found, unused=())
    facts = dict(mapping.facts)
    if request.model_name:
        facts.setdefault("model", request.model_name)
    return write_import(replace(source, tokens=tokens), found, directory, facts, progress, overwrite=overwrite)


def propose_mapping(path: Path, request: ImportRequest) -> GuessedMapping:
    """A mapping for the tensors at `path`, guessed; of latent attention in the form whose stages they are named after.

    Raises `UsageError` and `UnreadableError`.
    """
    if is_capture(path):
        raise UnreadableError(unknown_source(path))
    source = Source(path, read_tensors(path))
    if request.format_name is not None:
        source, _ = format_named(request.format_name).read(path, request.choice, request.graph)
    found = [guess(source, graph) for graph in _forms(request.graph)]
    return min(found, key=lambda proposal: sum(rule.confidence is Confidence.DOUBTFUL for rule in proposal.rules))


def _forms(graph: StageGraph | None) -> Iterator[StageGraph | None]:
    """The graph of the model that was run, and that of the form of latent attention that its file does not have."""
    yield graph
    if graph is not None and graph.config is not None and graph.config.latent is not None:
        yield graph_for(other_form(graph.config))


def _holds_tensors(path: Path) -> bool:
    return path.is_dir() and any(file.suffix in READERS for file in tensor_files(path))


@contextmanager
def as_captures(
    a: Path,
    b: Path,
    model: Callable[[], Model | None],
    choice: PartChoice,
    tokens: Sequence[int] | None,
    announce: Callable[[str], None],
    progress: Progress,
) -> Iterator[tuple[Path, Path]]:
    """Captures of the parts that one of two sides has, where that one is a dump of parts of tensors.

    Raises `UsageError` where both are.
    """
    dumps = [path for path in (a, b) if not is_capture(path) and sample_format_of(path) is not None]
    if len(dumps) != 1:
        raise UsageError(f"{a} and {b}: both hold parts of tensors: hold each against a whole capture")
    (dump,), other = dumps, b if dumps == [a] else a
    loaded = model()
    entry = sample_format_of(dump)
    assert entry is not None
    samples = entry.read(dump, choice, loaded)
    graph = None if loaded is None else loaded.graph
    with as_capture(other, lambda: graph, announce, progress) as whole, TemporaryDirectory(prefix="aprtui-") as folder:
        left, right, notes = write_pair(samples, Capture.open(whole), tokens, Path(folder))
        announce(f"{dump}: read as {entry.name}")
        for note in notes:
            announce(f"{dump}: {note}")
        yield (right, left) if dump == a else (left, right)


@contextmanager
def as_capture(
    path: Path, graph: Callable[[], StageGraph | None], announce: Callable[[str], None], progress: Progress
) -> Iterator[Path]:
    """A folder or file to read in place of `path`: itself, or a capture that is made of it and goes afterwards.

    `graph` gives that of the model that was run, where it is known; it is called for other tools' captures only.
    What is of no known format is left as it is: opening it says what is wrong with it.
    """
    if not is_capture(path) and rank_numbers(path):
        with _of_ranks(path, graph(), announce, progress) as whole:
            yield whole
        return
    entry = None if is_capture(path) else format_of(path)
    if entry is None:
        if not is_capture(path) and (_holds_tensors(path) or sample_format_of(path) is not None):
            raise UnreadableError(unknown_source(path))
        yield path
        return
    with TemporaryDirectory(prefix="aprtui-import-") as folder:
        target = Path(folder) / (path.stem or "capture")
        imported = import_capture(path, target, ImportRequest(entry.name, graph=graph()), progress)
        announce(f"{path}: read as {entry.name}: {len(imported.nodes)} stage tensors")
        for note in imported.notes:
            announce(f"{path}: {note}")
        yield target


@contextmanager
def _of_ranks(
    path: Path, graph: StageGraph | None, announce: Callable[[str], None], progress: Progress
) -> Iterator[Path]:
    """The ranks in `path`, put together as they say themselves. Raises `UsageError` where they do not say it."""
    with TemporaryDirectory(prefix="aprtui-ranks-") as folder:
        target = Path(folder) / (path.name or "capture")
        report = join_ranks(path, target, ImportRequest(graph=graph), description_of(path, None), progress)
        announce(f"{path}: {len(report.ranks)} ranks put together: {len(report.stages)} stage tensors")
        for note in report.missing:
            announce(f"{path}: {note}")
        yield target
