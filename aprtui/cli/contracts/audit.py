"""`aprtui contracts audit`: how well contracts are covered, with score and level."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aprtui.cli.contracts.findings import (
    fails,
    finding_options,
    reported,
    totals,
    write_github,
    write_json,
    write_sarif,
)
from aprtui.cli.contracts.shared import path_type, paths_argument, print_line, read_documents
from aprtui.cli.json_lines import write_record
from aprtui.contracts.documents.document import Document
from aprtui.contracts.documents.validation import Finding
from aprtui.errors import ExitCode

if TYPE_CHECKING:
    from aprtui.contracts.audit.bindings import BindingRegistry

_MOST_ALIKE, _FEW = 8, 3


@click.command()
@paths_argument
@click.option("--binding", metavar="FILE", type=path_type, help="The registry that binds equations to functions.")
@click.option("--source", metavar="DIR", type=path_type, help="The source tree that has to have these functions.")
@click.option(
    "--min-score", "least_score", metavar="SHARE", type=click.FloatRange(0, 1), default=0.0,
    help="A lower score is an error.",
)  # fmt: skip
@click.option(
    "--min-level", "least_level", type=click.Choice(["basic", "standard", "strict", "proven"]), default="basic",
    help="A lower level of enforcement is a warning.",
)  # fmt: skip
@finding_options
def command(
    paths: tuple[Path, ...], binding: Path | None, source: Path | None, least_score: float, least_level: str,
    strict: bool, suppressed: tuple[str, ...], baseline: Path | None, to_write: bool, form: str, as_json: bool,
) -> int:  # fmt: skip
    """Say how well contracts are covered: score, level, and what is missing, by the codes of pv audit and pv lint;
    aprtui's own contracts without PATH. It counts what a contract writes down: whether that holds is for check and
    verify-evidence.

    Exit code 0: no errors; 1: errors (with --strict: or warnings); 3: a contract or the registry cannot be read.
    """
    from aprtui.contracts.audit.bindings import read_bindings
    from aprtui.contracts.audit.rules import AuditContext, audit, duplicates
    from aprtui.contracts.audit.score import EnforcementLevel
    from aprtui.contracts.source_tree import SourceTree

    documents, broken = read_documents(paths)
    tree = None if source is None else SourceTree(source)
    registry = None if binding is None else read_bindings(binding, tree)
    context = AuditContext(registry, least_score, EnforcementLevel[least_level.upper()])
    findings = tuple(finding for document in documents for finding in audit(document, context))
    found = reported((*findings, *duplicates(documents)), documents, suppressed, baseline, to_write)
    records = [_record(document, registry) for document in documents]
    if as_json or form == "json":
        for record in records:
            write_record(record)
        write_json(found, _summary(records))
    elif form == "sarif":
        write_sarif(found, "audit")
    elif form == "github":
        write_github(found)
    else:
        _write_findings(found.findings)
        _write_table(records)
        click.echo(totals(found))
    if broken:
        return ExitCode.UNREADABLE
    return ExitCode.DIVERGENCE if fails(found.findings, strict) else ExitCode.PASS


def _record(document: Document, registry: BindingRegistry | None) -> dict[str, Any]:
    from aprtui.contracts.audit.score import claims_proof, enforcement_level, proof_level, score_of
    from aprtui.contracts.documents.validation import Severity, validate

    valid = not any(finding.severity is Severity.ERROR for finding in validate(document))
    score = score_of(document, registry)
    return {
        "record": "contract", "path": str(document.path), "contract": document.name,
        "kind": document.metadata.kind or ("kernel" if document.is_kernel else "registry"), "valid": valid,
        "level": proof_level(document).name, "claims_proof": claims_proof(document),
        "enforcement": enforcement_level(document, registry).label,
        "score": round(score.total, 4) if valid else None, "grade": score.grade if valid else None,
        "shares": {name: round(share, 4) for name, share in score.shares.items()},
    }  # fmt: skip


def _write_findings(findings: Sequence[Finding]) -> None:
    """The findings by code, the first few of each: a folder of kernels has hundreds alike."""
    by_code: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_code[finding.code].append(finding)
    for code, alike in by_code.items():
        shown = alike if len(alike) <= _MOST_ALIKE else alike[:_FEW]
        for finding in shown:
            print_line(str(finding))
        if len(shown) < len(alike):
            click.echo(f"  … and {len(alike) - len(shown)} more {code}: --format json lists all")


def _summary(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    scores = [record["score"] for record in records if record["valid"]]
    levels = Counter(record["level"] for record in records if record["valid"])
    return {
        "contracts": len(records), "invalid": len(records) - len(scores), "levels": dict(sorted(levels.items())),
        "mean_score": round(sum(scores) / len(scores), 4) if scores else None,
        "least_score": min(scores, default=None),
    }  # fmt: skip


def _write_table(records: Sequence[dict[str, Any]]) -> None:
    if not records:
        return
    width = min(max(len(record["contract"]) for record in records), 44)
    names = list(records[0]["shares"])
    click.echo(f"{'':<{width}}  level  enforced  score  " + "  ".join(names))
    for record in sorted(records, key=lambda record: (record["score"] is None, -(record["score"] or 0))):
        name = f"{record['contract'][:width]:<{width}}"
        if not record["valid"]:
            print_line(f"{name}  not valid: aprtui contracts validate says why")
            continue
        shares = "  ".join(f"{share:>{len(name)}.2f}" for name, share in record["shares"].items())
        claim = "  claims a proof of all: not given, Lean is not run" if record["claims_proof"] else ""
        level = f"{record['level']:<5}  {record['enforcement']:<8}  {record['score']:.2f} {record['grade']}"
        print_line(f"{name}  {level}  {shares}{claim}")
    summary = _summary(records)
    if (mean := summary["mean_score"]) is not None:
        levels = ", ".join(f"{count} at {level}" for level, count in summary["levels"].items())
        invalid = f", {summary['invalid']} not valid" if summary["invalid"] else ""
        click.echo(
            f"{len(records)} contract(s): {levels}{invalid}; score {mean:.2f}, least {summary['least_score']:.2f}"
        )
