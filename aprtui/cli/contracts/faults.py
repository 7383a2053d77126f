"""`aprtui contracts faults`: which faults turn each falsifier red."""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aprtui.cli.contracts.shared import paths_argument, print_line, read_documents
from aprtui.cli.json_lines import write_record
from aprtui.cli.options import MODEL
from aprtui.compare.wording import counted
from aprtui.errors import ExitCode
from aprtui.resources import embedded_model

if TYPE_CHECKING:
    from aprtui.contracts.fault_table import FaultRow


@click.command()
@paths_argument
@click.option("--model", "model_path", metavar="MODEL", type=MODEL, help="The model to run; the embedded one.")
@click.option("--id", "ids", metavar="GLOB", multiple=True, help="Only falsifiers with such an id; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object a falsifier, and a summary.")
def command(paths: tuple[Path, ...], model_path: Path | None, ids: tuple[str, ...], as_json: bool) -> int:
    """Plant faults in captures of a model and say which turn each falsifier red; aprtui's own contracts without PATH.
    Falsifiers that are judged on captures are tested, with one fault of each kind, and with files that a writer got
    wrong.

    Exit code 0: each can fail; 1: one is vacuous, no fault fails it; 3: a contract or the model cannot be read; 125: no
    falsifier is judged on captures.
    """
    from aprtui.cli.progress import ProgressLine
    from aprtui.contracts.checks.mapping import check_of, own_mapping
    from aprtui.contracts.fault_table import FaultTable
    from aprtui.model.model import load_model

    documents, broken = read_documents(paths)
    model = load_model(model_path or embedded_model())
    chosen = [
        (document, test, check)
        for document in documents
        for test in document.falsifiers
        if (check := check_of(test, own_mapping())) is not None
        and (not ids or any(fnmatchcase(test.id, glob) for glob in ids))
    ]
    rows = []
    with tempfile.TemporaryDirectory(prefix="aprtui-faults-") as folder, ProgressLine() as progress:
        for row in FaultTable(model, Path(folder), progress).rows(chosen):
            rows.append(row)
            if as_json:
                write_record(_record(row))
            else:
                for line in _lines(row):
                    print_line(line)
    vacuous = [row for row in rows if row.vacuous]
    if as_json:
        write_record({"record": "summary", "falsifiers": len(rows), "vacuous": len(vacuous)})
    else:
        click.echo(f"{counted(len(rows), 'falsifier')} of captures, {len(vacuous)} vacuous")
    if broken:
        return ExitCode.UNREADABLE
    if vacuous:
        return ExitCode.DIVERGENCE
    return ExitCode.PASS if rows else ExitCode.UNKNOWN


def _lines(row: FaultRow) -> Iterator[str]:
    from aprtui.contracts.fault_table import LOCALISERS

    yield f"{row.falsifier.id}  {row.check.name}" + (f"  VACUOUS: {row.vacuous}" if row.vacuous else "")
    caught, missed = ("places", "does not see") if row.check.name in LOCALISERS else ("red", "passes")
    yield from _listed({caught: row.caught, "misfires": row.misfired, missed: row.missed})
    yield from _listed({"nothing to judge": row.refused})
    if row.beside is not None:
        bounds = ", ".join(f"{name} {row.beside.check.parameters[name]:g}" for name in ("at_least", "at_most"))
        yield f"  beside it, by the stage graph (one_origin, {bounds}):"
        found = {"places": row.beside.places, "misfires": row.beside.misfired, "does not see": row.beside.missed}
        yield from _listed(found, "    ")


def _listed(found: Mapping[str, Sequence[str]], indent: str = "  ") -> Iterator[str]:
    for word, names in found.items():
        if names:
            text = f"{word} ({len(names)}): {', '.join(names)}"
            yield from textwrap.wrap(text, 100, initial_indent=indent, subsequent_indent=f"{indent}  ")


def _record(row: FaultRow) -> dict[str, Any]:
    return {
        "record": "falsifier", "contract": row.document.name, "id": row.falsifier.id, "check": row.check.name,
        "honest": str(row.honest), "red": row.caught, "misfires": row.misfired, "passes": row.missed,
        "nothing_to_judge": row.refused,
        "vacuous": row.vacuous or None,
        "beside": None if row.beside is None else {
            "check": row.beside.check.name, "parameters": row.beside.check.parameters, "red": row.beside.places,
            "misfires": row.beside.misfired, "passes": row.beside.missed,
        },
    }  # fmt: skip
