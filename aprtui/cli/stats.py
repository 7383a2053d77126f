"""`aprtui stats`: statistics of each stage tensor of a capture, of one stage file, or of each tensor of a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aprtui.cli.json_lines import write_record
from aprtui.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from aprtui.compare.survey import Entry, StageSummary


@click.command()
@click.argument("path", metavar="CAPTURE|FILE|MODEL", type=click.Path(path_type=Path))
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
    did not write is named there too.

    Of a model (GGUF), print a line for each tensor: its type, its shape, its largest block scales (d and dmin, as ggml
    calls them), and statistics of its dequantised values.
    """
    from aprtui.cli.comparison.render import grouped_lines
    from aprtui.compare.survey import NOT_WRITTEN, BrokenStage, UnwrittenStage
    from aprtui.model.gguf_file import is_gguf

    if path.is_file() and is_gguf(path):
        from aprtui.cli.stats_model import print_tensors

        _only_captures(stages, layers)
        _only_captures(place, None, "--values")
        return print_tensors(path, as_json)
    if place is not None:
        from aprtui.cli.stats_values import print_values

        return print_values(path, stages, layers, place, as_json)
    broken = False
    unwritten = []
    if not as_json:
        click.echo(f"{'layer':>5} {'stage':<18} {'shape':<15}{'min':>10}{'max':>10}{'mean':>10}{'rms':>10}")
    for entry in _summaries(path, stages, layers):
        if isinstance(entry, BrokenStage):
            if entry.error is not None:
                click.echo(f"aprtui: {entry.error}", err=True)
            broken = True
        elif isinstance(entry, UnwrittenStage):
            unwritten.append((entry.node, NOT_WRITTEN))
        elif as_json:
            node = entry.node
            write_record({"layer": node.layer, "stage": node.stage, "shape": entry.shape, **entry.stats.as_dict()})
        else:
            click.echo(_line(entry))
    for line in grouped_lines(unwritten):
        click.echo(f"aprtui: {line}", err=True)
    return ExitCode.UNREADABLE if broken else ExitCode.PASS


def _summaries(path: Path, stages: str | None, layers: str | None) -> Iterator[Entry]:
    from aprtui.cli.diff import warn_about, warn_about_trailing
    from aprtui.compare.survey import StageSummary, survey, tensor_stats
    from aprtui.trace.aprt import read_aprt
    from aprtui.trace.capture import Capture
    from aprtui.trace.graph import Node, canonical_name
    from aprtui.trace.select import ALL, parse_layers, select_nodes, select_stages

    if path.is_file():
        _only_captures(stages, layers)
        file = read_aprt(path)
        warn_about_trailing(file)
        node = Node(file.layer, canonical_name(path.stem))
        yield StageSummary(node, file.values.shape, False, tensor_stats(file.values))
        return
    capture = Capture.open(path)
    graph = capture.graph
    names = select_stages(ALL if stages is None else stages, graph)
    chosen = select_nodes(graph, names, parse_layers(ALL if layers is None else layers, graph.layers))
    warn_about(capture)
    yield from survey(capture, [node for node in graph.nodes if node in chosen])


def _only_captures(stages: str | None, layers: str | None, options: str = "--stage and --layers") -> None:
    if stages is not None or layers is not None:
        raise UsageError(f"{options} are for captures: leave them out for a file")


def _line(summary: StageSummary) -> str:
    from aprtui.cli.comparison.render import number

    node, stats = summary.node, summary.stats
    layer = "–" if node.layer is None else str(node.layer)
    shape = "×".join(str(size) for size in summary.shape)
    numbers = "".join(f"{number(value):>10}" for value in (stats.min, stats.max, stats.mean, stats.rms))
    odd = (
        f"\n{'':>6}of {stats.count} values, left out: NaN {stats.nan} Inf {stats.inf}" if stats.nan or stats.inf else ""
    )
    return f"{layer:>5} {node.stage:<18} {shape:<15}{numbers}{odd}"
