"""`aprtui contracts check`: whether what contracts claim holds for the captures at hand."""

from __future__ import annotations

import shlex
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aprtui.cli.contracts.record import RecordRequest, projects_to_record, record
from aprtui.cli.contracts.shared import (
    assessment_record,
    assessment_text,
    evidence_dir_option,
    path_type,
    paths_argument,
    print_line,
    read_documents,
)
from aprtui.cli.json_lines import write_record
from aprtui.cli.options import MODEL
from aprtui.contracts.documents.document import Document, Falsifier
from aprtui.errors import VERDICT_CODES, ExitCode, UsageError
from aprtui.resources import contracts, embedded_model

if TYPE_CHECKING:
    from aprtui.contracts.checks.arguments import CheckSubject
    from aprtui.contracts.checks.judgement import Judgement
    from aprtui.contracts.checks.mapping import CheckMap
    from aprtui.contracts.evidence.assessment import Ledger
    from aprtui.contracts.panel import PanelRow
    from aprtui.model.model import Model
    from aprtui.trace.capture import Capture

_NOT_JUDGED = "NONE"

Result = tuple[Document, "PanelRow"]


@click.command()
@paths_argument
@click.option("--capture", "capture_path", metavar="DIR", type=path_type, help="The capture to judge.")
@click.option("--reference", "reference_path", metavar="DIR", type=path_type, help="The capture to hold it against.")
@click.option(
    "--model", "model_path", metavar="MODEL", type=MODEL,
    help="The model to run for claims about one; the embedded model by default for aprtui's own contracts.",
)  # fmt: skip
@click.option("--id", "ids", metavar="GLOB", multiple=True, help="Only falsifiers with such an id; may be repeated.")
@click.option(
    "--mapping", "mapping_file", metavar="FILE", type=path_type, help="More checks for falsifiers, by their ids."
)
@click.option(
    "--run-commands", "to_run", metavar="ID", multiple=True,
    help="Run the test of this falsifier, without a shell; may be repeated.",
)  # fmt: skip
@click.option("--timeout", metavar="SECONDS", type=click.FloatRange(0, 86400, min_open=True), default=60.0,
              show_default=True, help="How long such a command may take.")  # fmt: skip
@click.option("--record", "to_record", is_flag=True, help="Write an evidence file for each PASS and FAIL.")
@evidence_dir_option
@click.option("--json", "as_json", is_flag=True, help="A JSON object a falsifier, and a summary.")
@click.option("--bisect", is_flag=True, help="Exit 125 on anything but pass, failure and interrupt: git bisect run.")
def command(
    paths: tuple[Path, ...], capture_path: Path | None, reference_path: Path | None, model_path: Path | None,
    ids: tuple[str, ...], mapping_file: Path | None, to_run: tuple[str, ...], timeout: float, to_record: bool,
    evidence_dir: Path | None, as_json: bool, bisect: bool,
) -> int:  # fmt: skip
    """Judge the falsifiers of contracts by built-in checks; aprtui's own contracts where no PATH is given.

    A command in a contract is run only where --run-commands names its falsifier; claims about a model run the model.

    Exit code 0: some falsifier was judged, and all that were hold; 1: one fails; 3: a contract, a capture or the model
    cannot be read; 125: one cannot be judged, or none has a check.
    """
    if reference_path is not None and capture_path is None:
        raise UsageError("--reference is what --capture is held against: give --capture too")
    documents, broken = read_documents(paths)
    chosen = [(read, test) for read in documents for test in read.falsifiers if _is_chosen(test.id, ids)]
    known = {test.id for _, test in chosen}
    for name in to_run:
        if name not in known:
            raise UsageError(f"--run-commands {name!r}: no falsifier has this id: see aprtui contracts check --json")
    if ids and not chosen:
        raise UsageError(f"--id {' '.join(ids)}: no falsifier has such an id")
    from aprtui.contracts.checks.arguments import CheckSubject
    from aprtui.contracts.evidence.assessment import ledger_of

    projects = projects_to_record(chosen, evidence_dir) if to_record else {}
    subject_of = partial(_subject_of, CheckSubject(_opened(capture_path), _opened(reference_path), _model(model_path)))
    ledgers = {document.path: ledger_of(document, evidence_dir) for document in documents}
    results = _judged(chosen, subject_of, ledgers, _mapping(mapping_file), dict.fromkeys(to_run, timeout))
    counts = Counter(_word(row) for _, row in results)
    verdict = _overall(counts)
    recorded = {}
    if to_record:
        request = RecordRequest(capture_path, reference_path, model_path, mapping_file, to_run, timeout)
        recorded = record([(read, row, tuple(_lines(row))) for read, row in results], projects, subject_of, request)
    if as_json:
        _write_json(results, counts, verdict, recorded)
    else:
        _write_text(results, counts, verdict)
    if broken:
        return ExitCode.UNREADABLE
    return VERDICT_CODES[verdict]


def _judged(
    chosen: Sequence[tuple[Document, Falsifier]], subject_of: Callable[[Document], CheckSubject],
    ledgers: Mapping[Path, Ledger], mapping: CheckMap, timeouts: Mapping[str, float],
) -> list[Result]:  # fmt: skip
    """A row for each falsifier; the commands of those in `timeouts` are run."""
    from aprtui.cli.progress import ProgressLine
    from aprtui.contracts.panel import panel_row

    results = []
    with ProgressLine() as progress:
        for done, (document, falsifier) in enumerate(chosen):
            progress(f"judging {falsifier.id},", done, len(chosen))
            row = panel_row(document, falsifier, subject_of(document), mapping, ledgers[document.path])
            if falsifier.id in timeouts:
                row = replace(row, judgement=_run(falsifier, timeouts[falsifier.id]))
            results.append((document, row))
    return results


@cache
def _model(path: Path | None) -> Model | None:
    if path is None:
        return None
    from aprtui.model.model import load_model

    return load_model(path)


def _subject_of(subject: CheckSubject, document: Document) -> CheckSubject:
    """`subject`, with the embedded model where a contract of our own is judged and no model is given."""
    if subject.model is not None or not document.path.resolve().is_relative_to(contracts().resolve()):
        return subject
    return replace(subject, model=_model(embedded_model()))


def _is_chosen(name: str, ids: tuple[str, ...]) -> bool:
    return not ids or any(fnmatchcase(name, glob) for glob in ids)


def _opened(path: Path | None) -> Capture | None:
    if path is None:
        return None
    from aprtui.cli.comparison.options import warn_about
    from aprtui.recordings.captures.stand_in import open_capture

    capture = open_capture(path)
    warn_about(capture)
    return capture


def _mapping(path: Path | None) -> CheckMap:
    from aprtui.contracts.checks.mapping import own_mapping, read_mapping

    return own_mapping() if path is None else {**own_mapping(), **read_mapping(path)}


def _run(falsifier: Falsifier, timeout: float) -> Judgement:
    from aprtui.contracts.checks.judgement import unknown
    from aprtui.contracts.commands import command_words, run_command

    words = command_words(falsifier)
    if isinstance(words, str):
        return unknown(words)
    print_line(f"aprtui: {falsifier.id}: running: {shlex.join(words)}", err=True)
    return run_command(words, timeout)


def _word(row: PanelRow) -> str:
    return _NOT_JUDGED if row.judgement is None else str(row.judgement.verdict)


def _overall(counts: Counter[str]) -> str:
    """FAIL before UNKNOWN before PASS; nothing judged is no PASS."""
    if counts["FAIL"]:
        return "FAIL"
    return "PASS" if counts["PASS"] and not counts["UNKNOWN"] else "UNKNOWN"


def _lines(row: PanelRow) -> Iterator[str]:
    judgement = row.judgement
    claim = row.falsifier.status or "no status"
    yield f"  {'–' if judgement is None else judgement.verdict:<8}{row.falsifier.id}  {claim}"
    if judgement is None:
        return
    measured = ""
    if judgement.number is not None:
        measured = f"{judgement.metric} {judgement.number:.6g}, bound {judgement.bound:.6g}: "
    yield from _wrapped(f"{measured}{judgement.reason}")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 80, initial_indent=" " * 10, subsequent_indent=" " * 10)


def _doubts(row: PanelRow) -> Iterator[str]:
    """Why recorded evidence carries less than it once did."""
    newest = row.assessment.newest
    if newest is not None and (newest.standing != "fresh" or row.assessment.refuted):
        yield from _wrapped(f"evidence: {assessment_text(row.assessment)}")


def _write_text(results: Sequence[Result], counts: Counter[str], verdict: str) -> None:
    last: Path | None = None
    for document, row in results:
        if document.path != last:
            life_cycle = f"  document {document.life_cycle}" if document.life_cycle else ""
            print_line(f"{document.name} {document.metadata.version}{life_cycle}")
            last = document.path
        for line in (*_lines(row), *_doubts(row)):
            print_line(line)
    click.echo(
        f"{verdict}: {counts['PASS']} hold, {counts['FAIL']} fail, {counts['UNKNOWN']} unknown, "
        f"{counts[_NOT_JUDGED]} without a check"
    )


def _write_json(
    results: Sequence[Result], counts: Counter[str], verdict: str, recorded: Mapping[tuple[Path, str], Path]
) -> None:
    for document, row in results:
        file = recorded.get((document.path, row.falsifier.id))
        write_record({**_record(document, row), "recorded": None if file is None else str(file)})
    write_record(
        {
            "record": "summary", "verdict": verdict, "pass": counts["PASS"], "fail": counts["FAIL"],
            "unknown": counts["UNKNOWN"], "without_check": counts[_NOT_JUDGED],
        }
    )  # fmt: skip


def _record(document: Document, row: PanelRow) -> dict[str, Any]:
    falsifier, binding, judgement = row.falsifier, row.binding, row.judgement
    return {
        "record": "falsifier",
        "path": str(document.path),
        "line": falsifier.line,
        "contract": document.name,
        "life_cycle": document.life_cycle,
        "id": falsifier.id,
        "rule": falsifier.title,
        "claims": [{"key": claim.key, "status": claim.status} for claim in falsifier.claims],
        "check": None if row.check is None else row.check.name,
        "parameters": {} if row.check is None else row.check.parameters,
        "stages": binding.stages,
        "layers": None if binding.layers is None else sorted(binding.layers),
        "inferred": binding.inferred,
        "verdict": None if judgement is None else str(judgement.verdict),
        "testable": None if judgement is None else judgement.testable,
        "reason": None if judgement is None else judgement.reason,
        "metric": None if judgement is None else judgement.metric or None,
        "number": None if judgement is None else judgement.number,
        "bound": None if judgement is None else judgement.bound,
        "nodes": [{"layer": node.layer, "stage": node.stage} for node in row.nodes],
        "evidence": assessment_record(row.assessment),
    }
