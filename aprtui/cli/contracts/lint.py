"""`aprtui contracts lint`: drift between contracts and the things that they name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from aprtui.cli.contracts.shared import (
    evidence_dir_option,
    path_type,
    paths_argument,
    print_line,
    read_documents,
    write_finding,
)
from aprtui.cli.json_lines import write_record
from aprtui.contracts.documents.validation import Finding, Severity
from aprtui.errors import ExitCode

_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


@click.command()
@paths_argument
@click.option("--source", metavar="DIR", type=path_type, help="The source tree that evidence names.")
@evidence_dir_option
@click.option("--strict", is_flag=True, help="Warnings make exit code 1 too.")
@click.option("--coverage", is_flag=True, help="List commands and stages of aprtui that no falsifier binds, too.")
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "sarif", "github"]), default="text", show_default=True
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def command(
    paths: tuple[Path, ...], source: Path | None, evidence_dir: Path | None, strict: bool, coverage: bool, form: str,
    as_json: bool,
) -> int:  # fmt: skip
    """Find things that contracts name and that do not exist, and claims without evidence; aprtui's own contracts
    without PATH.

    Exit code 0: no errors; 1: errors (with --strict: or warnings); 3: a contract cannot be read.
    """
    from aprtui.contracts.evidence.assessment import ledger_of
    from aprtui.contracts.lint.rules import LintContext, lint, reverse_coverage
    from aprtui.contracts.lint.source_tree import SourceTree

    documents, broken = read_documents(paths)
    ledgers = {document.path: ledger_of(document, evidence_dir) for document in documents}
    program = click.get_current_context().find_root().command
    assert isinstance(program, click.Group), "the root of every command line is the program itself"
    context = LintContext(SourceTree(source) if source else None, options_by_command(program), ledgers)
    findings = tuple(finding for document in documents for finding in lint(document, context))
    if coverage:
        findings += reverse_coverage(documents, tuple(context.options))
    {"json": _write_json, "sarif": _write_sarif, "github": _write_github, "text": _write_text}[
        "json" if as_json else form
    ](findings)
    if broken:
        return ExitCode.UNREADABLE
    wrong = {Severity.ERROR, Severity.WARN} if strict else {Severity.ERROR}
    return ExitCode.DIVERGENCE if any(finding.severity in wrong for finding in findings) else ExitCode.PASS


def options_by_command(group: click.Group, words: tuple[str, ...] = ()) -> dict[str, frozenset[str]]:
    """The options of each command below `group`, by the words of the command after `words`."""
    context = click.Context(group, info_name=words[-1] if words else "aprtui")
    context.help_option_names = ["-h", "--help"]
    found: dict[str, frozenset[str]] = {}
    for name in group.list_commands(context):
        subcommand = group.get_command(context, name)
        if isinstance(subcommand, click.Group):
            found |= options_by_command(subcommand, (*words, name))
        elif subcommand is not None:
            inner = click.Context(subcommand, parent=context)
            options = (text for param in subcommand.get_params(inner) for text in (*param.opts, *param.secondary_opts))
            found[" ".join((*words, name))] = frozenset(options)
    return found


def _write_text(findings: Sequence[Finding]) -> None:
    for finding in findings:
        print_line(str(finding))
    counts = _counted(findings)
    notes = f", {counts['notes']} note(s)" if counts["notes"] else ""
    click.echo(f"{counts['errors']} error(s), {counts['warnings']} warning(s){notes}")


def _counted(findings: Sequence[Finding]) -> dict[str, int]:
    words = {"errors": "ERROR", "warnings": "WARN", "notes": "INFO"}
    return {name: sum(finding.severity == word for finding in findings) for name, word in words.items()}


def _write_json(findings: Sequence[Finding]) -> None:
    for finding in findings:
        write_finding(finding)
    write_record({"record": "summary", **_counted(findings)})


def _write_github(findings: Sequence[Finding]) -> None:
    """Annotations of GitHub Actions: properties and message are escaped as its runner unescapes them."""
    for finding in findings:
        kind = {"ERROR": "error", "WARN": "warning", "INFO": "notice"}[finding.severity]
        path = _escaped(str(finding.path)).replace(":", "%3A").replace(",", "%2C")
        click.echo(f"::{kind} file={path},line={finding.line},title={finding.code}::{_escaped(finding.message)}")


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _write_sarif(findings: Sequence[Finding]) -> None:
    from aprtui import __version__
    from aprtui.contracts.lint.rules import COVERAGE_RULES, LINT_RULES

    states = {rule.code: rule.states for rule in LINT_RULES} | COVERAGE_RULES
    rules = [{"id": code, "shortDescription": {"text": text}} for code, text in states.items()]
    driver = {"name": "aprtui contracts lint", "version": __version__, "rules": rules}
    run = {"tool": {"driver": driver}, "results": [_sarif_result(finding) for finding in findings]}
    click.echo(json.dumps({"$schema": _SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1))


def _sarif_result(finding: Finding) -> dict[str, Any]:
    place = {"artifactLocation": {"uri": finding.path.as_posix()}, "region": {"startLine": finding.line}}
    return {
        "ruleId": finding.code,
        "level": {"ERROR": "error", "WARN": "warning", "INFO": "note"}[finding.severity],
        "message": {"text": finding.message},
        "locations": [{"physicalLocation": place}],
    }
