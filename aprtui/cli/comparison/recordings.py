"""Recordings of op graphs where `replay` and `diff` are given them in place of captures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aprtui.cli.comparison.options import AS_CAPTURE, AS_CAPTURES, ComparisonOptions, announce
from aprtui.cli.json_lines import write_record
from aprtui.compare.metrics.measure import Metric
from aprtui.errors import VERDICT_CODES, UsageError
from aprtui.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from aprtui.recordings.listing import ListedNode
    from aprtui.trace.graph.stage_graph import StageGraph


def are_recordings(*paths: Path) -> bool:
    """Whether all of the paths hold recordings: one beside a capture is compared by the stages that its ops are."""
    from aprtui.recordings.reading import is_recording

    return all(is_recording(path) for path in paths)


@contextmanager
def readable(path: Path, graph: Callable[[], StageGraph | None], progress: Progress) -> Iterator[Path]:
    """A folder or file to read in place of `path`: itself, or a capture that is made of it, of a recording or of
    another tool's files. `graph` is as for `as_capture`."""
    from aprtui.recordings.reading import is_recording
    from aprtui.trace.capture import is_capture

    if is_recording(path):
        from aprtui.recordings.captures.stand_in import stand_in

        yield stand_in(path, progress, announce)
        return
    if is_capture(path):
        yield path
        return
    from aprtui.importing.importer import as_capture

    with as_capture(path, graph, announce, progress) as found:
        yield found


def _require_no_others(options: ComparisonOptions, others: bool, takes: str, flag: str) -> None:
    """Raise `UsageError` for options that mean nothing for recordings; `takes` are those that do, `flag` is the one
    that makes captures of them."""
    plain = replace(options, stages=None, layers=None, policy_file=None, tokens=None, html=None, svg=None)
    if others or plain != options:
        raise UsageError(
            f"a recording of ops: only {takes}, --json and --bisect go with it; {flag} takes the stages that its ops "
            "are"
        )


def _bound(options: ComparisonOptions, otherwise: float) -> float:
    for tolerance in options.parsed_tolerances:
        if tolerance.metric is not Metric.REL_L2:
            raise UsageError(f"--tolerance {tolerance}: ops are judged by rel_l2: use --tolerance rel_l2=X")
        return tolerance.bound
    return otherwise


def replay(path: Path, model: Path | None, others: bool, options: ComparisonOptions) -> int:
    """Compute the ops of a recording again and print the verdict; its exit code.

    `others`: whether options are given that do not apply.
    """
    from aprtui.cli.progress import ProgressLine
    from aprtui.recordings.captures.as_capture import recorded_model
    from aprtui.recordings.judging import BOUND
    from aprtui.recordings.reading import Recording
    from aprtui.recordings.replay import OpReplayOptions, replay_recording
    from aprtui.recordings.report import next_steps, replay_lines, replay_records
    from aprtui.recordings.weights import weights_of_recording

    _require_no_others(options, others, "--model, --tolerance rel_l2=X, --allow-missing OP", AS_CAPTURE)
    recording = Recording.open(path)
    weights = weights_of_recording(recording, model)
    with ProgressLine() as progress:
        found = replay_recording(
            recording, weights, OpReplayOptions(_bound(options, BOUND), options.allow_missing), progress
        )
    if options.as_json:
        for record in replay_records(recording, found):
            write_record(record)
    else:
        known = recorded_model(recording, model)
        click.echo(
            "\n".join([*replay_lines(recording, found), "", *next_steps(recording, found, known is not None)]).rstrip()
        )
    return VERDICT_CODES[found.verdict]


def diff(a: Path, b: Path, model: tuple[Path | None, Path | None], others: bool, options: ComparisonOptions) -> int:
    """Hold recording B against A and print the verdict; its exit code. `model`: where weights of each side are."""
    from aprtui.cli.progress import ProgressLine
    from aprtui.recordings.alignment.meaning import compare_meaning
    from aprtui.recordings.alignment.report import diff_lines, diff_records, diff_steps
    from aprtui.recordings.reading import Recording
    from aprtui.recordings.weights import weights_of_recording

    more = bool(options.tolerances or options.allow_missing)
    _require_no_others(options, others or more, "--model, --model-a, --model-b", AS_CAPTURES)
    left, right = Recording.open(a), Recording.open(b)
    with ProgressLine() as progress:
        weights = [weights_of_recording(side, path) for side, path in zip((left, right), model, strict=True)]
        found = compare_meaning(left, right, weights[0], weights[1], progress)
    if options.as_json:
        for record in diff_records(left, right, found):
            write_record(record)
    else:
        click.echo("\n".join([*diff_lines(left, right, found), "", *diff_steps(left, right, found)]).rstrip())
    return VERDICT_CODES[found.verdict]


def print_nodes(
    path: Path, stages: str | None, layers: str | None, place: tuple[int, ...] | None, as_json: bool
) -> int:
    """Print a line for each node of a recording that is selected, or its value at `place`; the exit code.

    Raises `UsageError` where nothing is selected, or has no value there.
    """
    import numpy as np

    from aprtui.recordings.listing import listed_nodes, node_values, selected
    from aprtui.recordings.reading import Recording
    from aprtui.trace.select import ALL, parse_layers

    recording = Recording.open(path)
    listed = list(listed_nodes(recording))
    count = 1 + max((node.name.layer for node in listed if node.name.layer is not None), default=-1)
    of_layers = None if layers in (None, ALL) else parse_layers(str(layers), count).__contains__
    chosen = list(filter(selected(stages, of_layers), listed))
    if not chosen:
        raise UsageError(f"{path}: no op is a stage, has a name or is an op like that: see aprtui stats {path}")
    if not as_json and place is None:
        click.echo(
            f"{'op':>6} {'lay':>3} {'stage or name':<21} {'kind of op':<14} {'shape':<12}{'rms':>10}{'absmax':>10}"
        )
    printed = False
    for node in chosen:
        values = node_values(recording, node)
        if place is None:
            _print_node(node, values, as_json)
        elif values is not None and len(place) == values.ndim and np.all(np.less(place, values.shape)):
            printed = True
            _print_value(node, values[place], place, as_json)
    if place is not None and not printed:
        raise UsageError(f"--values: no selected op has a value there: see the shapes with `aprtui stats {path}`")
    return 0


def _print_node(node: ListedNode, values: NDArray[np.float32] | None, as_json: bool) -> None:
    from aprtui.compare.survey import tensor_stats
    from aprtui.compare.wording import number_text

    stats = None if values is None else tensor_stats(values.reshape(-1))
    if as_json:
        write_record({**_node_record(node), "shape": node.shape, "type": node.type, **(asdict(stats) if stats else {})})
        return
    layer = "–" if node.name.layer is None else str(node.name.layer)
    name = node.name.stage or node.name.text or "–"
    shape = "×".join(map(str, node.shape))
    numbers = [None, None] if stats is None else [stats.rms, stats.absmax]
    click.echo(
        f"{node.graph}.{node.index}".rjust(6) + f" {layer:>3} {name:<21.21} {node.node.op:<14.14} {shape:<12}"
        + "".join(f"{number_text(number):>10}" for number in numbers)
        + (f"  NaN {stats.nan} Inf {stats.inf}" if stats and (stats.nan or stats.inf) else "")
    )  # fmt: skip


def _print_value(node: ListedNode, value: np.float32, place: tuple[int, ...], as_json: bool) -> None:
    bits = f"0x{int(value.view('<u4')):08x}"
    if as_json:
        write_record({**_node_record(node), "index": place, "value": float(value), "bits": bits})
    else:
        click.echo(f"{node.graph}.{node.index} {node.name!s:<36} {','.join(map(str, place)):<12} {value!s:>14}  {bits}")


def _node_record(node: ListedNode) -> dict[str, object]:
    return {
        "graph": node.graph, "node": node.index, "op": node.node.op, "name": node.name.text, "layer": node.name.layer,
        "stage": node.name.stage,
    }  # fmt: skip
