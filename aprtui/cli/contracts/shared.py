"""What the commands of `aprtui contracts` share: their arguments, reading contracts, and how findings and evidence are
reported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aprtui.cli.json_lines import write_record
from aprtui.contracts.documents.document import Document, Maturity
from aprtui.contracts.documents.loading import contract_files
from aprtui.contracts.documents.reader import read_document
from aprtui.contracts.documents.validation import Finding
from aprtui.errors import UnreadableError, printable
from aprtui.resources import contracts

if TYPE_CHECKING:
    from aprtui.contracts.evidence.assessment import Assessment

path_type = click.Path(path_type=Path)
paths_argument = click.argument("paths", nargs=-1, metavar="[PATH…]", type=path_type)
evidence_dir_option = click.option(
    "--evidence-dir", metavar="DIR", type=path_type,
    help="Where evidence lies.  [default: contracts/evidence of the contract's project]",
)  # fmt: skip


def paths_or_own(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """`paths`, or aprtui's own contracts where there are none."""
    return paths or (contracts(),)


def read_documents(paths: tuple[Path, ...]) -> tuple[tuple[Document, ...], bool]:
    """The contracts below `paths` (aprtui's own by default) that can be read, and whether some cannot: stderr says
    which. Raises `ContractError` for a folder without contracts."""
    documents, broken = [], False
    for path in contract_files(paths_or_own(paths)):
        try:
            documents.append(read_document(path))
        except UnreadableError as error:
            click.echo(f"aprtui: {error}", err=True)
            broken = True
    return tuple(documents), broken


def print_line(line: str, *, err: bool = False) -> None:
    """Print a line that may hold words of a contract, which must not move the cursor."""
    click.echo(printable(line), err=err)


def write_finding(finding: Finding) -> None:
    write_record(
        {
            "record": "finding", "path": str(finding.path), "line": finding.line, "code": finding.code,
            "severity": str(finding.severity), "message": finding.message,
        }
    )  # fmt: skip


def assessment_record(assessment: Assessment) -> dict[str, Any]:
    """The newest evidence, whether it still holds, and the levels, for JSON."""
    newest = assessment.newest
    return {
        "carries": assessment.now.label,
        "ever_carried": assessment.ever.label,
        "files": len(assessment.evidence),
        "file": None if newest is None else str(newest.path),
        "date": None if newest is None else newest.record.date,
        "verdict": None if newest is None else str(newest.record.verdict),
        "standing": None if newest is None else str(newest.standing),
        "changes": [] if newest is None else newest.changes,
        "refuted_by": None if assessment.against is None else str(assessment.against.path),
    }


def assessment_text(assessment: Assessment) -> str:
    """The newest evidence in a line: `PASS of 2026-11-27, stale: engine.py changed; carries FUNCTIONAL`."""
    newest, carried = assessment.newest, assessment.now.label
    if newest is None:
        return "none recorded" + (
            f", what the contract states carries {carried}" if assessment.now > Maturity.NONE else ""
        )
    against = assessment.against
    refuted = (
        f"; refuted by the FAIL of {against.record.date[:10]}" if against is not None and against is not newest else ""
    )
    return f"{newest.record.verdict} of {newest.record.date[:10]}, {newest.words}{refuted}; carries {carried}"
