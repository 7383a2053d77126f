"""`aprtui contracts promote`: raise a falsifier's status as far as its evidence carries."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aprtui.cli.contracts.shared import evidence_dir_option, paths_argument, print_line, read_documents
from aprtui.contracts.documents.document import BLOCKER, ContractError, Document, Falsifier, Maturity, maturity_of
from aprtui.errors import EngineError, ExitCode, UnreadableError, UsageError
from aprtui.resources import is_packaged

if TYPE_CHECKING:
    from aprtui.contracts.evidence.assessment import Assessment


@click.command()
@click.argument("falsifier_id", metavar="ID")
@click.argument("level", metavar="LEVEL")
@paths_argument
@evidence_dir_option
def command(falsifier_id: str, level: str, paths: tuple[Path, ...], evidence_dir: Path | None) -> int:
    """Set the status of a falsifier to LEVEL, where its evidence carries that: PARTIAL_ALGORITHM_LEVEL, FUNCTIONAL or
    DISCHARGED; PROPOSED and BLOCKER_… always may be set. aprtui's own contracts without PATH.

    The contract is edited in place: comments, order and every other line stay. Its version's second number grows by
    one, and its changelog gets an entry on top.

    Exit code 0: done, or the status was so already; 1: the evidence does not carry it, stderr says what is lacking;
    2: no such falsifier or level; 3: the contract cannot be read, or not be edited in place; 4: it cannot be written.
    """
    from aprtui.contracts.changes.promotion import missing_evidence
    from aprtui.contracts.checks.mapping import check_of, own_mapping
    from aprtui.contracts.evidence.assessment import ledger_of

    status = _status(level)
    document, falsifier = _found(falsifier_id, paths)
    if falsifier.status == status:
        print_line(f"{document.path}: {falsifier_id} is {status} already")
        return ExitCode.PASS
    assessment = ledger_of(document, evidence_dir).assess(falsifier, check_of(falsifier, own_mapping()))
    missing = tuple(missing_evidence(assessment, maturity_of(status)))
    if missing:
        carried = assessment.now.label
        print_line(
            f"aprtui: {falsifier_id} stays {_was(falsifier)}: evidence carries {carried}, not {status}", err=True
        )
        for line in missing:
            print_line(f"  lacking: {line}", err=True)
        return ExitCode.DIVERGENCE
    version = _write(document, falsifier, status, assessment)
    before = document.metadata.version
    print_line(f"{document.path}: {falsifier_id} {_was(falsifier)} to {status}, version {before} to {version}")
    return ExitCode.PASS


def _was(falsifier: Falsifier) -> str:
    return falsifier.status or "without status"


def _status(level: str) -> str:
    word = level.upper()
    levels = ["PROPOSED", *(claim.label for claim in (Maturity.ALGORITHM, Maturity.FUNCTIONAL, Maturity.DISCHARGED))]
    blocked = word.startswith(BLOCKER) and word.removeprefix(BLOCKER).replace("_", "").isalnum() and word.isascii()
    if word not in levels and not blocked:
        raise UsageError(f"promote: no level is called {level!r:.60}: expected {', '.join(levels)} or {BLOCKER}…")
    return word


def _found(falsifier_id: str, paths: tuple[Path, ...]) -> tuple[Document, Falsifier]:
    if not paths and is_packaged():
        raise UsageError("promote: aprtui's own contracts are part of the installed program: name a contract of yours")
    documents, broken = read_documents(paths)
    found = [(document, test) for document in documents for test in document.falsifiers if test.id == falsifier_id]
    if not found and broken:
        raise UnreadableError(f"promote: {falsifier_id!r:.60} is in no contract that can be read: correct the others")
    if not found:
        raise UsageError(f"promote: no falsifier is called {falsifier_id!r:.60}: see aprtui contracts status")
    if len(found) > 1:
        places = ", ".join(f"{document.path}:{test.line}" for document, test in found[:3])
        raise UsageError(f"promote: {falsifier_id!r:.60} occurs {len(found)} times ({places}): name one contract")
    document, falsifier = found[0]
    if document.duplicates:
        first = document.duplicates[0]
        raise ContractError(document.path, first.line, f"the key {first.key!r:.60} occurs twice: correct it first")
    return document, falsifier


def _write(document: Document, falsifier: Falsifier, status: str, assessment: Assessment) -> str:
    """Write the contract with the new status, and give its new version. Raises `ContractError` and `EngineError`."""
    from aprtui.contracts.changes.promotion import next_version, promoted
    from aprtui.trace.aprt import write_atomically

    path = document.path.resolve()
    try:
        text = path.read_bytes().decode("utf-8")
        mode = path.stat().st_mode & 0o777
        if not (mode & 0o222 and os.access(path, os.W_OK)):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise EngineError(f"{path}: cannot be edited: {error.strerror}: make it writable") from error
    claims = maturity_of(status) >= Maturity.ALGORITHM
    by = f", by {assessment.newest.path.name}" if claims and assessment.newest is not None else ""
    change = f"{falsifier.id} {_was(falsifier)} to {status}{by}"
    result = promoted(text, document, falsifier, status, datetime.now(UTC).strftime("%Y-%m-%d"), change)
    write_atomically(path, result.encode("utf-8"), mode=mode)
    return next_version(document)
