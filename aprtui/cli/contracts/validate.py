"""`aprtui contracts validate`: whether contracts are well formed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from aprtui.cli.contracts.shared import paths_argument, paths_or_own, print_line, write_finding
from aprtui.cli.json_lines import write_record
from aprtui.contracts.documents.loading import contract_files
from aprtui.contracts.documents.reader import read_document
from aprtui.contracts.documents.validation import REFUSED, Finding, validate
from aprtui.errors import AprtuiError, ExitCode, UnreadableError

PV_DECLINED, PV_REFUSED = 2, 3

Result = tuple[Path, "tuple[Finding, ...] | AprtuiError"]


@click.command()
@paths_argument
@click.option("--pv-exit-codes", is_flag=True, help="Exit as pv does: 2 missing or empty, 3 refused.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object a finding, one a file, and a summary.")
def command(paths: tuple[Path, ...], pv_exit_codes: bool, as_json: bool) -> int:
    """Check that contracts are well formed; a directory means every .yaml file below it, no PATH aprtui's own.

    Exit code 0: no errors; 1: errors; 3: a file cannot be read.
    """
    try:
        files = contract_files(paths_or_own(paths))
    except UnreadableError as error:
        if pv_exit_codes:
            click.echo(f"aprtui: {error}", err=True)
            return PV_DECLINED
        raise
    results = list(_validated(files))
    (_write_json if as_json else _write_text)(results)
    broken = [path for path, found in results if isinstance(found, AprtuiError)]
    refused = any(_is_refused(found) for _, found in results if not isinstance(found, AprtuiError))
    if refused and not broken and pv_exit_codes:
        return PV_REFUSED
    if broken and pv_exit_codes:
        return PV_DECLINED if all(_is_missing_or_empty(path) for path in broken) else PV_REFUSED
    if broken:
        return ExitCode.UNREADABLE
    return ExitCode.DIVERGENCE if any(_count(found)["ERROR"] for _, found in results) else ExitCode.PASS


def _validated(files: Sequence[Path]) -> Iterator[Result]:
    for path in files:
        try:
            yield path, validate(read_document(path))
        except UnreadableError as error:
            yield path, error


def _is_refused(found: tuple[Finding, ...]) -> bool:
    """Whether a document is none that pv reads."""
    return any(finding.code == REFUSED for finding in found)


def _is_missing_or_empty(path: Path) -> bool:
    return not path.exists() or (path.is_file() and path.stat().st_size == 0)


def _count(found: tuple[Finding, ...] | AprtuiError) -> Counter[str]:
    return Counter() if isinstance(found, AprtuiError) else Counter(str(finding.severity) for finding in found)


def _write_text(results: Sequence[Result]) -> None:
    for path, found in results:
        if isinstance(found, AprtuiError):
            click.echo(f"aprtui: {found}", err=True)
            continue
        if len(results) > 1:
            click.echo(f"{path}:")
        for finding in found:
            print_line(str(finding))
        counts = _count(found)
        click.echo(f"\n{counts['ERROR']} error(s), {counts['WARN']} warning(s)")
        if not counts["ERROR"]:
            click.echo("Contract is valid.")
    if len(results) > 1:
        click.echo(f"\n{_totals(results)}")


def _totals(results: Sequence[Result]) -> str:
    read = [found for _, found in results if not isinstance(found, AprtuiError)]
    total = sum((_count(found) for found in read), Counter[str]())
    valid, refused = sum(not _count(found)["ERROR"] for found in read), sum(map(_is_refused, read))
    states = f"{valid} valid, {refused} refused, {len(results) - len(read)} unreadable"
    return f"{len(results)} files: {states}; {total['ERROR']} error(s), {total['WARN']} warning(s)"


def _write_json(results: Sequence[Result]) -> None:
    total: Counter[str] = Counter()
    unreadable = 0
    for path, found in results:
        if isinstance(found, AprtuiError):
            unreadable += 1
            click.echo(f"aprtui: {found}", err=True)
            write_record({"record": "file", "path": str(path), "valid": None, "error": str(found)})
            continue
        for finding in found:
            write_finding(finding)
        counts = _count(found)
        total += counts
        write_record(
            {
                "record": "file", "path": str(path), "valid": not counts["ERROR"], "errors": counts["ERROR"],
                "warnings": counts["WARN"],
            }
        )  # fmt: skip
    write_record(
        {
            "record": "summary", "files": len(results), "unreadable": unreadable,
            "errors": total["ERROR"], "warnings": total["WARN"],
        }
    )  # fmt: skip
