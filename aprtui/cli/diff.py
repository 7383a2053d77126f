"""`aprtui diff`: compare two captures, or two APRT stage files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aprtui.cli.json_lines import write_record
from aprtui.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from aprtui.compare.captures import DiffOptions
    from aprtui.compare.comparison import Comparison
    from aprtui.compare.context import Context
    from aprtui.compare.verdict import Verdict
    from aprtui.trace.aprt import AprtFile
    from aprtui.trace.capture import Capture

_APR_FORMAT = "apr-stage-diff-v1"
_ANY_VOCABULARY = 1 << 32


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--stage", "stages", metavar="STAGES", help="Comma list of stage names or globs; all by default.")
@click.option("--layers", metavar="LAYERS", help="0..2 (END excluded), a list 0,3 or all; all by default.")
@click.option(
    "--tolerance",
    "tolerances",
    metavar="METRIC=X",
    multiple=True,
    help="The most that max_abs, mean_abs, rms or rel_l2 may be, or the least for cosine. Repeatable.",
)
@click.option(
    "--allow-missing",
    metavar="GLOB",
    multiple=True,
    help="Stages that need not be on both sides, as ffn_silu or layer-3/*. Repeatable.",
)
@click.option(
    "--tokens",
    metavar="1,2,3",
    help="Token ids, for captures without a manifest or _PROVENANCE.txt to record them.",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    metavar="K",
    help="Elements shown of the stage to look at first.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a stage, then hints and a summary.")
@click.option(
    "--format", "file_format", type=click.Choice([_APR_FORMAT]), help="For two files: the record of apr diff --values."
)
def command(
    a: Path,
    b: Path,
    stages: str | None,
    layers: str | None,
    tolerances: tuple[str, ...],
    allow_missing: tuple[str, ...],
    tokens: str | None,
    limit: int,
    as_json: bool,
    file_format: str | None,
) -> int:
    """Compare B with the reference A: two captures, or two APRT stage files.

    Names the first divergent stage. Equal values pass; values that differ need a --tolerance to be judged by.

    Each row of the table is one stage over all its layers: "first" is its first layer beyond the tolerance (without
    one, beyond rounding: rel_l2 above 1e-5), "worst" the layer whose numbers are shown, "nan/inf" how many values in
    all its layers are not finite on one side or both.

    Exit codes: 0 pass, 1 divergence, 2 usage, 3 unreadable input, 4 output failed, 70 internal error, 125 cannot be
    judged, 130 interrupted.
    """
    from aprtui.cli.options import parse_tokens
    from aprtui.compare.captures import DiffOptions
    from aprtui.compare.coverage import Selection
    from aprtui.compare.verdict import parse_tolerance

    options = DiffOptions(
        selection=Selection(stages, layers),
        tolerances=tuple(parse_tolerance(text) for text in tolerances),
        allow_missing=allow_missing,
        tokens=None if tokens is None else tuple(parse_tokens(tokens, _ANY_VOCABULARY)),
        limit=limit,
    )
    if as_json and file_format:
        raise UsageError("--json and --format: choose one of them")
    if a.is_file() and b.is_file():
        if stages is not None or layers is not None or allow_missing or tokens is not None:
            raise UsageError("--stage, --layers, --allow-missing, --tokens: for captures only, leave them out here")
        return _diff_files(a, b, options, as_json, file_format is not None)
    if file_format:
        raise UsageError(f"--format {_APR_FORMAT}: needs two APRT stage files, not captures")
    return _diff_captures(a, b, options, as_json)


def _diff_files(a: Path, b: Path, options: DiffOptions, as_json: bool, as_apr: bool) -> int:
    from aprtui.compare.apr_diff import apr_stage_diff
    from aprtui.compare.files import compare_files
    from aprtui.trace.aprt import read_aprt

    left, right = read_aprt(a), read_aprt(b)
    for file in (left, right):
        warn_about_trailing(file)
    _remark_on_names(a, b)
    comparison = compare_files(left, right, options.tolerances, options.limit)
    if as_apr:
        write_record(apr_stage_diff(left, right, options.limit, comparison.verdict))
    else:
        _print(a, b, None, comparison, options, as_json)
    return _exit_code(comparison.verdict)


def _remark_on_names(a: Path, b: Path) -> None:
    """Say on stderr where two files are named after different stages; which stage a file holds, only its name tells."""
    from aprtui.trace.graph import canonical_name, known_names

    left, right = canonical_name(a.stem), canonical_name(b.stem)
    if left != right and {left, right} <= set(known_names()):
        click.echo(
            f"aprtui: A is named {left}, B {right}: two stages, compared element by element all the same", err=True
        )


def warn_about_trailing(file: AprtFile) -> None:
    """Say on stderr that a stage file holds more than it declares."""
    if file.trailing:
        from aprtui.compare.wording import counted

        extra = counted(file.trailing, "byte")
        click.echo(f"aprtui: {file.path}: {extra} after the declared values ignored", err=True)


def _diff_captures(a: Path, b: Path, options: DiffOptions, as_json: bool) -> int:
    from aprtui.cli.progress import Progress
    from aprtui.compare.captures import compare_captures
    from aprtui.compare.context import state_context
    from aprtui.trace.capture import Capture

    for path, other in ((a, b), (b, a)):
        if path.is_file() and other.is_dir():
            raise UsageError(f"{path}: is a file, {other} a directory: compare two captures or two stage files")
    left, right = Capture.open(a), Capture.open(b)
    for capture in dict.fromkeys((a, b)):
        warn_about(left if capture == a else right)
    with Progress() as progress:
        comparison = compare_captures(left, right, options, progress if sys.stderr.isatty() else None)
    _print(a, b, state_context(left, right), comparison, options, as_json)
    return _exit_code(comparison.verdict)


def warn_about(capture: Capture) -> None:
    """Say on stderr what is odd about a capture: its warnings, and files that are none of its own."""
    for warning in capture.warnings:
        click.echo(f"aprtui: {warning}", err=True)
    for path in capture.stale:
        click.echo(f"aprtui: {path}: stale: not this capture's own file, not read", err=True)


def _print(
    a: Path, b: Path, context: Context | None, comparison: Comparison, options: DiffOptions, as_json: bool
) -> None:
    if as_json:
        from aprtui.compare.records import comparison_records

        for record in comparison_records(a, b, context, comparison):
            write_record(record)
        return
    from aprtui.cli import render

    sections = (
        render.header_lines(a, b, context, comparison),
        render.table_lines(comparison),
        render.note_lines(comparison),
        render.verdict_lines(comparison, a, b, options),
    )
    blocks = ["\n".join(lines) for lines in sections]
    click.echo("\n\n".join(block for block in blocks if block))


def _exit_code(verdict: Verdict) -> int:
    return {"PASS": ExitCode.PASS, "FAIL": ExitCode.DIVERGENCE, "UNKNOWN": ExitCode.UNKNOWN}[verdict.value]
