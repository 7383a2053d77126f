"""`aprtui contracts withdraw`: take back the status of falsifiers."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aprtui.cli.contracts.shared import print_line
from aprtui.cli.contracts.statuses import PROPOSED, RAISED, falsifiers_of, rewrite, split_words, status_of
from aprtui.contracts.documents.document import maturity_of
from aprtui.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from aprtui.contracts.changes.promotion import Promotion
    from aprtui.contracts.documents.document import Document


@click.command()
@click.argument("words", nargs=-1, metavar="ID… [LEVEL] [PATH…]", required=True)
def command(words: tuple[str, ...]) -> int:
    """Take back the status of falsifiers: to PROPOSED, to BLOCKER_…, or to a level below the present one. No evidence
    is needed for that, and none is removed. aprtui's own contracts without PATH.

    Contracts are edited as promote edits them.

    Exit code 0: done, or the status was so already; 2: no such falsifier or level, or one above the present status;
    3: a contract cannot be read, or not be edited in place; 4: it cannot be written.
    """
    from aprtui.contracts.changes.promotion import Promotion

    ids, level, paths = split_words("withdraw", words, (PROPOSED, *RAISED))
    status = status_of(level or PROPOSED)
    chosen: dict[Path, list[Promotion]] = defaultdict(list)
    documents: dict[Path, Document] = {}
    for document, falsifier in falsifiers_of("withdraw", ids, paths):
        if falsifier.status == status:
            print_line(f"{document.path}: {falsifier.id} is {status} already")
            continue
        if maturity_of(status) > max(falsifier.maturity, maturity_of("BLOCKER_")):
            was = falsifier.status or "without status"
            raise UsageError(
                f"withdraw: {falsifier.id} is {was}, not above {status}: aprtui contracts promote raises it"
            )
        documents[document.path] = document
        chosen[document.path].append(Promotion(falsifier, status))
    for path, changes in chosen.items():
        rewrite(documents[path], changes)
    return ExitCode.PASS
