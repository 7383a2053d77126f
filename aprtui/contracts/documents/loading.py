"""Contracts on disk: the files below given paths, read once by a process, and again after they change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from aprtui.contracts.documents.document import ContractError, Document
from aprtui.contracts.documents.reader import read_document
from aprtui.errors import AprtuiError

SUFFIXES = (".yaml", ".yml")
_NO_CONTRACTS = frozenset({"binding", "external-corpora", "ontology"})
_NO_FOLDERS = frozenset({"kaizen", "legacy", "pipelines", "publish-manifests"})
"""Files and folders beside contracts that `pv lint` does not walk into."""

Stamp = tuple[int, int, int]
"""Modification time in ns, size and inode: an editor that replaces a file within a clock tick changes one of them."""


@dataclass(frozen=True, slots=True)
class LoadedContract:
    """One file: its document, or the one-line `error` that says why it cannot be read."""

    path: Path
    document: Document | None
    error: str | None
    stamp: Stamp | None


@dataclass(frozen=True, slots=True)
class Documents:
    """The contracts below `paths`. `error` says what is wrong with the paths themselves."""

    paths: tuple[Path, ...]
    files: tuple[LoadedContract, ...]
    error: str | None = None

    @property
    def readable(self) -> tuple[Document, ...]:
        """The documents that could be read, in the order of their files."""
        return tuple(loaded.document for loaded in self.files if loaded.document is not None)

    def refreshed(self) -> Documents:
        """The contracts on disk now. The same object where nothing changed."""
        now = load_documents(self.paths)
        return self if now == self else now


def load_documents(paths: Iterable[Path]) -> Documents:
    """The contracts among and below `paths`. Raises nothing: a file that cannot be read has an `error`."""
    given = tuple(paths)
    files: list[LoadedContract] = []
    problems: list[str] = []
    for path in given:
        try:
            found = contract_files([path])
        except (AprtuiError, OSError) as error:
            problems.append(str(error))
            continue
        known = {loaded.path for loaded in files}
        files += [_loaded(file) for file in found if file not in known]
    return Documents(given, tuple(files), "; ".join(problems) or None)


def _loaded(path: Path) -> LoadedContract:
    stamp = _stamp(path)
    try:
        return LoadedContract(path, read_document(path) if stamp is None else _read(path, stamp), None, stamp)
    except AprtuiError as error:
        return LoadedContract(path, None, str(error), stamp)


@lru_cache(maxsize=1024)
def _read(path: Path, stamp: Stamp) -> Document:
    """The document of a file that is as `stamp` says. Every screen shows contracts, and YAML is slow to read."""
    return read_document(path)


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def contract_files(paths: Iterable[Path]) -> tuple[Path, ...]:
    """The files among `paths`, and the YAML files below the directories among them, sorted, each once.

    Below a directory, hidden files and directories are left out, and what `pv` does not take for contracts either. A
    path that is given itself is included, also one that does not exist: reading it reports that. Raises `ContractError`
    for a directory without YAML files: "nothing read" must not look like "nothing wrong".
    """
    found: dict[Path, None] = {}
    for path in paths:
        below = _below(path) if path.is_dir() else (path,)
        if not below:
            raise ContractError(path, None, "holds no .yaml file: name a contract or a folder of contracts")
        found.update(dict.fromkeys(below))
    return tuple(found)


def _below(directory: Path) -> tuple[Path, ...]:
    return tuple(
        path
        for path in sorted(directory.rglob("*"))
        if path.suffix in SUFFIXES
        and path.is_file()
        and path.stem not in _NO_CONTRACTS
        and not any(part.startswith(".") or part in _NO_FOLDERS for part in path.relative_to(directory).parts)
    )
