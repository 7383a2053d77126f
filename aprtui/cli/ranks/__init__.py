"""`aprtui ranks`: the ranks of one model put together, and which of them parts from the others."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aprtui.cli.import_ import steps_option
from aprtui.cli.json_lines import write_record
from aprtui.cli.options import LOCAL_PATH, MODEL, PATH
from aprtui.cli.progress import ProgressLine
from aprtui.errors import VERDICT_CODES, UsageError

if TYPE_CHECKING:
    from aprtui.importing.ranks.result import RankedStage, RankReport
    from aprtui.importing.reading import ImportRequest


@click.command()
@click.argument("source", type=LOCAL_PATH)
@click.option("--dims", "described", type=PATH, metavar="FILE", help="How ranks share the stages: a YAML file.")
@click.option("--out", "directory", type=PATH, metavar="DIR", help="Write the whole capture to DIR as well.")
@click.option("--guess", is_flag=True, help="Propose a file for --dims on stdout, with what proves each line.")
@click.option("--write-dims", type=PATH, metavar="FILE", help="With --guess: write the proposal to FILE.")
@click.option("--model", type=MODEL, metavar="MODEL", help="The model that was run: what stages it has, how wide.")
@click.option("--as", "format_name", metavar="FORMAT", help="The format of SOURCE, where it is not recognised.")
@click.option("--map", "mapping", type=PATH, metavar="FILE", help="Which tensors are which stages: a YAML file.")
@steps_option
@click.option("--sequence", type=click.IntRange(0), metavar="N", help="Which sequence of a batch.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a stage tensor, the summary last.")
@click.option("--overwrite", is_flag=True, help="Replace the capture in DIR, or the file of --write-dims.")
def command(
    source: Path, described: Path | None, directory: Path | None, guess: bool, write_dims: Path | None,
    model: Path | None, format_name: str | None, mapping: Path | None, steps: range | None, sequence: int | None,
    as_json: bool, overwrite: bool,
) -> int:  # fmt: skip
    """Put what the ranks of one model left behind together, and say whether copies that must be equal are.

    SOURCE is a folder of ranks (rank-0, rank-1, …, a capture in each), or a dump of several ranks by SGLang, msProbe or
    TensorRT-LLM. How ranks share each stage is said by SGLang's dims in the dump, by aprtui-ranks.yaml in SOURCE, or by
    --dims; --guess proposes it. What is not described is refused.

    Exit codes: 0 the copies agree, 1 a rank parts, 2 usage, 3 unreadable input, 4 output failed, 70 internal error, 125
    cannot be judged, 130 interrupted.
    """
    from aprtui.importing.import_format import PartChoice
    from aprtui.importing.reading import ImportRequest
    from aprtui.model.model import load_model

    if guess and (directory is not None or described is not None):
        raise UsageError("--guess makes a file for --dims: give neither --dims nor --out with it")
    if write_dims is not None and not guess:
        raise UsageError("--write-dims goes with --guess")
    loaded = None if model is None else load_model(model, headers_only=True)
    known = () if loaded is None else (loaded.graph, loaded.name)
    request = ImportRequest(format_name, mapping, PartChoice(None, steps, sequence), *known)
    if guess:
        return _propose(source, request, write_dims, overwrite)
    from aprtui.importing.ranks.result import description_of, join_ranks

    with ProgressLine() as progress:
        description = description_of(source, described)
        report = join_ranks(source, directory, request, description, progress, overwrite=overwrite)
    _print(report, as_json)
    if directory is not None:
        chosen = [] if model is None else ["--model", str(model)]
        click.echo(f"aprtui: next: {shlex.join(['aprtui', 'replay', str(directory), *chosen])}", err=True)
    return VERDICT_CODES[report.verdict]


def _propose(source: Path, request: ImportRequest, write_dims: Path | None, overwrite: bool) -> int:
    from aprtui.importing.ranks.guess import propose
    from aprtui.trace.aprt import write_atomically

    with ProgressLine() as progress:
        text = propose(source, request, progress)
    if write_dims is not None:
        if write_dims.exists() and not overwrite:
            raise UsageError(f"{write_dims}: exists: choose another name, or --overwrite replaces it")
        write_atomically(write_dims, text.encode())
        click.echo(f"aprtui: written to {write_dims}: read it before you use it", err=True)
    click.echo(text, nl=False)
    return 0


def _print(report: RankReport, as_json: bool) -> None:
    for note in _notes(report):
        click.echo(f"aprtui: {note}", err=True)
    if as_json:
        for stage in report.stages:
            write_record(_record(stage))
        write_record(
            {
                "record": "summary", "verdict": report.verdict.value, "headline": report.headline,
                "path": str(report.path), "ranks": report.ranks, "groups": report.sizes, "tokens": report.tokens,
                "token_count": report.token_count, "stage_tensors": len(report.stages), "missing": report.missing,
            }
        )  # fmt: skip
        return
    groups = ", ".join(f"{name} {size}" for name, size in report.sizes.items())
    click.echo(f"{report.path}: {len(report.ranks)} ranks: {groups}\n")
    click.echo(f"{'stage':<22} {'layers':<9} {'dims':<30} copies")
    for line in _rows(report.stages):
        click.echo(line)
    click.echo(f"\n{report.verdict.value}  {report.headline}")


def _notes(report: RankReport) -> Iterator[str]:
    yield from report.missing
    padded = [stage for stage in report.stages if stage.padding]
    if padded:
        yield f"rows of padding are left out of {len(padded)} stage tensors, {padded[0].padding} of {padded[0].node}"


def _record(stage: RankedStage) -> dict[str, object]:
    copies = stage.copies
    found = {} if copies is None else {
        "copies": copies.state.value, "ranks": copies.ranks, "parting": copies.parting, "distance": copies.distance,
        "bound": copies.bound, "words": copies.words,
    }  # fmt: skip
    shape = {"layer": stage.node.layer, "stage": stage.node.stage, "dims": stage.dims, "shape": stage.shape}
    return {"record": "stage", **shape, "padding": stage.padding, **found}


def _rows(stages: Sequence[RankedStage]) -> Iterator[str]:
    """A line for each stage of the same dims, over its layers: the worst of its copies."""
    groups: dict[tuple[str, str], list[RankedStage]] = {}
    for stage in stages:
        groups.setdefault((stage.node.stage, stage.dims), []).append(stage)
    for (name, dims), found in groups.items():
        layers = [stage.node.layer for stage in found if stage.node.layer is not None]
        shown = "–" if not layers else f"{min(layers)}" if len(layers) == 1 else f"{min(layers)}…{max(layers)}"
        yield f"{name:<22} {shown:<9} {dims:<30} {_copies_words(found)}".rstrip()


def _copies_words(stages: Sequence[RankedStage]) -> str:
    from aprtui.compare.wording import number_text
    from aprtui.importing.ranks.copies import CopyState

    order = tuple(CopyState)
    copied = [stage.copies for stage in stages if stage.copies is not None]
    if not copied:
        return "–"
    worst = max(copied, key=lambda copies: (order.index(copies.state), copies.distance))
    if worst.state is CopyState.EQUAL:
        return "equal"
    return f"{worst.state.value}: {number_text(worst.distance)} of {number_text(worst.bound)}"
