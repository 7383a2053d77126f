"""`aprtui stats --values`: single values of stage tensors, with their bits and where they lie."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from aprtui.cli.json_lines import write_record
from aprtui.errors import ExitCode, UnreadableError, UsageError
from aprtui.trace.capture import Capture, StageFile
from aprtui.trace.graph import Node
from aprtui.trace.select import ALL, parse_layers, select_nodes, select_stages
from aprtui.trace.stage_reader import StageReader


def print_values(path: Path, stages: str | None, layers: str | None, place: str, as_json: bool) -> int:
    """Print the value at `place` of each selected stage that has one there."""
    if path.is_file():
        raise UsageError("--values is for captures, whose stages have a shape: leave it out for a file")
    index = _parsed(place)
    capture = Capture.open(path)
    names = select_stages(ALL if stages is None else stages, capture.graph)
    chosen = select_nodes(capture.graph, names, parse_layers(ALL if layers is None else layers, capture.graph.layers))
    broken = printed = False
    for node in capture.graph.nodes:
        if node not in chosen or node not in capture.files:
            continue
        try:
            printed |= _print(node, capture.files[node], index, as_json)
        except UnreadableError as error:
            click.echo(f"aprtui: {error}", err=True)
            broken = True
    if not printed and not broken:
        raise UsageError(f"--values {place}: no selected stage has a value there: see the shapes with `aprtui stats`")
    return ExitCode.UNREADABLE if broken else ExitCode.PASS


def _print(node: Node, file: StageFile, index: tuple[int, ...], as_json: bool) -> bool:
    """Print the value of one stage; False where its shape has no value there."""
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


def _parsed(place: str) -> tuple[int, ...]:
    parts = place.split(",")
    if len(parts) not in (2, 3) or not all(part.strip().isdecimal() and len(part) < 10 for part in parts):
        raise UsageError(f"--values {place!r:.40}: expected TOKEN,CHANNEL or HEAD,QUERY,KEY, as in 5,17")
    return tuple(int(part) for part in parts)
