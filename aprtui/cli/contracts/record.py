"""`aprtui contracts check --record`: evidence files of what was judged."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aprtui.cli.contracts.shared import print_line
from aprtui.compare.wording import counted
from aprtui.contracts.documents.document import Document, Falsifier

if TYPE_CHECKING:
    from aprtui.contracts.checks.arguments import CheckSubject
    from aprtui.contracts.evidence.files import EvidenceRecord
    from aprtui.contracts.evidence.project import Project
    from aprtui.contracts.panel import PanelRow

_UNBOUND = "vouches for no source file: say in vouches_for what it covers, else its evidence counts one level lower"

Judged = tuple[Document, "PanelRow", tuple[str, ...]]
"""A contract, a row of it, and the lines that were printed about it."""


@dataclass(frozen=True, slots=True)
class RecordRequest:
    """The options of a check that its evidence names; `commands` are the ids of falsifiers whose command is run."""

    capture: Path | None
    reference: Path | None
    model: Path | None
    mapping: Path | None
    commands: Collection[str]
    timeout: float

    def command(self, path: Path, falsifier: str) -> str:
        """The command that judges one falsifier alone."""
        words = ["aprtui", "contracts", "check", str(path), "--id", falsifier]
        if falsifier in self.commands:
            return shlex.join([*words, "--run-commands", falsifier, "--timeout", f"{self.timeout:g}"])
        named = (
            ("--capture", self.capture), ("--reference", self.reference), ("--model", self.model),
            ("--mapping", self.mapping),
        )  # fmt: skip
        return shlex.join([*words, *(word for name, path in named if path is not None for word in (name, str(path)))])


def projects_to_record(chosen: Sequence[tuple[Document, Falsifier]], evidence_dir: Path | None) -> dict[Path, Project]:
    """The project of each contract, by the contract's path, after a test that evidence can be written there.

    Raises `UsageError` for the installed program's own contracts, `ContractError` for sources that are not there, and
    `EngineError` for a place that cannot be written.
    """
    from aprtui.contracts.evidence.project import place_to_record, project_of
    from aprtui.contracts.evidence.recording import digests
    from aprtui.trace.aprt import output_error

    projects: dict[Path, Project] = {}
    for document, falsifier in chosen:
        project = projects.setdefault(document.path, project_of(document.path, evidence_dir))
        digests(document, falsifier, project)
    for place in {place_to_record(project, path) for path, project in projects.items()}:
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            raise output_error(place, error) from error
    return projects


def record(
    judged: Sequence[Judged],
    projects: Mapping[Path, Project],
    subject_of: Callable[[Document], CheckSubject],
    request: RecordRequest,
) -> dict[tuple[Path, str], Path]:
    """Write an evidence file for each PASS and FAIL, and say on stderr what was written and what was not.

    Gives the files by contract and falsifier id.
    """
    from aprtui.compare.verdict import Verdict
    from aprtui.contracts.evidence.files import write_evidence
    from aprtui.contracts.evidence.recording import obstacle_to_recording

    written: dict[tuple[Path, str], Path] = {}
    doubts: dict[str, list[str]] = {}
    for document, row, lines in judged:
        name = row.falsifier.id or f"the falsifier at line {row.falsifier.line}"
        if row.judgement is None:
            continue
        if row.judgement.verdict is Verdict.UNKNOWN:
            doubts.setdefault("UNKNOWN is evidence of nothing: not recorded", []).append(name)
        elif row.check is not None and (fault := obstacle_to_recording(row.check, subject_of(document))):
            doubts.setdefault(f"{fault}: such evidence carries nothing, not recorded", []).append(name)
        elif not row.falsifier.id:
            doubts.setdefault("has no id: not recorded", []).append(name)
        else:
            evidence, reason = _evidence(document, row, lines, projects[document.path], subject_of(document), request)
            if reason:
                doubts.setdefault(f"recorded without a git revision: {reason}", []).append(name)
            if not evidence.sources:
                doubts.setdefault(_UNBOUND, []).append(name)
            written[document.path, name] = write_evidence(projects[document.path].own_evidence, evidence)
    _report(doubts, len(written), {projects[path].evidence for path, _ in written})
    return written


def _evidence(
    document: Document,
    row: PanelRow,
    lines: tuple[str, ...],
    project: Project,
    subject: CheckSubject,
    request: RecordRequest,
) -> tuple[EvidenceRecord, str]:
    """The evidence of a row that was judged, and why it has no git revision (empty if it has one)."""
    from aprtui.contracts.evidence.project import revision_at
    from aprtui.contracts.evidence.recording import evidence_of

    assert row.judgement is not None
    name = row.falsifier.id
    check, output = row.check, lines
    if name in request.commands:
        check, output = None, tuple(row.judgement.output.splitlines())
    revision = revision_at(document, row.falsifier, project)
    known, reason = (None, revision) if isinstance(revision, str) else (revision, "")
    path = document.path
    if path.is_absolute() and path.is_relative_to(project.root):
        path = path.relative_to(project.root)  # the same on every machine
    command = request.command(path, name)
    evidence = evidence_of(document, row.falsifier, check, row.judgement, subject, project, known, command, output)
    return evidence, reason


def _report(doubts: Mapping[str, Sequence[str]], count: int, places: Collection[Path]) -> None:
    for doubt, names in doubts.items():
        print_line(f"aprtui: {', '.join(names)}: {doubt}", err=True)
    where = f" below {', '.join(sorted(map(str, places)))}" if places else ""
    print_line(f"aprtui: {counted(count, 'evidence file')} written{where}", err=True)
