"""Artifacts: captures, models and their like in some folders, searched again and again, read again when they change."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

from aprtui.contracts.documents.loading import SUFFIXES
from aprtui.contracts.documents.reader import read_document
from aprtui.engine.sessions.session_file import is_session, session_summary
from aprtui.errors import AprtuiError, UnreadableError
from aprtui.model.discovery.catalogue import refusal
from aprtui.model.discovery.places import FoundModel
from aprtui.model.open_file import SUFFIXES as MODEL_SUFFIXES
from aprtui.model.open_file import open_model_file
from aprtui.model.split_files import first_part, parts_there
from aprtui.progress import Cancelled
from aprtui.recordings.format import DATA_NAME
from aprtui.recordings.format import FILE_NAME as GRAPH_NAME
from aprtui.recordings.format import FORMAT as RECORDING
from aprtui.recordings.listing import listed_nodes
from aprtui.recordings.reading import Recording
from aprtui.trace.agent_trace import is_agent_trace, read_agent_trace
from aprtui.trace.archive import is_archive
from aprtui.trace.capture import claimed_files, is_layer_directory, provenance_tokens, read_provenance
from aprtui.trace.manifest import FILE_NAME, FORMAT, read_manifest
from aprtui.tui.screens.browse.facts import (
    Facts,
    bare_facts,
    capture_facts,
    contract_facts,
    conversation_facts,
    engine_name,
    model_facts,
    prompt_text,
    recording_facts,
    session_facts,
)

DEPTH = 4
"""Levels of folders below a given one that are searched."""

MOST_FOLDERS = 2000
"""Folders that are searched in all: a home directory must not keep the disk busy for ever."""

MOST_ARTIFACTS = 500
"""Captures and models that are listed; contracts have a limit of their own, since a project may have hundreds."""

MOST_CONTRACTS = 200

MOST_GRAPH_BYTES = 1 << 25
"""Of a recording that is read to be listed: its file of graphs is JSON, which takes a second for so much."""

_SKIPPED = frozenset({"node_modules", "__pycache__", "site-packages"})
_MANIFEST_START = 256


_CONTRACT_START = 1 << 16
"""Bytes of a YAML file in which the word of a contract is looked for."""


DELETED = "was deleted"
"""The problem of an artifact that is no longer there."""


class ArtifactKind(StrEnum):
    """In the order of the list."""

    CAPTURE = "capture"
    RECORDING = "recording"
    """Of an op graph: its nodes stand for the stages that they are."""
    MODEL = "model"
    PAIR = "pair"
    SESSION = "session"
    """A run that was recorded."""
    CONVERSATION = "conversation"
    """Of an agent, as an agent trace has it."""
    CONTRACT = "contract"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A capture, a model, a session, a conversation, a contract, or a pair of captures that were compared: `path` is
    then the reference.

    What is not known is None or empty; `problem` says why it cannot be read, `refusal` why a model cannot be run.
    `name` is what a model is called that lies in a cache of other tools. `text` is the prompt of a capture or a
    session, the first of a conversation, the description of a contract.
    """

    path: Path
    kind: ArtifactKind
    modified: float
    model: str = ""
    engine: str = ""
    mode: str = ""
    layers: int | None = None
    tokens: int | None = None
    files: int = 0
    bytes: int = 0
    complete: bool | None = None
    text: str = ""
    faults: tuple[str, ...] = ()
    facts: Facts = ()
    problem: str = ""
    other: Path | None = None
    name: str = ""
    refusal: str = ""

    @property
    def key(self) -> tuple[Path, ...]:
        """The path, or the two of a pair: what tells it from all others."""
        return (self.path,) if self.other is None else (self.path, self.other)

    @property
    def is_capture(self) -> bool:
        """Whether it has stages: a recording has those that its nodes are."""
        return self.kind in (ArtifactKind.CAPTURE, ArtifactKind.RECORDING)

    @property
    def is_deleted(self) -> bool:
        return self.problem == DELETED

    @property
    def is_model(self) -> bool:
        return self.kind is ArtifactKind.MODEL

    @property
    def has_contents(self) -> bool:
        """Whether there is something in it that Browse shows beside the preview."""
        return self.is_capture or self.kind in (ArtifactKind.MODEL, ArtifactKind.CONVERSATION)


@dataclass(frozen=True, slots=True)
class Listing:
    """The artifacts in the order of the folders; folders that cannot be read, and what was left out, in words."""

    artifacts: tuple[Artifact, ...] = ()
    problems: tuple[str, ...] = ()
    left_out: str = ""

    def keeping(self, before: Listing, artifact: Artifact | None) -> Listing:
        """With `artifact` where it stood `before`, also if it was deleted: no other one may slip under the cursor."""
        if artifact is None or any(found.key == artifact.key for found in self.artifacts):
            return self
        at = next(index for index, found in enumerate(before.artifacts) if found.key == artifact.key)
        deleted = replace(artifact, problem=DELETED)
        return replace(self, artifacts=(*self.artifacts[:at], deleted, *self.artifacts[at:]))


_Signature = tuple[int, ...]


class Finder:
    """Searches folders; an artifact that has not changed since the last search is not read again."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[_Signature, Artifact]] = {}

    def search(
        self, roots: Iterable[Path], pairs: Iterable[Sequence[Path]] = (), cancelled: Cancelled = lambda: False,
        models: Iterable[FoundModel] = (),
    ) -> Listing:  # fmt: skip
        """The artifacts at and below `roots`, each once, the `models` elsewhere, and the `pairs` of captures."""
        artifacts: dict[Path, Artifact] = {}
        contracts = 0
        problems: list[str] = []
        folders, left_out = 0, ""
        for path, kind, problem in (step for root in roots for step in walk(root)):
            folders += kind is None and not problem
            if problem:
                problems.append(problem)
            if cancelled():
                break
            if kind is ArtifactKind.CONTRACT and contracts >= MOST_CONTRACTS:
                continue
            if folders > MOST_FOLDERS or len(artifacts) - contracts >= MOST_ARTIFACTS:
                what = f"{MOST_FOLDERS} folders" if folders > MOST_FOLDERS else f"{MOST_ARTIFACTS} captures and models"
                left_out = f"looked at {what}, there are more: name a folder with `aprtui open FOLDER`"
                break
            if kind is not None and path.absolute() not in artifacts:
                artifact = self._describe(path, kind)
                if artifact is not None:
                    artifacts[path.absolute()] = artifact
                    contracts += artifact.kind is ArtifactKind.CONTRACT
        self._add_models(artifacts, models, MOST_ARTIFACTS + contracts, cancelled)
        found = [*artifacts.values(), *map(pair_of, pairs)]
        order = list(ArtifactKind)
        in_order = sorted(found, key=lambda artifact: order.index(artifact.kind))
        return Listing(tuple(in_order), tuple(dict.fromkeys(problems)), left_out)

    def _add_models(
        self, artifacts: dict[Path, Artifact], models: Iterable[FoundModel], most: int, cancelled: Cancelled
    ) -> None:
        for model in models:
            if cancelled() or len(artifacts) >= most:
                break
            path = model.path.absolute()
            artifact = None if path in artifacts else self._describe(path, ArtifactKind.MODEL)
            if artifact is not None:
                where = ("file", str(path)), ("found in", model.place)
                artifacts[path] = replace(artifact, name=model.name, facts=(*where, *artifact.facts))

    def _describe(self, path: Path, kind: ArtifactKind) -> Artifact | None:
        """The artifact at `path`; None if it has gone in the meantime."""
        try:
            signature = _signature(path, kind)
            known = self._known.get(path)
            if known is None or known[0] != signature:
                describe = _DESCRIBE[kind]
                known = self._known[path] = signature, describe(path, max(signature[0], 0) / 1e9)
        except FileNotFoundError:
            return None
        except OSError as error:
            return Artifact(path, kind, 0, problem=f"cannot be read: {error.strerror or error}")
        return known[1]


def walk(root: Path, depth: int = DEPTH) -> Iterator[tuple[Path, ArtifactKind | None, str]]:
    """What is at and below `root`, sorted by name: its path, its kind (None for a folder), and a problem in words."""
    try:
        if root.is_file():
            if (kind := _kind_of_file(root)) is not None:
                yield first_part(root), kind, ""
            return
        with os.scandir(root) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except OSError as error:
        yield root, None, f"{root}: cannot be looked into: {error.strerror or error}"
        return
    if any(entry.name == GRAPH_NAME for entry in listed) and RECORDING.encode() in _beginning(
        root / GRAPH_NAME, _MANIFEST_START
    ):
        yield root, ArtifactKind.RECORDING, ""
        return
    if _is_capture(root, listed):
        yield root, ArtifactKind.CAPTURE, ""
        return
    yield root, None, ""
    for entry in listed:
        if entry.name.endswith(_FILES) and entry.is_file() and (kind := _kind_of_file(root / entry.name)) is not None:
            yield first_part(root / entry.name), kind, ""
    for entry in listed:
        hidden = entry.name.startswith(".") or entry.name in _SKIPPED
        if depth and not hidden and entry.is_dir(follow_symlinks=False):
            yield from walk(root / entry.name, depth - 1)


_JSON_LINES = ".jsonl"
"""The suffix of agent traces and recorded sessions."""

_FILES = (*MODEL_SUFFIXES, ".zip", ".tar", _JSON_LINES, *SUFFIXES)
"""What a folder is searched for. A `.tar.zst` would have to be decompressed to see what it is."""


def _kind_of_file(path: Path) -> ArtifactKind | None:
    """What a file is; None for anything that is not listed, YAML and JSON lines of other kinds among it."""
    if path.suffix in MODEL_SUFFIXES:
        return ArtifactKind.MODEL
    try:
        status = path.stat()
    except OSError:
        return None
    if is_archive(path):
        return _kind_of_archive(path, status.st_mtime_ns, status.st_size)
    return _kind_of_text(path, status.st_mtime_ns, status.st_size)


@lru_cache(256)
def _kind_of_archive(path: Path, modified: int, size: int) -> ArtifactKind | None:
    try:
        is_capture = read_manifest(path) is not None or next(claimed_files(path), None) is not None
    except AprtuiError:
        return None
    return ArtifactKind.CAPTURE if is_capture else None


@lru_cache(4096)
def _kind_of_text(path: Path, modified: int, size: int) -> ArtifactKind | None:
    """What a file of text is; it is read again only when its time or size has changed."""
    if path.suffix == _JSON_LINES:
        return ArtifactKind.SESSION if is_session(path) else ArtifactKind.CONVERSATION if is_agent_trace(path) else None
    is_contract = path.suffix in SUFFIXES and b"falsification_tests:" in _beginning(path, _CONTRACT_START)
    return ArtifactKind.CONTRACT if is_contract else None


def _is_capture(folder: Path, entries: Iterable[os.DirEntry[str]]) -> bool:
    """Whether `folder` is a capture: it has a manifest of ours, or files named as stages are."""
    stages = False
    for entry in entries:
        if entry.name == FILE_NAME and FORMAT.encode() in _beginning(folder / FILE_NAME, _MANIFEST_START):
            return True
        stages |= is_layer_directory(entry.name) or entry.name.endswith((".bin", ".aprt"))
    try:
        return stages and next(claimed_files(folder), None) is not None
    except OSError:
        return False


def _beginning(path: Path, size: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except OSError:
        return b""


def _signature(path: Path, kind: ArtifactKind) -> _Signature:
    """Numbers that change if the artifact has changed; the first one is the time of its last change in ns."""
    if kind is not ArtifactKind.CAPTURE or path.is_file():
        files = parts_there(path) if kind is ArtifactKind.MODEL else (path,)
        files = (path / GRAPH_NAME, path / DATA_NAME) if kind is ArtifactKind.RECORDING else files
        statuses = [file.stat() for file in files]
        numbers = [number for status in statuses for number in (status.st_mtime_ns, status.st_size, status.st_ino)]
        return max(status.st_mtime_ns for status in statuses), *numbers
    try:
        status = (path / FILE_NAME).stat()
        return status.st_mtime_ns, status.st_size, status.st_ino, path.stat().st_mtime_ns
    except FileNotFoundError:
        folders = [path, *(Path(entry.path) for entry in os.scandir(path) if is_layer_directory(entry.name))]
        times = [folder.stat().st_mtime_ns for folder in folders]
        return max(times), *times


def _capture(path: Path, modified: float) -> Artifact:
    try:
        manifest = read_manifest(path)
    except UnreadableError as error:
        return Artifact(path, ArtifactKind.CAPTURE, modified, problem=str(error).removeprefix(f"{path}{os.sep}"))
    if manifest is None:
        claimed = list(claimed_files(path))
        provenance = read_provenance(path)
        facts = bare_facts([node for node, _ in claimed], provenance)
        ids = provenance_tokens(provenance)
        return Artifact(
            path, ArtifactKind.CAPTURE, modified, provenance.get("model", ""),
            layers=len({node.layer for node, _ in claimed if node.layer is not None}) or None,
            tokens=None if ids is None else len(ids), files=len(claimed),
            bytes=_bytes_of(path, [_size(file) for _, file in claimed]),
            text=dict(facts).get("prompt", ""), facts=facts,
        )  # fmt: skip
    sizes = (info.bytes or _size(path / name) for name, info in manifest.files.items())
    engine = manifest.engine
    return Artifact(
        path, ArtifactKind.CAPTURE, modified, manifest.model.name, engine_name(engine), engine.mode,
        manifest.graph.layers, len(manifest.tokens), len(manifest.files), _bytes_of(path, sizes), manifest.complete,
        prompt_text(manifest), engine.faults, capture_facts(manifest),
    )  # fmt: skip


def _recording(path: Path, modified: float) -> Artifact:
    if _size(path / GRAPH_NAME) > MOST_GRAPH_BYTES:
        large = (("ops", f"not counted: {GRAPH_NAME} of more than {MOST_GRAPH_BYTES >> 20} MB"),)
        return Artifact(path, ArtifactKind.RECORDING, modified, bytes=_size(path / DATA_NAME), facts=large)
    try:
        recording = Recording.open(path)
    except UnreadableError as error:
        return Artifact(path, ArtifactKind.RECORDING, modified, problem=str(error).removeprefix(f"{path}{os.sep}"))
    header, nodes = recording.header, list(listed_nodes(recording))
    layers = {node.name.layer for node in nodes if node.name.layer is not None}
    facts = recording_facts(recording, nodes)
    return Artifact(
        path, ArtifactKind.RECORDING, modified, Path(header.model.path).name if header.model else "",
        header.engine.name, "", len(layers) or None, len(header.tokens), len(nodes), _size(path / DATA_NAME),
        header.complete, dict(facts).get("prompt", ""), facts=facts,
    )  # fmt: skip


def _bytes_of(capture: Path, sizes: Iterable[int]) -> int:
    """Bytes on disk of a folder with files of `sizes`, or of an archive."""
    return _size(capture) if capture.is_file() else sum(sizes)


def _size(path: Path) -> int:
    try:
        status = path.stat()
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _model(path: Path, modified: float) -> Artifact:
    try:
        file = open_model_file(path, headers_only=True)
        facts = model_facts(file)  # which opens it again: it may have gone in between
    except UnreadableError as error:
        return _unreadable(path, ArtifactKind.MODEL, modified, error)
    architecture, name = (file.metadata.get(f"general.{key}") for key in ("architecture", "name"))
    words = " ".join(word for word in (name, architecture) if isinstance(word, str) and word)
    layers = file.metadata.get(f"{architecture}.block_count")
    return Artifact(
        path, ArtifactKind.MODEL, modified, words, layers=layers if isinstance(layers, int) else None,
        files=len(file.tensors), bytes=file.size, facts=facts, refusal=refusal(file).removeprefix(f"{path}: "),
    )  # fmt: skip


def _unreadable(path: Path, kind: ArtifactKind, modified: float, error: AprtuiError) -> Artifact:
    return Artifact(path, kind, modified, bytes=_size(path), problem=str(error).removeprefix(f"{path}: "))


def _contract(path: Path, modified: float) -> Artifact:
    try:
        document = read_document(path)
    except AprtuiError as error:
        return _unreadable(path, ArtifactKind.CONTRACT, modified, error)
    facts = contract_facts(document)
    return Artifact(
        path, ArtifactKind.CONTRACT, modified, files=len(document.falsifiers), bytes=_size(path),
        text=dict(facts).get("about") or dict(facts)["rules"], facts=facts,
    )  # fmt: skip


def _session(path: Path, modified: float) -> Artifact:
    try:
        summary = session_summary(path)
    except UnreadableError as error:
        return _unreadable(path, ArtifactKind.SESSION, modified, error)
    engine = summary.start.engine
    return Artifact(
        path, ArtifactKind.SESSION, modified, engine.model, f"aprtui {engine.backend}", engine.mode,
        engine.graph.layers, summary.tokens, bytes=_size(path), complete=summary.end is not None,
        text=summary.start.said, faults=engine.faults, facts=session_facts(summary),
    )  # fmt: skip


def _conversation(path: Path, modified: float) -> Artifact:
    try:
        trace = read_agent_trace(path)
    except UnreadableError as error:
        return _unreadable(path, ArtifactKind.CONVERSATION, modified, error)
    return Artifact(
        path, ArtifactKind.CONVERSATION, modified, trace.model, trace.actor,
        tokens=None if trace.ending is None else trace.ending.tokens_out, files=len(trace.entries), bytes=_size(path),
        complete=trace.ending is not None, text=trace.entries[0].text if trace.entries else "",
        facts=conversation_facts(trace),
    )  # fmt: skip


def pair_of(paths: Sequence[Path]) -> Artifact:
    """Two captures that were compared, as old as the younger one."""
    times = []
    for path in paths:
        try:
            times.append(_signature(path, ArtifactKind.CAPTURE)[0] / 1e9)
        except OSError:
            continue
    return Artifact(paths[0], ArtifactKind.PAIR, max(times, default=0), other=paths[1])


_DESCRIBE = {
    ArtifactKind.CAPTURE: _capture, ArtifactKind.MODEL: _model, ArtifactKind.SESSION: _session,
    ArtifactKind.CONVERSATION: _conversation, ArtifactKind.CONTRACT: _contract, ArtifactKind.RECORDING: _recording,
}  # fmt: skip
