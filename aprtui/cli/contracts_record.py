"""`aprtui contracts check --record`: evidence files of what was judged."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aprtui.cli.contracts_documents import say

if TYPE_CHECKING:
    from aprtui.contracts.checks.asked import Subject
    from aprtui.contracts.document import Document, Falsifier
    from aprtui.contracts.panel import PanelRow
    from aprtui.contracts.project import Project

Judged = tuple["Document", "PanelRow", tuple[str, ...]]
"""A contract, a row of it, and the lines that were printed about it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for; `commands` are the ids of falsifiers whose command is run."""

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
    """The project of each contract, by the contract's path, once it is sure that evidence can be written.

    Raises `UsageError` for the installed program's own contracts, `ContractError` for sources that are not there, and
    `EngineError` for a place that cannot be written.
    """
    from aprtui.contracts.project import place_to_record, project_of
    from aprtui.contracts.recording import digests
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
    judged: Sequence[Judged], projects: Mapping[Path, Project], subject_of: Callable[[Document], Subject], asked: Asked
) -> dict[tuple[Path, str], Path]:
    """Write an evidence file for each PASS and FAIL, and say on stderr what was written and what was not.

    Gives the files by contract and falsifier id.
    """
    from aprtui.compare.verdict import Verdict
    from aprtui.compare.wording import counted
    from aprtui.contracts.evidence import Revision, write_evidence
    from aprtui.contracts.recording import evidence_of, revision_at

    written: dict[tuple[Path, str], Path] = {}
    unknown, without_revision = 0, set()
    for document, row, lines in judged:
        name, judgement = row.falsifier.id, row.judgement
        if judgement is None or judgement.verdict is Verdict.UNKNOWN:
            unknown += judgement is not None
            continue
        project, ran = projects[document.path], name in asked.commands
        revision = revision_at(document, row.falsifier, project)
        if isinstance(revision, str):
            without_revision.add(revision)
        evidence = evidence_of(
            document, row.falsifier, None if ran else row.check, judgement, subject_of(document), project,
            revision if isinstance(revision, Revision) else None,
            asked.command(_shown(document.path, project), name),
            tuple(judgement.output.splitlines()) if ran else lines,
        )  # fmt: skip
        written[document.path, name] = write_evidence(project.evidence, evidence)
    for reason in sorted(without_revision):
        say(f"aprtui: recorded without a git revision: {reason}", err=True)
    places = sorted({str(projects[path].evidence) for path, _ in written})
    where = f" below {', '.join(places)}" if places else ""
    nothing = f"; {unknown} unknown, which is evidence of nothing" if unknown else ""
    click.echo(f"aprtui: {counted(len(written), 'evidence file')} written{where}{nothing}", err=True)
    return written


def _shown(path: Path, project: Project) -> Path:
    """The contract's path without what is of this machine alone."""
    inside = path.is_absolute() and path.is_relative_to(project.root)
    return path.relative_to(project.root) if inside else path
