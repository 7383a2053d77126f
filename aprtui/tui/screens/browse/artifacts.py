"""Captures and models in some folders: what lies there, looked at again and again without reading it anew."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from aprtui.errors import UnreadableError
from aprtui.model.gguf_file import GgufFile
from aprtui.trace.capture import claimed_files, is_layer_directory
from aprtui.trace.manifest import FILE_NAME, FORMAT, read_manifest

DEPTH = 4
"""Folders below a given one that are looked into."""

MOST_FOLDERS = 2000
"""Folders that are looked into in all: a home directory must not keep the disk busy for ever."""

MOST_FOUND = 500

_SKIPPED = frozenset({"node_modules", "__pycache__", "site-packages"})
_PEEK = 256


class Kind(StrEnum):
    """What can be opened."""

    CAPTURE = "capture"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class Found:
    """A capture or a model. What nothing tells is None or empty; `problem` says why it cannot be read."""

    path: Path
    kind: Kind
    modified: float
    model: str = ""
    engine: str = ""
    mode: str = ""
    tokens: int | None = None
    files: int = 0
    bytes: int = 0
    complete: bool | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything found, in the order of the folders; what could not be looked into, and what was left out, in words."""

    found: tuple[Found, ...] = ()
    problems: tuple[str, ...] = ()
    left_out: str = ""


_Signature = tuple[int, ...]


class Finder:
    """Looks into folders; what has not changed since the last look is not read again."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[_Signature, Found]] = {}

    def look(self, roots: Iterable[Path], cancelled: Callable[[], bool] = lambda: False) -> Listing:
        """The captures and models at and below `roots`, each once."""
        found: dict[Path, Found] = {}
        problems: list[str] = []
        folders, left_out = 0, ""
        for path, kind, problem in (place for root in roots for place in places(root)):
            folders += kind is None and not problem
            if problem:
                problems.append(problem)
            if cancelled():
                break
            if folders > MOST_FOLDERS or len(found) >= MOST_FOUND:
                what = f"{MOST_FOLDERS} folders" if folders > MOST_FOLDERS else f"{MOST_FOUND} captures and models"
                left_out = f"looked at {what}, there are more: name a folder with `aprtui open FOLDER`"
                break
            if kind is not None and path.absolute() not in found:
                entry = self._describe(path, kind)
                if entry is not None:
                    found[path.absolute()] = entry
        return Listing(
            tuple(sorted(found.values(), key=lambda entry: entry.kind)), tuple(dict.fromkeys(problems)), left_out
        )

    def _describe(self, path: Path, kind: Kind) -> Found | None:
        """What lies at `path`; None where it has gone in the meantime."""
        try:
            signature = _signature(path, kind)
            known = self._known.get(path)
            if known is None or known[0] != signature:
                describe = _capture if kind is Kind.CAPTURE else _model
                known = self._known[path] = signature, describe(path, max(signature[0], 0) / 1e9)
        except FileNotFoundError:
            return None
        except OSError as error:
            return Found(path, kind, 0, problem=f"cannot be read: {error.strerror or error}")
        return known[1]


def places(root: Path, depth: int = DEPTH) -> Iterator[tuple[Path, Kind | None, str]]:
    """What lies at and below `root`, sorted by name: captures, models, other folders (None), and what went wrong."""
    try:
        if root.suffix == ".gguf" and root.is_file():
            yield root, Kind.MODEL, ""
            return
        with os.scandir(root) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except OSError as error:
        yield root, None, f"{root}: cannot be looked into: {error.strerror or error}"
        return
    if _is_capture(root, listed):
        yield root, Kind.CAPTURE, ""
        return
    yield root, None, ""
    for entry in listed:
        if entry.name.endswith(".gguf") and os.path.isfile(entry.path):
            yield root / entry.name, Kind.MODEL, ""
    for entry in listed:
        hidden = entry.name.startswith(".") or entry.name in _SKIPPED
        if depth and not hidden and entry.is_dir(follow_symlinks=False):
            yield from places(root / entry.name, depth - 1)


def _is_capture(folder: Path, entries: Iterable[os.DirEntry[str]]) -> bool:
    """Whether `folder` is a capture: a manifest of ours, or files where the naming rule has stages."""
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
            return file.read(_PEEK)
    except OSError:
        return b""


def _signature(path: Path, kind: Kind) -> _Signature:
    """Changes when what is told of `path` may have changed; its first number is the time of the last change in ns."""
    if kind is Kind.MODEL:
        status = path.stat()
        return status.st_mtime_ns, status.st_size, status.st_ino
    try:
        status = (path / FILE_NAME).stat()
        return status.st_mtime_ns, status.st_size, status.st_ino, path.stat().st_mtime_ns
    except FileNotFoundError:
        folders = [path, *(Path(entry.path) for entry in os.scandir(path) if is_layer_directory(entry.name))]
        times = [folder.stat().st_mtime_ns for folder in folders]
        return max(times), *times


def _capture(path: Path, modified: float) -> Found:
    try:
        manifest = read_manifest(path)
    except UnreadableError as error:
        return Found(path, Kind.CAPTURE, modified, problem=str(error).removeprefix(f"{path}{os.sep}"))
    if manifest is None:
        files = [file for _, file in claimed_files(path)]
        return Found(path, Kind.CAPTURE, modified, files=len(files), bytes=sum(map(_size, files)))
    sizes = (info.bytes or _size(path / name) for name, info in manifest.files.items())
    engine = manifest.engine
    return Found(
        path, Kind.CAPTURE, modified, manifest.model.name,
        engine.name if engine.backend in engine.name else f"{engine.name} {engine.backend}",
        engine.mode, len(manifest.tokens), len(manifest.files), sum(sizes), manifest.complete,
    )  # fmt: skip


def _size(path: Path) -> int:
    try:
        status = path.stat()
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _model(path: Path, modified: float) -> Found:
    try:
        file = GgufFile(path)
    except UnreadableError as error:
        return Found(path, Kind.MODEL, modified, bytes=_size(path), problem=str(error).removeprefix(f"{path}: "))
    architecture, name = (file.metadata.get(f"general.{key}") for key in ("architecture", "name"))
    words = " ".join(word for word in (name, architecture) if isinstance(word, str) and word)
    return Found(path, Kind.MODEL, modified, words, files=len(file.tensors), bytes=file.size)
