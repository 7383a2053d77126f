"""The project of a contract: where its evidence and the source files that it vouches for are, and its git revision."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from aprtui import resources
from aprtui.contracts.documents.document import Document, Falsifier
from aprtui.contracts.evidence.files import Revision
from aprtui.errors import UsageError

EVIDENCE = "evidence"
MOST_FILES = 5000
"""Limit on the files of a folder that a contract vouches for: a larger one is no part of an engine."""

BUILD_FOLDERS = frozenset({"target", "node_modules", "__pycache__", "build", "dist"})
"""Folders that build tools write, and that hold no sources."""

_GIT_SECONDS = 20
_GENERATED = BUILD_FOLDERS | {"images"}
_GENERATED_SUFFIXES = frozenset({".pyc", ".pyo", ".nbi", ".nbc"})


@dataclass(frozen=True, slots=True)
class Project:
    """The project that a contract belongs to.

    Sources are named relative to `root`: the folder that holds the nearest folder called `contracts` above the
    contract, or else the contract's own. `evidence` is the folder of evidence files, `contracts/evidence` by default.
    `packaged` marks aprtui's own contracts where aprtui is installed rather than checked out.
    """

    root: Path
    evidence: Path
    packaged: bool = False
    _digests: dict[str, str | None] = field(default_factory=dict, compare=False)

    def digest(self, source: str) -> str | None:
        """SHA-256 in hexadecimal of a file, or of a folder's files with their names.

        None where it does not exist, is outside of the project, or holds more than `MOST_FILES`. Hidden files, links to
        folders, and files that interpreters and build tools generate do not count. Computed once.
        """
        if source not in self._digests:
            outside = Path(source).is_absolute() or ".." in Path(source).parts
            place = resources.own_source(source) if self.packaged else self.root / source
            self._digests[source] = None if outside else _digest(place)
        return self._digests[source]


def project_of(contract: Path, evidence: Path | None = None) -> Project:
    """The project of the contract in file `contract`; its evidence is in `evidence` where that is given."""
    folder = contract.absolute().parent
    if resources.is_packaged() and folder.is_relative_to(resources.contracts().absolute()):
        return Project(folder, evidence or resources.contracts() / EVIDENCE, packaged=True)
    home = next((above for above in (folder, *folder.parents) if above.name == "contracts"), None)
    root = folder if home is None else home.parent
    return Project(root, evidence or (home or folder) / EVIDENCE)


def place_to_record(project: Project, contract: Path) -> Path:
    """The folder to write evidence to. Raises `UsageError` where it is inside of the installed program."""
    if project.packaged and project.evidence.is_relative_to(resources.contracts()):
        raise UsageError(
            f"{contract}: belongs to the installed program: say with --evidence-dir where evidence is to go"
        )
    return project.evidence


def _digest(place: Path) -> str | None:
    try:
        if not place.is_dir():
            return _file_digest(place)
        found = list(islice(_files(place), MOST_FILES + 1))
        if len(found) > MOST_FILES:
            return None
        total = hashlib.sha256()
        for path in sorted(found):
            total.update(f"{path.relative_to(place).as_posix()}\0{_file_digest(path)}\n".encode())
        return total.hexdigest()
    except (OSError, ValueError):
        return None


def _file_digest(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in _GENERATED or path.suffix in _GENERATED_SUFFIXES:
            continue
        if not path.is_dir():
            yield path
        elif not path.is_symlink():
            yield from _files(path)


def revision_at(document: Document, falsifier: Falsifier, project: Project) -> Revision | str:
    """The git revision of the contract and of the sources that the falsifier vouches for, or why there is none."""
    if project.packaged:
        return "the program is installed, not checked out"
    contract = document.path.absolute()
    if not contract.is_relative_to(project.root):
        return f"{contract} lies outside of {project.root}"
    return revision_of(project.root, (contract.relative_to(project.root).as_posix(), *falsifier.vouches_for))


def revision_of(root: Path, files: Sequence[str]) -> Revision | str:
    """The commit checked out at `root`, or a text that says why there is none.

    It is dirty where a tracked file was changed, or one of `files` (relative to `root`) is not committed at all.
    """
    try:
        commit = _git(root, "rev-parse", "--verify", "HEAD").strip()
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--ignore-submodules")
        uncommitted = _git(root, "status", "--porcelain", "--untracked-files=all", "--ignored", "--", *files)
    except FileNotFoundError:
        return "git is not installed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"git failed: {error}"
    except subprocess.CalledProcessError as error:
        return str(error.stderr).strip().partition("\n")[0] or f"git exited with {error.returncode}"
    return Revision(commit, bool(changed or uncommitted))


def _git(root: Path, *words: str) -> str:
    command = ["git", "--no-optional-locks", "--literal-pathspecs", "-C", str(root), *words]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=_GIT_SECONDS, encoding="utf-8",
        errors="replace",
    )  # fmt: skip
    return done.stdout
