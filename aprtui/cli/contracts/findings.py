"""What `lint` and `audit` share: which findings count, and the forms that they are written in."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aprtui.cli.contracts.shared import path_type, print_line, write_finding
from aprtui.cli.json_lines import write_record
from aprtui.contracts.documents.document import Document
from aprtui.contracts.documents.validation import Finding, Severity
from aprtui.errors import UsageError

if TYPE_CHECKING:
    from aprtui.contracts.suppression import Reported

Command = Callable[..., Any]

_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_WORDS = {"errors": Severity.ERROR, "warnings": Severity.WARN, "notes": Severity.INFO}

_OPTIONS = (
    click.option("--strict", is_flag=True, help="Warnings make exit code 1 too."),
    click.option(
        "--suppress", "suppressed", metavar="CODE[@CONTRACT]", multiple=True,
        help="Hide findings of a code, in one contract or in all; globs; may be repeated.",
    ),
    click.option(
        "--baseline", "baseline", metavar="FILE", type=path_type, help="Hide the findings that this file knows."
    ),
    click.option("--write-baseline", "to_write", is_flag=True, help="Write the present findings to --baseline FILE."),
    click.option(
        "--format", "form", type=click.Choice(["text", "json", "sarif", "github"]), default="text", show_default=True
    ),
    click.option("--json", "as_json", is_flag=True, help="The same as --format json."),
)  # fmt: skip


def finding_options(command: Command) -> Command:
    """The options of a command that reports findings."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def reported(
    findings: Sequence[Finding], documents: Sequence[Document], suppressed: tuple[str, ...], baseline: Path | None,
    to_write: bool,
) -> Reported:  # fmt: skip
    """The findings that count. With `to_write` the baseline is written, and they are all known from then on.

    Raises `UsageError` for suppressions that may not be, and `UnreadableError` for a baseline that cannot be read.
    """
    from aprtui.contracts.suppression import Suppressions, read_baseline, suppressions_of, write_baseline

    if to_write and baseline is None:
        raise UsageError("--write-baseline: say with --baseline FILE where to")
    written = suppressions_of(suppressed)
    if to_write and baseline is not None:
        left = written.apply(findings, []).findings
        print_line(f"aprtui: {write_baseline(baseline, left)} finding(s) written to {baseline}", err=True)
    known = None if baseline is None else read_baseline(baseline)
    return Suppressions(written.written, known).apply(findings, [document.path for document in documents])


def fails(findings: Sequence[Finding], strict: bool) -> bool:
    """Whether one of `findings` makes exit code 1."""
    wrong = {Severity.ERROR, Severity.WARN} if strict else {Severity.ERROR}
    return any(finding.severity in wrong for finding in findings)


def counted(findings: Sequence[Finding]) -> dict[str, int]:
    """How many errors, warnings and notes there are."""
    return {name: sum(finding.severity is word for finding in findings) for name, word in _WORDS.items()}


def totals(found: Reported) -> str:
    """The findings in numbers."""
    counts = counted(found.findings)
    notes = f", {counts['notes']} note(s)" if counts["notes"] else ""
    hidden = f", {found.hidden} suppressed" if found.hidden else ""
    return f"{counts['errors']} error(s), {counts['warnings']} warning(s){notes}{hidden}"


def write_text(found: Reported) -> None:
    for finding in found.findings:
        print_line(str(finding))


def write_json(found: Reported, more: Mapping[str, Any] | None = None) -> None:
    """A record for each finding, and a summary with `more`."""
    for finding in found.findings:
        write_finding(finding)
    write_record({"record": "summary", **counted(found.findings), "suppressed": found.hidden, **(more or {})})


def write_github(found: Reported) -> None:
    """Annotations of GitHub Actions: properties and message are escaped as its runner unescapes them."""
    for finding in found.findings:
        kind = {"ERROR": "error", "WARN": "warning", "INFO": "notice"}[finding.severity]
        path = _escaped(str(finding.path)).replace(":", "%3A").replace(",", "%2C")
        click.echo(f"::{kind} file={path},line={finding.line},title={finding.code}::{_escaped(finding.message)}")


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def write_sarif(found: Reported, command: str) -> None:
    """SARIF 2.1.0 for code scanning, with the meaning of each code that occurs and what to do."""
    from aprtui.build import this_build
    from aprtui.contracts.codes import CODES

    rules = [
        {"id": code, "shortDescription": {"text": known.states}, "help": {"text": known.fix}}
        for code, known in CODES.items()
        if command in known.command
    ]
    driver = {"name": f"aprtui contracts {command}", "version": str(this_build()), "rules": rules}
    run = {"tool": {"driver": driver}, "results": [_sarif_result(finding) for finding in found.findings]}
    click.echo(json.dumps({"$schema": _SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1))


def _sarif_result(finding: Finding) -> dict[str, Any]:
    place = {"artifactLocation": {"uri": finding.path.as_posix()}, "region": {"startLine": finding.line}}
    return {
        "ruleId": finding.code,
        "level": {"ERROR": "error", "WARN": "warning", "INFO": "note"}[finding.severity],
        "message": {"text": finding.message},
        "locations": [{"physicalLocation": place}],
    }
