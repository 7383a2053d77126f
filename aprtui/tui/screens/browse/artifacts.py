"""Artifacts: the captures and models in some folders, searched again and again, read again only when they change."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from aprtui.errors import UnreadableError
from aprtui.model.gguf_file import GgufFile
from aprtui.progress import Cancelled
from aprtui.trace.capture import claimed_files, is_layer_directory
from aprtui.trace.manifest import FILE_NAME, FORMAT, read_manifest

DEPTH = 4
"""Levels of folders below a given one that are searched."""

MOST_FOLDERS = 2000
"""Folders that are searched in all: a home directory must not keep the disk busy for ever."""

MOST_ARTIFACTS = 500

_SKIPPED = frozenset({"node_modules", "__pycache__", "site-packages"})
_MANIFEST_START = 256


class ArtifactKind(StrEnum):
    CAPTURE = "capture"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A capture or a model. What is not known is None or empty; `problem` says why it cannot be read."""

    path: Path
    kind: ArtifactKind
    modified: float
    model: str = ""
    engine: str = ""
    mode: str = ""
    tokens: int | None = None
    files: int = 0
    bytes: int = 0
    complete: bool | None = None
    problem: str = ""

    @property
    def is_model(self) -> bool:
        return self.kind is ArtifactKind.MODEL


@dataclass(frozen=True, slots=True)
class Listing:
    """The artifacts in the order of the folders; folders that cannot be read, and what was left out, in words."""

    artifacts: tuple[Artifact, ...] = ()
    problems: tuple[str, ...] = ()
    left_out: str = ""


_Signature = tuple[int, ...]


class Finder:
    """Searches folders; an artifact that has not changed since the last search is not read again."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[_Signature, Artifact]] = {}

    def search(self, roots: Iterable[Path], cancelled: Cancelled = lambda: False) -> Listing:
        """The artifacts at and below `roots`, each once."""
        artifacts: dict[Path, Artifact] = {}
        problems: list[str] = []
        folders, left_out = 0, ""
        for path, kind, problem in (step for root in roots for step in walk(root)):
            folders += kind is None and not problem
            if problem:
                problems.append(problem)
            if cancelled():
                break
            if folders > MOST_FOLDERS or len(artifacts) >= MOST_ARTIFACTS:
                what = f"{MOST_FOLDERS} folders" if folders > MOST_FOLDERS else f"{MOST_ARTIFACTS} captures and models"
                left_out = f"looked at {what}, there are more: name a folder with `aprtui open FOLDER`"
                break
            if kind is not None and path.absolute() not in artifacts:
                artifact = self._describe(path, kind)
                if artifact is not None:
                    artifacts[path.absolute()] = artifact
        captures_first = sorted(artifacts.values(), key=lambda artifact: artifact.kind)
        return Listing(tuple(captures_first), tuple(dict.fromkeys(problems)), left_out)

    def _describe(self, path: Path, kind: ArtifactKind) -> Artifact | None:
        """The artifact at `path`; None if it has gone in the meantime."""
        try:
            signature = _signature(path, kind)
            known = self._known.get(path)
            if known is None or known[0] != signature:
                describe = _capture if kind is ArtifactKind.CAPTURE else _model
                known = self._known[path] = signature, describe(path, max(signature[0], 0) / 1e9)
        except FileNotFoundError:
            return None
        except OSError as error:
            return Artifact(path, kind, 0, problem=f"cannot be read: {error.strerror or error}")
        return known[1]


def walk(root: Path, depth: int = DEPTH) -> Iterator[tuple[Path, ArtifactKind | None, str]]:
    """What is at and below `root`, sorted by name: its path, its kind (None for a folder), and a problem in words."""
    try:
        if root.suffix == ".gguf" and root.is_file():
            yield root, ArtifactKind.MODEL, ""
            return
        with os.scandir(root) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except OSError as error:
        yield root, None, f"{root}: cannot be looked into: {error.strerror or error}"
        return
    if _is_capture(root, listed):
        yield root, ArtifactKind.CAPTURE, ""
        return
    yield root, None, ""
    for entry in listed:
        if entry.name.endswith(".gguf") and os.path.isfile(entry.path):
            yield root / entry.name, ArtifactKind.MODEL, ""
    for entry in listed:
        hidden = entry.name.startswith(".") or entry.name in _SKIPPED
        if depth and not hidden and entry.is_dir(follow_symlinks=False):
            yield from walk(root / entry.name, depth - 1)


def _is_capture(folder: Path, entries: Iterable[os.DirEntry[str]]) -> bool:
    """Whether `folder` is a capture: it has a manifest of ours, or files named as stages are."""
    stages = False
    for entry in entries:
        if entry.name == FILE_NAME and FORMAT.encode() in _beginning(folder / FILE_NAME):
            return True
        stages |= is_layer_directory(entry.name) or entry.name.endswith((".bin", ".aprt"))
    try:
        return stages and next(claimed_files(folder), None) is not None
    except OSError:
        return False


def _beginning(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MANIFEST_START)
    except OSError:
        return b""


def _signature(path: Path, kind: ArtifactKind) -> _Signature:
    """Numbers that change if the artifact has changed; the first one is the time of its last change in ns."""
    if kind is ArtifactKind.MODEL:
        status = path.stat()
        return status.st_mtime_ns, status.st_size, status.st_ino
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
        files = [file for _, file in claimed_files(path)]
        return Artifact(path, ArtifactKind.CAPTURE, modified, files=len(files), bytes=sum(map(_size, files)))
    sizes = (info.bytes or _size(path / name) for name, info in manifest.files.items())
    engine = manifest.engine
    return Artifact(
        path, ArtifactKind.CAPTURE, modified, manifest.model.name,
        engine.name if engine.backend in engine.name else f"{engine.name} {engine.backend}",
        engine.mode, len(manifest.tokens), len(manifest.files), sum(sizes), manifest.complete,
    )  # fmt: skip


def _size(path: Path) -> int:
    try:
        status = path.stat()
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _model(path: Path, modified: float) -> Artifact:
    try:
        file = GgufFile(path)
    except UnreadableError as error:
        return Artifact(
            path, ArtifactKind.MODEL, modified, bytes=_size(path), problem=str(error).removeprefix(f"{path}: ")
        )
    architecture, name = (file.metadata.get(f"general.{key}") for key in ("architecture", "name"))
    words = " ".join(word for word in (name, architecture) if isinstance(word, str) and word)
    return Artifact(path, ArtifactKind.MODEL, modified, words, files=len(file.tensors), bytes=file.size)
