"""`aprtui contracts status`: how far claims go, what evidence carries, and what waits for what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aprtui.cli.contracts.shared import (
    assessment_record,
    assessment_text,
    evidence_dir_option,
    paths_argument,
    print_line,
    read_documents,
)
from aprtui.cli.json_lines import write_record
from aprtui.compare.wording import counted
from aprtui.contracts.documents.document import Document, Maturity
from aprtui.errors import ExitCode

if TYPE_CHECKING:
    from aprtui.contracts.rollup import AssessedFalsifier, Wait

_NO_LIFE_CYCLE = "not stated"


@click.command()
@paths_argument
@evidence_dir_option
@click.option("--json", "as_json", is_flag=True, help="A JSON object a falsifier, one a wait, and a summary.")
def command(paths: tuple[Path, ...], evidence_dir: Path | None, as_json: bool) -> int:
    """Say how far claims go, what evidence carries, and what waits for what; aprtui's own contracts without PATH.

    Nothing is judged here: check judges, lint says what is wrong. Exit code 0; 3: a contract cannot be read.
    """
    from aprtui.contracts.evidence.assessment import ledger_of
    from aprtui.contracts.rollup import assess_falsifiers, waits

    documents, broken = read_documents(paths)
    found = assess_falsifiers(documents, {document.path: ledger_of(document, evidence_dir) for document in documents})
    (_write_json if as_json else _write_text)(documents, found, waits(documents))
    return ExitCode.UNREADABLE if broken else ExitCode.PASS


def _write_text(documents: Sequence[Document], found: Sequence[AssessedFalsifier], waited: Sequence[Wait]) -> None:
    for lines in (_ladder(found), _life_cycles(documents), _falsifiers(documents, found), _waits(waited)):
        for line in lines:
            print_line(line)


def _ladder(found: Sequence[AssessedFalsifier]) -> Iterator[str]:
    from aprtui.contracts.rollup import levels

    yield f"maturity of {counted(len(found), 'falsifier')}"
    yield f"  {'level':<24}{'claimed':>9}{'carried':>9}{'ever carried':>14}"
    for level in levels(found):
        if level.level is not Maturity.UNRANKED or level.claimed:
            yield f"  {level.level.label:<24}{level.claimed:>9}{level.carried:>9}{level.ever:>14}"


def _life_cycles(documents: Sequence[Document]) -> Iterator[str]:
    counts = Counter(document.life_cycle or _NO_LIFE_CYCLE for document in documents)
    listed = ", ".join(f"{word} {count}" for word, count in counts.most_common())
    yield f"life cycle of {counted(len(documents), 'document')}: {listed or 'none'}"


def _falsifiers(documents: Sequence[Document], found: Sequence[AssessedFalsifier]) -> Iterator[str]:
    for document in documents:
        yield ""
        yield f"{document.name} {document.metadata.version}, document {document.life_cycle or _NO_LIFE_CYCLE}"
        own = [assessed for assessed in found if assessed.document is document]
        words = [(assessed.falsifier.id, assessed.falsifier.status or "no status") for assessed in own]
        widths = [max(map(len, column)) for column in zip(*words, strict=True)]
        for (name, status), assessed in zip(words, own, strict=True):
            excess = _excess(assessed)
            evidence = assessment_text(assessed.assessment) + (f": {excess}" if excess else "")
            yield f"  {name:<{widths[0]}}  {status:<{widths[1]}}  evidence: {evidence}"


def _excess(assessed: AssessedFalsifier) -> str:
    """Says that the status claims more than the evidence carries; empty where it does not, or needs no evidence."""
    falsifier, assessment = assessed.falsifier, assessed.assessment
    needs_evidence = falsifier.check is not None or assessment.evidence
    if not needs_evidence or falsifier.maturity < Maturity.ALGORITHM or falsifier.maturity <= assessment.now:
        return ""
    return "the status claims more" + (" than any evidence gave" if falsifier.maturity > assessment.ever else "")


def _waits(waited: Sequence[Wait]) -> Iterator[str]:
    if waited:
        yield ""
        yield "what waits for what"
    for wait in waited:
        yield f"  {wait.name}{_state(wait)}: {_how_many(wait)}"
        for waiting in wait.waiting:
            who = f" {waiting.falsifier.id}" if waiting.falsifier is not None else ""
            why = f" ({waiting.blocker.key})" if waiting.blocker is not None else ""
            yield f"    {waiting.document.name}{who}{why}"


def _how_many(wait: Wait) -> str:
    from aprtui.contracts.rollup import WaitKind

    if wait.kind is WaitKind.BLOCKER:
        return f"{counted(len(wait.waiting), 'claim')} wait{'s' if len(wait.waiting) == 1 else ''} for it"
    return f"{counted(len(wait.waiting), 'contract')} depend{'s' if len(wait.waiting) == 1 else ''} on it"


def _state(wait: Wait) -> str:
    """The state of the falsifier or contract that is waited for, if it is among these contracts."""
    from aprtui.contracts.rollup import WaitKind

    if wait.falsifier is not None:
        return f" ({wait.falsifier.status or 'no status'})"
    if wait.document is not None:
        counts = Counter(test.status or "no status" for test in wait.document.falsifiers)
        listed = ", ".join(f"{status} {count}" for status, count in counts.most_common())
        return f" (document {wait.document.life_cycle or _NO_LIFE_CYCLE}; {listed or 'no falsifiers'})"
    return " (not among these contracts)" if wait.kind is WaitKind.CONTRACT else ""


def _write_json(documents: Sequence[Document], found: Sequence[AssessedFalsifier], waited: Sequence[Wait]) -> None:
    from aprtui.contracts.rollup import levels

    for assessed in found:
        write_record(_record(assessed))
    for wait in waited:
        write_record(_wait_record(wait))
    write_record(
        {
            "record": "summary",
            "documents": len(documents),
            "life_cycles": Counter(document.life_cycle or "" for document in documents),
            "falsifiers": len(found),
            "levels": {
                level.level.label: {"claimed": level.claimed, "carried": level.carried, "ever_carried": level.ever}
                for level in levels(found)
            },
        }
    )


def _record(assessed: AssessedFalsifier) -> dict[str, Any]:
    document, falsifier = assessed.document, assessed.falsifier
    return {
        "record": "falsifier",
        "path": str(document.path),
        "line": falsifier.line,
        "contract": document.name,
        "version": document.metadata.version,
        "life_cycle": document.life_cycle,
        "id": falsifier.id,
        "claims": [{"key": claim.key, "status": claim.status} for claim in falsifier.claims],
        "status": falsifier.status,
        "level": falsifier.maturity.label,
        "evidence": assessment_record(assessed.assessment),
    }


def _wait_record(wait: Wait) -> dict[str, Any]:
    return {
        "record": "wait",
        "name": wait.name,
        "kind": str(wait.kind),
        "contract": None if wait.document is None else wait.document.name,
        "falsifier": None if wait.falsifier is None else wait.falsifier.id,
        "waiting": [
            {
                "contract": waiting.document.name,
                "falsifier": None if waiting.falsifier is None else waiting.falsifier.id,
                "key": None if waiting.blocker is None else waiting.blocker.key,
                "text": None if waiting.blocker is None else waiting.blocker.text,
            }
            for waiting in wait.waiting
        ],
    }
