"""`aprtui contracts promote`: raise the status of falsifiers as far as their evidence carries."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aprtui.cli.contracts.shared import evidence_dir_option, print_line
from aprtui.cli.contracts.statuses import RAISED, falsifiers_of, rewrite, split_words, status_of
from aprtui.contracts.documents.document import Falsifier, maturity_of
from aprtui.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from aprtui.contracts.changes.promotion import Promotion
    from aprtui.contracts.documents.document import Document
    from aprtui.contracts.evidence.assessment import Assessment, Ledger


@click.command()
@click.argument("words", nargs=-1, metavar="ID… LEVEL [PATH…]", required=True)
@evidence_dir_option
def command(words: tuple[str, ...], evidence_dir: Path | None) -> int:
    """Set the status of falsifiers to LEVEL, where their evidence carries that: PARTIAL_ALGORITHM_LEVEL, FUNCTIONAL or
    DISCHARGED. aprtui's own contracts without PATH. To take a status back: aprtui contracts withdraw.

    Contracts are edited in place: comments, order and every other line stay. The evidence is written beside the status,
    as functional_evidence or live_discharge, unless such a block is there. A contract's version grows by one in its
    second number, however many of its falsifiers are raised, and its changelog gets one entry on top.

    Exit code 0: done, or the status was so already; 1: evidence does not carry one of them, none is raised, and stderr
    says what is lacking; 2: no such falsifier or level; 3: a contract cannot be read, or not be edited in place; 4: it
    cannot be written.
    """
    from aprtui.contracts.changes.promotion import missing_evidence
    from aprtui.contracts.checks.mapping import check_of, own_mapping
    from aprtui.contracts.evidence.assessment import ledger_of

    ids, level, paths = split_words("promote", words, RAISED)
    if level is None:
        raise UsageError(f"promote: no level is among {' '.join(words)!r:.80}: expected {', '.join(RAISED)}")
    status = status_of(level)
    chosen: dict[Path, list[Promotion]] = defaultdict(list)
    documents: dict[Path, Document] = {}
    lacking = False
    for document, falsifier in falsifiers_of("promote", ids, paths):
        if falsifier.status == status:
            print_line(f"{document.path}: {falsifier.id} is {status} already")
            continue
        if maturity_of(status) < falsifier.maturity:
            is_above = f"{falsifier.id} is {falsifier.status}, above {status}"
            raise UsageError(f"promote: {is_above}: aprtui contracts withdraw takes it back")
        ledger = ledger_of(document, evidence_dir)
        assessment = ledger.assess(falsifier, check_of(falsifier, own_mapping()))
        missing = tuple(missing_evidence(assessment, maturity_of(status)))
        lacking |= bool(missing)
        _say_missing(falsifier, assessment, status, missing)
        documents[document.path] = document
        chosen[document.path].append(_promotion(falsifier, status, assessment, ledger))
    if lacking:
        return ExitCode.DIVERGENCE
    for path, promotions in chosen.items():
        rewrite(documents[path], promotions)
    return ExitCode.PASS


def _say_missing(falsifier: Falsifier, assessment: Assessment, status: str, missing: tuple[str, ...]) -> None:
    if missing:
        stays = f"{falsifier.id} stays {falsifier.status or 'without status'}"
        print_line(f"aprtui: {stays}: evidence carries {assessment.now.label}, not {status}", err=True)
    for line in missing:
        print_line(f"  lacking: {line}", err=True)


def _promotion(falsifier: Falsifier, status: str, assessment: Assessment, ledger: Ledger) -> Promotion:
    """The new status with the newest evidence, which the contract is to link by its path in the project."""
    from aprtui.contracts.changes.promotion import Promotion

    newest = assessment.newest
    if newest is None:
        return Promotion(falsifier, status)
    path, root = newest.path.absolute(), ledger.project.root.absolute()
    link = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
    return Promotion(falsifier, status, newest.record, link)
