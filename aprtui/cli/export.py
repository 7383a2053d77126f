"""`aprtui export`: captures and comparisons as files of other programs, and captures as one file."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aprtui.cli.options import PATH
from aprtui.errors import UnreadableError, UsageError

if TYPE_CHECKING:
    from aprtui.trace.export.selection import ExportSelection

FORMATS = ("npy", "safetensors", "csv", "jsonl", "zip", "tar.zst")
_TABLES = ("csv", "jsonl")
_STANDARD = Path("-")


@click.command()
@click.argument("source", metavar="CAPTURE|COMPARISON", type=PATH)
@click.option("--out", "target", type=PATH, required=True, metavar="FILE|DIR", help="Where to write; - is stdout.")
@click.option("--format", "form", type=click.Choice(FORMATS), help="By the suffix of --out by default, else npy.")
@click.option("--stage", "stages", metavar="STAGES", help="Comma list of stage names or globs; all by default.")
@click.option("--layers", metavar="LAYERS", help="0..2 (END excluded), a list 0,3 or all; all by default.")
@click.option("--tokens", metavar="POSITIONS", help="Positions, as layers are given; all by default.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as a JSON object.")
def command(
    source: Path, target: Path, form: str | None, stages: str | None, layers: str | None, tokens: str | None,
    overwrite: bool, as_json: bool,
) -> None:  # fmt: skip
    """Write the values of a CAPTURE for other programs, or the capture itself as one file; or a COMPARISON, the output
    of diff --json or replay --json (- reads it from stdin), as a table.

    npy: a folder of arrays. safetensors: one file. csv, jsonl: a row for each value, or for each stage of a comparison.
    zip, tar.zst: the capture as one file, which every command takes. Bits are kept, NaN payloads included. Of a
    recording (`aprtui record`), the stages that its ops are.

    Exit codes: 0 done, 2 usage, 3 unreadable input, 4 output failed, 70 internal error, 130 interrupted.
    """
    from aprtui.cli.json_lines import write_record
    from aprtui.compare.wording import counted
    from aprtui.trace.archive import is_single_file

    chosen = form or _by_suffix(target)
    if target == _STANDARD and chosen not in _TABLES:
        raise UsageError(f"--out -: {chosen} does not go to stdout: use --format csv or jsonl, or name a file")
    if source == _STANDARD or is_single_file(source):
        if stages is not None or layers is not None or tokens is not None:
            raise UsageError("--stage, --layers and --tokens are for captures: select them in the comparison")
        if chosen not in _TABLES:
            raise UsageError(f"--format {chosen}: a comparison is a table: use csv or jsonl")
        done = _export_comparison(source, target, chosen, overwrite)
    else:
        done = _export_capture(source, target, chosen, (stages, layers, tokens), overwrite)
    if target == _STANDARD:
        return
    if as_json:
        write_record({"record": "summary", "out": str(target), "format": chosen, **done})
    else:
        ((what, count),) = done.items()
        click.echo(f"{target}: {counted(count, what.removesuffix('s').replace('_', ' '))}")
    if chosen in ("zip", "tar.zst"):
        click.echo(f"aprtui: next: aprtui stats {shlex.quote(str(target))}", err=True)


def _by_suffix(target: Path) -> str:
    name = target.name.lower()
    found = next((form for form in FORMATS if name.endswith(f".{form}")), None)
    if found is None and target.suffix and not target.is_dir():
        raise UsageError(
            f"{target}: no format has the suffix {target.suffix}: expected one of {', '.join(FORMATS)}, or --format npy"
            " for a folder of that name"
        )
    return found or ("csv" if target == _STANDARD else "npy")


def _export_comparison(source: Path, target: Path, form: str, overwrite: bool) -> dict[str, int]:
    from aprtui.compare.report.table import COMPARISON_FIELDS, comparison_rows

    with _lines_of(source) as lines:
        rows = comparison_rows(lines, str(source))
        return {"rows": _write_table(rows, COMPARISON_FIELDS, form, target, overwrite)}


@contextmanager
def _lines_of(source: Path) -> Iterator[Iterator[str]]:
    if source == _STANDARD:
        yield iter(sys.stdin)
        return
    try:
        with open(source, encoding="utf-8", errors="replace") as file:
            yield file
    except OSError as error:
        raise UnreadableError(f"{source}: cannot be read: {error.strerror or error}") from error


def _export_capture(
    source: Path, target: Path, form: str, chosen: tuple[str | None, str | None, str | None], overwrite: bool
) -> dict[str, int]:
    from aprtui.cli.comparison.options import warn_about
    from aprtui.cli.comparison.recordings import readable
    from aprtui.cli.progress import ProgressLine
    from aprtui.trace.capture import Capture
    from aprtui.trace.export import archives, tensors
    from aprtui.trace.export.rows import VALUE_FIELDS, value_rows
    from aprtui.trace.export.selection import select

    if form in ("zip", "tar.zst") and chosen[2] is not None:
        raise UsageError(f"--tokens: a capture as .{form} has all of its tokens: leave it out")
    with ProgressLine() as progress, readable(source, lambda: None, progress) as folder:
        capture = Capture.open(folder)
        warn_about(capture)
        selection = select(capture, *chosen)
        if form in _TABLES:
            return {"rows": _write_table(value_rows(selection), VALUE_FIELDS, form, target, overwrite)}
        write: Callable[[ExportSelection, Path, bool], int] = {
            "npy": tensors.write_npy, "safetensors": tensors.write_safetensors,
            "zip": archives.write_zip, "tar.zst": archives.write_tar_zst,
        }[form]  # fmt: skip
        return {"stage_tensors": write(selection, target, overwrite)}


def _write_table(
    rows: Iterator[Mapping[str, Any]], fields: Sequence[str], form: str, target: Path, overwrite: bool
) -> int:
    from aprtui.trace.export.rows import TABLES, write_table

    if target != _STANDARD:
        return write_table(rows, fields, form, target, overwrite)
    done = TABLES[form](rows, fields, sys.stdout.buffer)
    sys.stdout.buffer.flush()
    return done
