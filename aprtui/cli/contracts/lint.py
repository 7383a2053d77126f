"""`aprtui contracts lint`: drift between contracts and the things that they name."""

from __future__ import annotations

from pathlib import Path

import click

from aprtui.cli.contracts.findings import (
    fails,
    finding_options,
    reported,
    totals,
    write_github,
    write_json,
    write_sarif,
    write_text,
)
from aprtui.cli.contracts.shared import evidence_dir_option, path_type, paths_argument, read_documents
from aprtui.errors import ExitCode


@click.command()
@paths_argument
@click.option("--source", metavar="DIR", type=path_type, help="The source tree that evidence names.")
@evidence_dir_option
@click.option("--coverage", is_flag=True, help="List commands and stages of aprtui that no falsifier binds, too.")
@finding_options
def command(
    paths: tuple[Path, ...], source: Path | None, evidence_dir: Path | None, coverage: bool, strict: bool,
    suppressed: tuple[str, ...], baseline: Path | None, to_write: bool, form: str, as_json: bool,
) -> int:  # fmt: skip
    """Find things that contracts name and that do not exist, and claims without evidence; aprtui's own contracts
    without PATH. What evidence refutes cannot be suppressed.

    Exit code 0: no errors; 1: errors (with --strict: or warnings); 3: a contract cannot be read.
    """
    from aprtui.contracts.evidence.assessment import ledger_of
    from aprtui.contracts.lint.rules import LintContext, lint, reverse_coverage
    from aprtui.contracts.source_tree import SourceTree

    documents, broken = read_documents(paths)
    ledgers = {document.path: ledger_of(document, evidence_dir) for document in documents}
    program = click.get_current_context().find_root().command
    assert isinstance(program, click.Group), "the root of every command line is the program itself"
    context = LintContext(SourceTree(source) if source else None, options_by_command(program), ledgers)
    findings = tuple(finding for document in documents for finding in lint(document, context))
    if coverage:
        findings += reverse_coverage(documents, tuple(context.options))
    found = reported(findings, documents, suppressed, baseline, to_write)
    if as_json or form == "json":
        write_json(found)
    elif form == "sarif":
        write_sarif(found, "lint")
    elif form == "github":
        write_github(found)
    else:
        write_text(found)
        click.echo(totals(found))
    if broken:
        return ExitCode.UNREADABLE
    return ExitCode.DIVERGENCE if fails(found.findings, strict) else ExitCode.PASS


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
