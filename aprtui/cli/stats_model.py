"""`aprtui stats MODEL`: a line for each tensor of a model file."""

from __future__ import annotations

from pathlib import Path

import click

from aprtui.cli.comparison.render import number
from aprtui.cli.json_lines import write_record
from aprtui.errors import ExitCode
from aprtui.model.tensor_table import TensorInfo, TensorSummary, summarise, tensor_table


def print_tensors(path: Path, as_json: bool) -> int:
    """Print the tensors of the GGUF file at `path` in file order; those that cannot be read are named on stderr."""
    broken = False
    if not as_json:
        click.echo(
            f"{'tensor':<25} {'type':<5} {'shape':<11}{'d max':>9}{'dmin max':>9}{'absmax':>9}{'rms':>9}".rstrip()
        )
    for info in tensor_table(path):
        if info.stored is None:
            click.echo(f"aprtui: {path}: tensor {info.name}: {info.problem}", err=True)
            broken = True
            continue
        summary = summarise(path, info)
        if as_json:
            write_record(_record(info, summary))
        else:
            click.echo(_line(info, summary))
    return ExitCode.UNREADABLE if broken else ExitCode.PASS


def _record(info: TensorInfo, summary: TensorSummary) -> dict[str, object]:
    stats = {} if summary.stats is None else summary.stats.as_dict()
    scales = {name: list(ends) for name, ends in summary.scales.items()}
    return {
        "tensor": info.name, "type": info.type, "shape": info.shape, "bytes": info.bytes, "scales": scales, **stats
    }  # fmt: skip


def _line(info: TensorInfo, summary: TensorSummary) -> str:
    shape = "×".join(map(str, info.shape))
    ends = [number(summary.scales[name][1]) if name in summary.scales else "" for name in ("d", "dmin")]
    stats = summary.stats
    figures = ["–", "–"] if stats is None else [number(stats.absmax), number(stats.rms)]
    odd = (
        f"\n{'':>6}of {stats.count} values, left out: NaN {stats.nan} Inf {stats.inf}"
        if stats is not None and (stats.nan or stats.inf)
        else ""
    )
    return f"{info.name:<25} {info.type:<5} {shape:<11}{''.join(f'{text:>9}' for text in (*ends, *figures))}{odd}"
