"""`aprtui contracts verify-evidence`: recorded evidence, executed again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aprtui.cli.contracts.shared import path_type, print_line
from aprtui.cli.json_lines import write_record
from aprtui.cli.options import MODEL
from aprtui.errors import ExitCode, UnreadableError, UsageError
from aprtui.resources import contracts, embedded_model

if TYPE_CHECKING:
    from aprtui.contracts.rerun import Rerun
    from aprtui.model.model import Model


@click.command()
@click.argument("paths", nargs=-1, metavar="[FILE…]", type=path_type)
@click.option(
    "--model", "models", metavar="MODEL", type=MODEL, multiple=True,
    help="A model that evidence may be about, beside the embedded one; may be repeated.",
)  # fmt: skip
@click.option("--capture", "capture_path", metavar="DIR", type=path_type, help="A capture of another engine.")
@click.option("--reference", "reference_path", metavar="DIR", type=path_type, help="A reference of another engine.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object a file, and a summary.")
def command(
    paths: tuple[Path, ...], models: tuple[Path, ...], capture_path: Path | None, reference_path: Path | None,
    as_json: bool,
) -> int:  # fmt: skip
    """Execute recorded evidence again, on the same model and tokens, and compare the numbers. FILE may be a folder: the
    newest evidence of each falsifier in it; the evidence of aprtui's own contracts by default.

    Captures of aprtui are made again. Those of another engine are to be given as --capture and --reference.

    Exit code 0: the same, or moved within its spread; 1: refuted, or it fails still; 3: a file is no evidence, or was
    edited since; 125: some cannot be executed here.
    """
    from aprtui.cli.progress import ProgressLine
    from aprtui.contracts.rerun import RerunOutcome, rerun_evidence
    from aprtui.recordings.captures.stand_in import open_capture

    files = tuple(_files(paths or (contracts() / "evidence",)))
    sides = {"capture": capture_path, "reference": reference_path}
    given = {role: open_capture(path) for role, path in sides.items() if path is not None}
    counts: Counter[str] = Counter()
    broken = False
    with ProgressLine() as progress:
        for done, path in enumerate(files):
            progress("executing evidence,", done, len(files))
            try:
                found = rerun_evidence(path, lambda name, digest: _model(models, name, digest), given)
            except UnreadableError as error:
                click.echo(f"aprtui: {error}", err=True)
                broken = True
                continue
            counts[found.outcome] += 1
            if as_json:
                write_record(_record(found))
            else:
                for line in _lines(found):
                    print_line(line)
    listed = {str(outcome): counts[outcome] for outcome in RerunOutcome}
    if as_json:
        write_record({"record": "summary", **listed})
    else:
        click.echo(", ".join(f"{count} {word}" for word, count in listed.items()))
    if broken:
        return ExitCode.UNREADABLE
    if counts[RerunOutcome.REFUTED]:
        return ExitCode.DIVERGENCE
    return ExitCode.UNKNOWN if counts[RerunOutcome.UNKNOWN] or not counts else ExitCode.PASS


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """The evidence files of `paths`; of a folder, the newest of each falsifier. Raises `UsageError` for one without."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = sorted(path.rglob("*.json"))
        if not found:
            raise UsageError(f"{path}: holds no evidence: record some with aprtui contracts check --record")
        yield from {(file.parent, _falsifier(file)): file for file in found}.values()


def _falsifier(path: Path) -> str:
    """The falsifier's part of a file's name, before the date and the number behind it."""
    head, _, tail = path.stem.rpartition("-")
    return head.rpartition("-")[0] if tail.isdecimal() else head


@cache
def _model(paths: tuple[Path, ...], name: str, digest: str) -> Model | None:
    from aprtui.model.lookup import find_models
    from aprtui.model.model import load_model
    from aprtui.trace.manifest import ModelInfo

    found = find_models(ModelInfo(name, digest, "", None), (*paths, embedded_model()))
    return load_model(found[0]) if found else None


def _lines(found: Rerun) -> Iterator[str]:
    yield f"  {found.outcome:<9}{found.record.falsifier}  {found.record.date[:10]}  {found.path.name}"
    yield f"           {found.reason}"
    if found.notes:
        yield f"           since then: {', '.join(found.notes)}"


def _record(found: Rerun) -> dict[str, Any]:
    now = found.judgement
    return {
        "record": "evidence",
        "path": str(found.path),
        "contract": found.record.contract,
        "falsifier": found.record.falsifier,
        "outcome": str(found.outcome),
        "reason": found.reason,
        "recorded": {"verdict": str(found.record.verdict), "number": found.record.number, "bound": found.record.bound},
        "now": None if now is None else {"verdict": str(now.verdict), "number": now.number, "bound": now.bound},
        "notes": found.notes,
    }
