"""`aprtui stats`: statistics of each stage tensor of a capture, of one stage file, or of each tensor of a model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aprtui.cli.json_lines import write_record
from aprtui.cli.options import MODEL
from aprtui.errors import ExitCode, UnreadableError, UsageError

if TYPE_CHECKING:
    from aprtui.compare.survey import Entry, StageSummary
    from aprtui.model.tensor_table import TensorInfo, TensorSummary
    from aprtui.trace.capture import StageFile
    from aprtui.trace.experts import ExpertUse
    from aprtui.trace.graph.stage import Node
    from aprtui.trace.stats import StageStats

_HEAD = f"{'layer':>5} {'stage':<18} {'shape':<15}{'min':>10}{'max':>10}{'mean':>10}{'rms':>10}"


@click.command()
@click.argument("path", metavar="CAPTURE|FILE|MODEL|RECORDING", type=MODEL)
@click.option("--stage", "stages", metavar="STAGES", help="Comma list of stage names or globs; all by default.")
@click.option("--layers", metavar="LAYERS", help="0..2 (END excluded), a list 0,3 or all; all by default.")
@click.option(
    "--values",
    "place",
    metavar="TOKEN,CHANNEL",
    help="Print the value there (HEAD,QUERY,KEY for attention maps) instead.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a stage tensor.")
def command(path: Path, stages: str | None, layers: str | None, place: str | None, as_json: bool) -> int:
    """Print a line for each stage tensor of a capture, or for one APRT stage file.

    min, max, absmax, mean and rms are over the finite values; attention maps count key ≤ query where their shape is
    known. A file that cannot be read or is gone is named on stderr and makes the exit code 3; what an unfinished run
    did not write is named there too. Where a layer has experts, a line says how they were chosen: the load of the one
    chosen most (its share of all choices), the entropy of the router, and how many were never chosen.

    Of a recording (`aprtui record`), print a line for each op: its layer, its stage where it is one, else what its
    engine calls it. --stage then takes globs of stages, names and ops.

    Of a model, print a line for each tensor: its type, its shape, its largest block scales (d and dmin, as ggml
    calls them), and statistics of its dequantised values.
    """
    from aprtui.cli.comparison.recordings import print_nodes
    from aprtui.cli.comparison.render import grouped_lines
    from aprtui.compare.survey import NOT_WRITTEN, BrokenStage, UnwrittenStage
    from aprtui.model.open_file import is_model_file, require_local
    from aprtui.recordings.reading import is_recording
    from aprtui.trace.experts import expert_words

    if path.is_file() and is_model_file(path):
        _only_captures(stages, layers)
        _only_captures(place, None, "--values")
        require_local(path)
        return _print_tensors(path, as_json)
    if is_recording(path):
        return print_nodes(path, stages, layers, None if place is None else _parsed_place(place), as_json)
    if place is not None:
        return _print_values(path, stages, layers, place, as_json)
    broken = False
    unwritten = []
    headed = as_json
    for entry in _summaries(path, stages, layers):
        if isinstance(entry, BrokenStage):
            if entry.error is not None:
                click.echo(f"aprtui: {entry.error}", err=True)
            broken = True
        elif isinstance(entry, UnwrittenStage):
            unwritten.append((entry.node, NOT_WRITTEN))
        elif as_json:
            node = entry.node
            experts = {} if entry.experts is None else {"experts": _expert_record(entry.experts)}
            shape = {"layer": node.layer, "stage": node.stage, "shape": entry.shape}
            write_record({**shape, **asdict(entry.stats), **experts})
        else:
            if not headed:
                click.echo(_HEAD)
                headed = True
            click.echo(_line(entry))
            if entry.experts is not None:
                click.echo(f"{'':>6}experts: {', '.join(expert_words(entry.experts))}")
    for line in grouped_lines(unwritten):
        click.echo(f"aprtui: {line}", err=True)
    return ExitCode.UNREADABLE if broken else ExitCode.PASS


def _summaries(path: Path, stages: str | None, layers: str | None) -> Iterator[Entry]:
    from aprtui.cli.comparison.options import announce, warn_about, warn_about_trailing
    from aprtui.cli.progress import ProgressLine
    from aprtui.compare.survey import StageSummary, survey, tensor_stats
    from aprtui.importing.importer import as_capture
    from aprtui.trace.aprt import read_aprt
    from aprtui.trace.archive import is_single_file
    from aprtui.trace.capture import Capture
    from aprtui.trace.graph.stage import Node, canonical_name
    from aprtui.trace.select import ALL, parse_layers, select_nodes, select_stages

    if is_single_file(path):
        _only_captures(stages, layers)
        file = read_aprt(path)
        warn_about_trailing(file)
        node = Node(file.layer, canonical_name(path.stem))
        yield StageSummary(node, file.values.shape, False, tensor_stats(file.values))
        return
    with ProgressLine() as progress, as_capture(path, lambda: None, announce, progress) as folder:
        capture = Capture.open(folder)
        graph = capture.graph
        names = select_stages(ALL if stages is None else stages, graph)
        chosen = select_nodes(graph, names, parse_layers(ALL if layers is None else layers, graph.layers))
        warn_about(capture)
        yield from survey(capture, [node for node in graph.nodes if node in chosen])


def _only_captures(stages: str | None, layers: str | None, options: str = "--stage and --layers") -> None:
    if stages is not None or layers is not None:
        raise UsageError(f"{options} are for captures: leave them out for a file")


def _line(summary: StageSummary) -> str:
    from aprtui.compare.wording import number_text

    node, stats = summary.node, summary.stats
    layer = "–" if node.layer is None else str(node.layer)
    shape = "×".join(str(size) for size in summary.shape)
    numbers = "".join(f"{number_text(value):>10}" for value in (stats.min, stats.max, stats.mean, stats.rms))
    return f"{layer:>5} {node.stage:<18} {shape:<15}{numbers}{_left_out(stats)}"


def _expert_record(use: ExpertUse) -> dict[str, object]:
    entropy = {"entropy": None if math.isnan(use.entropy) else use.entropy, "most_entropy": use.most_entropy}
    counts = {"choices": use.slots, "dropped": use.dropped, "never_chosen": use.never_chosen}
    return {"load": use.load, "busiest": use.busiest, "even": use.even, **counts, **entropy}


def _left_out(stats: StageStats) -> str:
    """A line of its own for values that are not finite; nothing where all are."""
    if not stats.nan and not stats.inf:
        return ""
    return f"\n{'':>6}of {stats.count} values, left out: NaN {stats.nan} Inf {stats.inf}"


def _print_tensors(path: Path, as_json: bool) -> int:
    """Print the tensors of the model at `path` in file order; those that cannot be read are named on stderr."""
    from aprtui.model.tensor_table import summarise, tensor_table

    broken = False
    table = tensor_table(path)
    if not as_json:
        click.echo(
            f"{'tensor':<25} {'type':<5} {'shape':<11}{'d max':>9}{'dmin max':>9}{'absmax':>9}{'rms':>9}".rstrip()
        )
    for info in table:
        if info.stored is None:
            click.echo(f"aprtui: {path}: tensor {info.name}: {info.problem}", err=True)
            broken = True
            continue
        summary = summarise(info)
        if as_json:
            write_record(_tensor_record(info, summary))
        else:
            click.echo(_tensor_line(info, summary))
    return ExitCode.UNREADABLE if broken else ExitCode.PASS


def _tensor_record(info: TensorInfo, summary: TensorSummary) -> dict[str, object]:
    stats = {} if summary.stats is None else asdict(summary.stats)
    scales = {name: list(ends) for name, ends in summary.scales.items()}
    return {
        "tensor": info.name, "type": info.type, "shape": info.shape, "bytes": info.bytes, "scales": scales, **stats
    }  # fmt: skip


def _tensor_line(info: TensorInfo, summary: TensorSummary) -> str:
    from aprtui.compare.wording import number_text

    shape = "×".join(map(str, info.shape))
    ends = [number_text(summary.scales[name][1]) if name in summary.scales else "" for name in ("d", "dmin")]
    stats = summary.stats
    figures = ["–", "–"] if stats is None else [number_text(stats.absmax), number_text(stats.rms)]
    numbers = "".join(f"{text:>9}" for text in (*ends, *figures))
    left_out = "" if stats is None else _left_out(stats)
    return f"{info.name:<25} {info.type:<5} {shape:<11}{numbers}{left_out}"


def _print_values(path: Path, stages: str | None, layers: str | None, place: str, as_json: bool) -> int:
    """Print the value at `place` of each selected stage that has one there."""
    from aprtui.trace.archive import is_single_file
    from aprtui.trace.capture import Capture
    from aprtui.trace.select import ALL, parse_layers, select_nodes, select_stages

    if is_single_file(path):
        raise UsageError("--values is for captures, whose stages have a shape: leave it out for a file")
    index = _parsed_place(place)
    capture = Capture.open(path)
    names = select_stages(ALL if stages is None else stages, capture.graph)
    chosen = select_nodes(capture.graph, names, parse_layers(ALL if layers is None else layers, capture.graph.layers))
    broken = printed = False
    for node in capture.graph.nodes:
        if node not in chosen or node not in capture.files:
            continue
        try:
            printed |= _print_value(node, capture.files[node], index, as_json)
        except UnreadableError as error:
            click.echo(f"aprtui: {error}", err=True)
            broken = True
    if not printed and not broken:
        raise UsageError(f"--values {place}: no selected stage has a value there: see the shapes with `aprtui stats`")
    return ExitCode.UNREADABLE if broken else ExitCode.PASS


def _print_value(node: Node, file: StageFile, index: tuple[int, ...], as_json: bool) -> bool:
    """Print the value of one stage; False where its shape has no value there."""
    import numpy as np

    from aprtui.trace.stage_reader import StageReader

    reader = StageReader(file.path, file.shape)
    try:
        shape = reader.shape
        if len(shape) != len(index) or any(at >= size for at, size in zip(index, shape, strict=True)):
            return False
        *head, row, column = index
        plane = head[0] if head else 0
        value = reader.values(slice(row, row + 1), slice(column, column + 1), plane)[0, 0]
        offset = reader.place(row, column, plane)
    finally:
        reader.close()
    bits = f"0x{int(value.view(np.uint32)):08x}"
    if as_json:
        record = {"layer": node.layer, "stage": node.stage, "index": index, "value": float(value)}
        write_record({**record, "bits": bits, "file": str(file.path), "offset": offset})
    else:
        click.echo(f"{node!s:<28} {','.join(map(str, index)):<12} {value!s:>14}  {bits}  byte {offset}")
    return True


def _parsed_place(place: str) -> tuple[int, ...]:
    parts = place.split(",")
    if len(parts) not in (2, 3) or not all(part.strip().isdecimal() and len(part) < 10 for part in parts):
        raise UsageError(f"--values {place!r:.40}: expected TOKEN,CHANNEL or HEAD,QUERY,KEY, as in 5,17")
    return tuple(int(part) for part in parts)
