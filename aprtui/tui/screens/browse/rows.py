"""What the browse screen's tables and its line of words say of captures, models, stages and tensors."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.align.reading import NOT_WRITTEN
from aprtui.compare.survey import BrokenStage, Entry, StageSummary
from aprtui.engine.process.slots import STATS
from aprtui.model.tensor_table import TensorInfo, TensorSummary
from aprtui.trace.capture import Capture
from aprtui.trace.graph import Node, StageGraph
from aprtui.trace.stats import StageStats
from aprtui.tui.draw.text import SEPARATOR
from aprtui.tui.screens.browse.artifacts import Found, Kind
from aprtui.tui.widgets.table import Column, Row, Tone

FOUND_COLUMNS = (
    Column(" "), Column("name", grows=True, end_matters=True), Column("kind", rank=5),
    Column("model", rank=4, grows=True), Column("engine", rank=3), Column("mode", rank=2),
    Column("tokens", right=True, rank=2), Column("parts", right=True, rank=4), Column("size", right=True, rank=1),
    Column("state", rank=1), Column("age", right=True, rank=1),
)  # fmt: skip
STAGE_COLUMNS = (
    Column("layer", right=True), Column("stage", grows=True), Column("shape", right=True, rank=3),
    Column("rms", right=True), Column("min", right=True), Column("max", right=True),
    Column("absmax", right=True, rank=4), Column("mean", right=True, rank=2), Column("NaN", right=True),
    Column("Inf", right=True),
)  # fmt: skip
TENSOR_COLUMNS = (
    Column("tensor", grows=True), Column("type"), Column("shape", right=True, rank=1),
    Column("size", right=True, rank=4), Column("d", right=True, rank=2), Column("dmin", right=True, rank=3),
    Column("min", right=True), Column("max", right=True), Column("rms", right=True),
)  # fmt: skip

_UNKNOWN = "–"
_PENDING = "…"


def number(value: float | None) -> str:
    """Three significant digits."""
    return _UNKNOWN if value is None or math.isnan(value) else f"{value:.3g}".replace("-", "−")


def size_text(count: int) -> str:
    """Bytes as people say them."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.3g} {unit}"


def age_text(seconds: float) -> str:
    """How long ago something was."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return "now" if seconds < 10 else f"{seconds // 10 * 10:.0f} s"


def shape_text(shape: Iterable[int]) -> str:
    """`22×256`."""
    return "×".join(map(str, shape))


def place_text(path: Path, working: Path) -> str:
    """A path as short as it can be said: below the working directory, or below the home."""
    absolute = path.absolute()
    if absolute.is_relative_to(working):
        return str(absolute.relative_to(working)) if absolute != working else f".{os.sep} ({working.name})"
    home = Path.home()
    return f"~{os.sep}{absolute.relative_to(home)}" if absolute.is_relative_to(home) else str(absolute)


def state_text(found: Found) -> str:
    """Whether a capture is whole."""
    if found.problem:
        return "damaged"
    if found.kind is Kind.MODEL:
        return ""
    return {True: "complete", False: "unfinished", None: "no manifest"}[found.complete]


def found_rows(found: Iterable[Found], marked: Collection[Path], now: float, working: Path) -> list[Row]:
    """A row for each capture and model; the marked ones stand out."""
    return [_found_row(entry, marked, now, working) for entry in found]


def _found_row(found: Found, marked: Collection[Path], now: float, working: Path) -> Row:
    tone = Tone.BAD if found.problem else Tone.MARKED if found.path in marked else Tone.PLAIN
    if tone is Tone.PLAIN and found.complete is False:
        tone = Tone.MUTED
    parts = "" if found.problem else f"{found.files} {'tensors' if found.kind is Kind.MODEL else 'files'}"
    tokens = "" if found.tokens is None else str(found.tokens)
    return Row(
        found.path,
        (
            "●" if found.path in marked else " ", place_text(found.path, working), found.kind, found.model,
            found.engine, found.mode, tokens, parts, size_text(found.bytes), state_text(found),
            age_text(max(now - found.modified, 0)),
        ),
        tone,
    )  # fmt: skip


def found_words(found: Found, warnings: Sequence[str] = ()) -> str:
    """A capture or a model in words."""
    fields = [f"{found.kind} {found.path}"]
    if found.problem:
        return SEPARATOR.join([*fields, found.problem])
    fields += [state_text(found)] if found.kind is Kind.CAPTURE else []
    fields += list(warnings[:1])
    fields += [found.model] if found.model else []
    fields += [f"{found.engine}, mode {found.mode}"] if found.engine else []
    fields += [] if found.tokens is None else [f"{found.tokens} tokens"]
    fields += [f"{found.files} {'tensors' if found.kind is Kind.MODEL else 'stage files'}", size_text(found.bytes)]
    return SEPARATOR.join(fields)


def stage_rows(capture: Capture, entries: Mapping[Node, Entry]) -> list[Row]:
    """A row for each stage that the capture holds or owes, in execution order."""
    owed = capture.promised | capture.files.keys()
    return [_stage_row(capture, node, entries.get(node)) for node in capture.graph.nodes if node in owed]


def _stage_row(capture: Capture, node: Node, entry: Entry | None) -> Row:
    name = ("model" if node.layer is None else str(node.layer), node.stage)
    if isinstance(entry, StageSummary):
        stats = entry.stats
        figures = [number(value) for value in (stats.rms, stats.min, stats.max, stats.absmax, stats.mean)]
        counts = [str(stats.nan or ""), str(stats.inf or "")]
        tone = Tone.BAD if stats.nan or stats.inf else Tone.PLAIN
        return Row(node, (*name, shape_text(entry.shape), *figures, *counts), tone)
    if entry is None:
        shape = capture.files[node].shape if node in capture.files else None
        return Row(node, (*name, shape_text(shape or ()) or _UNKNOWN, *[_PENDING] * 5, "", ""), Tone.MUTED)
    if isinstance(entry, BrokenStage):
        word, tone = "gone" if entry.error is None else "unreadable", Tone.BAD
    else:
        word, tone = "not written", Tone.MUTED
    return Row(node, (*name, word, *[_UNKNOWN] * 5, "", ""), tone)


def stage_words(node: Node, entry: Entry | None) -> str:
    """One stage of a capture in words."""
    match entry:
        case None:
            return SEPARATOR.join([str(node), "being read"])
        case StageSummary():
            return SEPARATOR.join([str(node), *stats_words(entry.stats), shape_text(entry.shape)])
        case BrokenStage(error=error):
            return SEPARATOR.join([str(node), "its file is gone" if error is None else str(error)])
        case _:
            return SEPARATOR.join([str(node), NOT_WRITTEN])


def stats_words(stats: StageStats) -> list[str]:
    """Statistics in words."""
    bad = f"{stats.nan} NaN, {stats.inf} Inf" if stats.nan or stats.inf else "all finite"
    names = ("rms", "min", "max", "mean", "absmax")
    return [bad, *(f"{name} {number(getattr(stats, name))}" for name in names), f"{stats.count} values"]


def grid_stats(graph: StageGraph, entries: Mapping[Node, Entry]) -> NDArray[np.void]:
    """Statistics `[nodes]` for a stage grid; what is not known counts no values."""
    table = np.zeros(len(graph.nodes), STATS)
    for node, entry in entries.items():
        if isinstance(entry, StageSummary) and node in graph.order:
            stats = entry.stats
            figures = (stats.min, stats.max, stats.absmax, stats.mean, stats.rms)
            table[graph.order[node]] = (
                min(stats.count, 0xFFFFFFFF), stats.nan, stats.inf,
                *(math.nan if value is None else value for value in figures),
            )  # fmt: skip
    return table


def tensor_rows(tensors: Iterable[TensorInfo], summaries: Mapping[str, TensorSummary]) -> list[Row]:
    """A row for each tensor of a model."""
    return [_tensor_row(info, summaries.get(info.name)) for info in tensors]


def _tensor_row(info: TensorInfo, summary: TensorSummary | None) -> Row:
    size = _UNKNOWN if info.bytes is None else size_text(info.bytes)
    head = (info.name, info.type, shape_text(info.shape), size)
    if info.stored is None:
        return Row(info.name, (*head, *[_UNKNOWN] * 5), Tone.BAD)
    if summary is None:
        return Row(info.name, (*head, *[_PENDING] * 5), Tone.MUTED)
    scales = [range_text(summary.scales[name]) if name in summary.scales else "" for name in ("d", "dmin")]
    stats = summary.stats
    figures = [_UNKNOWN] * 3 if stats is None else [number(value) for value in (stats.min, stats.max, stats.rms)]
    return Row(info.name, (*head, *scales, *figures), Tone.BAD if stats and (stats.nan or stats.inf) else Tone.PLAIN)


def range_text(ends: tuple[float, float]) -> str:
    """`1e-05…0.002`."""
    return f"{number(ends[0])}…{number(ends[1])}"


def tensor_words(info: TensorInfo, summary: TensorSummary | None) -> str:
    """One tensor of a model in words."""
    fields = [info.name, info.type, shape_text(info.shape)]
    if info.stored is None:
        return SEPARATOR.join([*fields, info.problem])
    if summary is None:
        return SEPARATOR.join([*fields, "being read"])
    fields += [f"{name} {range_text(ends)}" for name, ends in summary.scales.items()]
    fields += stats_words(summary.stats) if summary.stats else ["values of this type are not known here"]
    return SEPARATOR.join(fields)
