"""The project of a contract: where its evidence and the source files that it vouches for are, and its git revision."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath

from aprtui import resources
from aprtui.contracts.documents.document import Document, Falsifier
from aprtui.contracts.evidence.files import Revision, as_name
from aprtui.contracts.evidence.parsed_source import source_file_digest
from aprtui.errors import UsageError

EVIDENCE, CONTRACTS = "evidence", "contracts"
MOST_FILES = 5000
"""Limit on the files of a folder that a contract vouches for: a larger one is no part of an engine."""

BUILD_FOLDERS = frozenset({"target", "node_modules", "__pycache__", "build", "dist"})
"""Folders that build tools write, and that hold no sources."""

_GIT_SECONDS = 20
_FAILED = '"verdict": "FAIL"'
"""How an evidence file writes that the claim failed."""
_GENERATED = BUILD_FOLDERS | {"images"}
_GENERATED_SUFFIXES = frozenset({".pyc", ".pyo", ".nbi", ".nbc"})


@dataclass(frozen=True, slots=True)
class Project:
    """The project that a contract belongs to.

    Sources are named relative to `root`: the folder that holds the nearest folder called `contracts` above the
    contract, or else the contract's own. `evidence` is the folder of evidence files, `contracts/evidence` by default.
    `packaged` marks aprtui's own contracts where aprtui is installed rather than checked out. `contract` is the path of
    the contract's file relative to `root`, by which evidence names it; empty where none is meant. A contract outside of
    any project whose evidence is kept elsewhere is named relative to the folder that holds the evidence.
    """

    root: Path
    evidence: Path
    packaged: bool = False
    contract: str = ""
    _digests: dict[str, str | None] = field(default_factory=dict, compare=False)

    def digest(self, source: str) -> str | None:
        """SHA-256 in hexadecimal of a file as parsed (`parsed_source`), or of a folder's files with their names.

        None where it does not exist, is outside of the project, is evidence, or holds more than `MOST_FILES`. Hidden
        files, links to folders, evidence, and files that interpreters and build tools generate do not count. Computed
        once.
        """
        if source not in self._digests:
            outside = Path(source).is_absolute() or ".." in Path(source).parts
            place = resources.own_source(source) if self.packaged else self.root / source
            outside = outside or place.absolute().is_relative_to(self.evidence.absolute())
            self._digests[source] = None if outside else _digest(place, self.evidence.absolute())
        return self._digests[source]

    def file(self, name: str) -> Path | None:
        """The file of the project with this name, evidence or not; None where there is none."""
        try:
            place = self.root / name
            inside = place.resolve().is_relative_to(self.root.resolve())
            return place if inside and place.is_file() else None
        except (OSError, ValueError):
            return None

    @property
    def own_evidence(self) -> Path:
        """The folder of the evidence for this contract: one of its own, also where two contracts have one name."""
        path = PurePosixPath(self.contract)
        parts = path.parts[1:] if len(path.parts) > 1 and path.parts[0] == CONTRACTS else path.parts
        return self.evidence.joinpath(*map(as_name, parts[:-1]), as_name(path.stem))


def project_of(contract: Path, evidence: Path | None = None) -> Project:
    """The project of the contract in file `contract`; its evidence is in `evidence` where that is given."""
    path = contract.absolute()
    folder, own = path.parent, resources.contracts().absolute()
    if resources.is_packaged() and folder.is_relative_to(own):
        named = f"{CONTRACTS}/{path.relative_to(own).as_posix()}"
        return Project(folder, evidence or own / EVIDENCE, packaged=True, contract=named)
    home = next((above for above in (folder, *folder.parents) if above.name == CONTRACTS), None)
    root = folder if home is None else home.parent
    named = path.relative_to(root).as_posix()
    if home is None and evidence is not None:
        named = _beside(path, evidence.absolute())
    return Project(root, evidence or (home or folder) / EVIDENCE, contract=named)


def _beside(contract: Path, evidence: Path) -> str:
    """The name of a contract without a project in a folder of evidence that others may use as well: two contracts of
    one file name are told apart by their folders, as far as these lie beside the evidence."""
    above = evidence.parent
    return (contract.relative_to(above) if contract.is_relative_to(above) else contract).as_posix()


def place_to_record(project: Project, contract: Path) -> Path:
    """The folder to write evidence to. Raises `UsageError` where it is inside of the installed program."""
    if project.packaged and project.evidence.is_relative_to(resources.contracts()):
        raise UsageError(
            f"{contract}: belongs to the installed program: say with --evidence-dir where evidence is to go"
        )
    return project.evidence


def _digest(place: Path, evidence: Path) -> str | None:
    try:
        if not place.is_dir():
            return source_file_digest(place)
        found = list(islice(_files(place, evidence), MOST_FILES + 1))
        if len(found) > MOST_FILES:
            return None
        total = hashlib.sha256()
        for path in sorted(found):
            total.update(f"{path.relative_to(place).as_posix()}\0{source_file_digest(path)}\n".encode())
        return total.hexdigest()
    except (OSError, ValueError):
        return None


def _files(folder: Path, evidence: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in _GENERATED or path.suffix in _GENERATED_SUFFIXES:
            continue
        if not path.is_dir():
            yield path
        elif not path.is_symlink() and path.absolute() != evidence:
            yield from _files(path, evidence)


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

    It is dirty where a tracked file was changed, or one of `files` (relative to `root`) is not committed at all, or git
    was told not to look at it (`git update-index --assume-unchanged`).
    """
    try:
        commit = _git(root, "rev-parse", "--verify", "HEAD").strip()
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--ignore-submodules")
        uncommitted = _git(root, "status", "--porcelain", "--untracked-files=all", "--ignored", "--", *files)
        hidden = [line for line in _git(root, "ls-files", "-v", "--", *files).splitlines() if not line.startswith("H")]
    except FileNotFoundError:
        return "git is not installed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"git failed: {error}"
    except subprocess.CalledProcessError as error:
        return str(error.stderr).strip().partition("\n")[0] or f"git exited with {error.returncode}"
    return Revision(commit, bool(changed or uncommitted or hidden))


def edited_since_recorded(project: Project) -> frozenset[Path]:
    """Evidence files of the contract that git has in more than one version, or in another than lies on disk; none
    outside of a checkout. A file that was edited may have been sealed again: its history tells."""
    folder = project.own_evidence
    if project.packaged or not folder.is_dir():
        return frozenset()
    try:
        top = Path(_git(folder, "rev-parse", "--show-toplevel").strip())
        listed = ("--diff-filter=M", "--name-only", "--no-renames")
        names = _git(folder, "log", "--format=", *listed, "--", ".") + _git(folder, "diff", *listed, "HEAD", "--", ".")
    except (OSError, subprocess.SubprocessError):
        return frozenset()
    return frozenset((top / name).resolve() for name in names.splitlines() if name)


def deleted_failures(project: Project) -> Mapping[Path, bytes]:
    """The contents of evidence files of the contract that say FAIL and that git has, but that no longer lie on disk;
    none outside of a checkout."""
    folder = project.own_evidence
    if project.packaged or not folder.is_dir():
        return {}
    found = {}
    try:
        top = Path(_git(folder, "rev-parse", "--show-toplevel").strip())
        listed = ("--diff-filter=A", "--name-only", "--no-renames", f"-G{_FAILED}")
        told = _git(folder, "log", "--format=commit %H", *listed, "--", ".")
        commit = ""
        for line in filter(None, told.splitlines()):
            word, _, rest = line.partition(" ")
            if word == "commit":
                commit = rest
            elif not (path := top / line).exists():
                found[path] = git_output(top, "show", f"{commit}:{line}")
    except (OSError, subprocess.SubprocessError):
        return {}
    return found


def _git(root: Path, *words: str) -> str:
    try:
        return git_output(root, *words).decode("utf-8", "replace")
    except subprocess.CalledProcessError as error:
        error.stderr = bytes(error.stderr).decode("utf-8", "replace")
        raise


def git_output(root: Path, *words: str) -> bytes:
    """What git prints in the folder `root`. Raises `OSError` and `subprocess.SubprocessError`."""
    command = ["git", "--no-optional-locks", "--literal-pathspecs", "-C", str(root), *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=_GIT_SECONDS)
    return done.stdout
