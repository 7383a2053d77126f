"""`aprtui import`: captures of other tools as captures of ours."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aprtui.cli.json_lines import write_record
from aprtui.cli.options import LOCAL_PATH, MODEL, PATH
from aprtui.cli.progress import ProgressLine
from aprtui.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aprtui.importing.reading import ImportRequest
    from aprtui.trace.graph.stage import Node


def _list_formats(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if not value or context.resilient_parsing:
        return
    from aprtui.importing.formats.registry import FORMATS, SAMPLE_FORMATS

    for entry in FORMATS:
        click.echo(f"{entry.name:<22} {entry.words}")
    click.echo("parts of tensors, for diff only:")
    for parts in SAMPLE_FORMATS:
        click.echo(f"{parts.name:<22} {parts.words}")
    context.exit()


def _steps(_context: click.Context, _parameter: click.Parameter, value: str | None) -> range | None:
    if value is None:
        return None
    first, dots, end = value.partition("..")
    if not first.isdecimal() or (dots and not end.isdecimal()) or len(value) > 20:
        raise click.BadParameter(f"{value!r:.40}: expected a step, or a range as 0..4 (END excluded)")
    found = range(int(first), int(end) if dots else int(first) + 1)
    if not found:
        raise click.BadParameter(f"{value!r}: an empty range: END is excluded")
    return found


steps_option = click.option(
    "--step", "steps", metavar="N|N..M", callback=_steps, help="Which forward passes; they are joined."
)
"""`--step`, parsed to a range."""


@click.command()
@click.argument("source", type=LOCAL_PATH)
@click.option("--out", "directory", type=PATH, metavar="DIR", help="Where the capture is written.")
@click.option("--map", "mapping", type=PATH, metavar="FILE", help="Which tensors are which stages: a YAML file.")
@click.option("--as", "format_name", metavar="FORMAT", help="The format of SOURCE, where it is not recognised.")
@click.option("--formats", is_flag=True, is_eager=True, expose_value=False, callback=_list_formats,
              help="List the formats and exit.")  # fmt: skip
@click.option("--guess", is_flag=True, help="Propose a mapping on stdout, with how sure each rule is.")
@click.option("--write-map", type=PATH, metavar="FILE", help="With --guess: write the mapping to FILE.")
@click.option("--model", type=MODEL, metavar="MODEL", help="The model that was run: what stages it has, how wide.")
@click.option("--rank", type=click.IntRange(0), metavar="N", help="Which rank of several.")
@steps_option
@click.option("--sequence", type=click.IntRange(0), metavar="N", help="Which sequence of a batch.")
@click.option("--json", "as_json", is_flag=True, help="Print a record of what was written.")
@click.option("--overwrite", is_flag=True, help="Replace the capture in DIR.")
def command(
    source: Path, directory: Path | None, mapping: Path | None, format_name: str | None, guess: bool,
    write_map: Path | None, model: Path | None, rank: int | None, steps: range | None, sequence: int | None,
    as_json: bool, overwrite: bool,
) -> int:  # fmt: skip
    """Write what another tool has dumped as a capture, which every command takes.

    SOURCE is a folder or a file. Formats that tell which stages their tensors are need nothing else, and replay, diff
    and open take them as they are. For other files of tensors, a mapping says it; --guess proposes one. Of a recording
    (`aprtui record`), the stages are written that its ops are.

    Exit codes: 0 done, 2 usage, 3 unreadable input, 4 output failed, 70 internal error, 130 interrupted.
    """
    from aprtui.importing.import_format import PartChoice
    from aprtui.importing.reading import ImportRequest
    from aprtui.model.model import load_model
    from aprtui.recordings.reading import is_recording

    of_others = (mapping, format_name, rank, steps, sequence)
    if is_recording(source) and (guess or any(option is not None for option in of_others)):
        raise UsageError(f"{source}: a recording of ops: only --out, --model, --json and --overwrite go with it")
    if guess == (directory is not None):
        raise UsageError("give either --out DIR, or --guess")
    if (guess and mapping is not None) or (write_map is not None and not guess):
        raise UsageError("--guess makes a mapping, --map takes one; --write-map goes with --guess")
    loaded = None if model is None else load_model(model, headers_only=True)
    known = () if loaded is None else (loaded.graph, loaded.name)
    request = ImportRequest(format_name, mapping, PartChoice(rank, steps, sequence), *known)
    if directory is None:
        return _propose(source, request, write_map, overwrite)
    return _write(source, directory, request, model, as_json, overwrite)


def _propose(source: Path, request: ImportRequest, write_map: Path | None, overwrite: bool) -> int:
    from aprtui.importing.importer import propose_mapping
    from aprtui.trace.aprt import write_atomically

    proposal = propose_mapping(source, request)
    text = proposal.text()
    if write_map is not None:
        if write_map.exists() and not overwrite:
            raise UsageError(f"{write_map}: exists: choose another name, or --overwrite replaces it")
        write_atomically(write_map, text.encode())
        click.echo(f"aprtui: mapping written to {write_map}: read it before you use it", err=True)
    click.echo(text, nl=False)
    if not proposal.mapping.rules:
        click.echo("aprtui: no stage is sure or likely: write its rules before --map takes the mapping", err=True)
    return 0


def _write(
    source: Path, directory: Path, request: ImportRequest, model: Path | None, as_json: bool, overwrite: bool
) -> int:
    from aprtui.importing.importer import import_capture
    from aprtui.recordings.reading import is_recording

    if is_recording(source):
        return _write_recording(source, directory, model, as_json, overwrite)
    with ProgressLine() as progress:
        imported = import_capture(source, directory, request, progress, overwrite=overwrite)
    _said(
        directory, imported.nodes, imported.size, imported.tokens, imported.token_count, imported.notes, as_json
    )  # fmt: skip
    chosen = ["--model", "MODEL" if model is None else str(model)]
    click.echo(f"aprtui: next: {shlex.join(['aprtui', 'replay', str(directory), *chosen])}", err=True)
    return 0


def _said(
    directory: Path, nodes: Sequence[Node], size: int, tokens: Sequence[int] | None, token_count: int | None,
    notes: Sequence[str], as_json: bool,
) -> None:  # fmt: skip
    for note in notes:
        click.echo(f"aprtui: {note}", err=True)
    if as_json:
        write_record(
            {
                "record": "import", "path": str(directory), "stage_tensors": len(nodes), "bytes": size,
                "tokens": tokens, "token_count": token_count, "notes": notes,
            }
        )  # fmt: skip
    else:
        count = "an unknown number of" if token_count is None else token_count
        click.echo(f"{directory}: {len(nodes)} stage tensors of {count} tokens, {size / 1e6:.1f} MB")


def _write_recording(source: Path, directory: Path, model: Path | None, as_json: bool, overwrite: bool) -> int:
    """Write the stages that the ops of a recording are."""
    from aprtui.recordings.captures.as_capture import write_as_capture
    from aprtui.recordings.reading import Recording

    recording = Recording.open(source)
    tokens = recording.header.tokens
    with ProgressLine() as progress:
        written = write_as_capture(recording, model, directory, progress, overwrite=overwrite)
    _said(directory, written.nodes, written.size, tokens, len(tokens), written.notes, as_json)
    return 0
