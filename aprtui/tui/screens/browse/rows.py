"""Rows of the browse screen's tables, and the line below them: artifacts, stages and tensors."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.survey import NOT_WRITTEN, BrokenStage, Entry, StageSummary
from aprtui.engine.process.slots import STATS
from aprtui.model.tensor_table import TensorInfo, TensorSummary
from aprtui.trace.capture import Capture
from aprtui.trace.graph import Node, StageGraph
from aprtui.trace.stats import StageStats
from aprtui.tui.draw.numbers import UNKNOWN, age_text, number, range_text, shape_text, size_text
from aprtui.tui.draw.text import SEPARATOR, short_path
from aprtui.tui.screens.browse.artifacts import Artifact
from aprtui.tui.widgets.table import Column, Row, Tone

ARTIFACT_COLUMNS = (
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

_PENDING = "…"


def state_text(artifact: Artifact) -> str:
    if artifact.problem:
        return "damaged"
    if artifact.is_model:
        return ""
    return {True: "complete", False: "unfinished", None: "no manifest"}[artifact.complete]


def artifact_row(artifact: Artifact, marked: Collection[Path], now: float, working: Path) -> Row:
    """An artifact in the list; it stands out if it is marked. `now` is in seconds, as its time of change is."""
    tone = Tone.BAD if artifact.problem else Tone.MARKED if artifact.path in marked else Tone.PLAIN
    if tone is Tone.PLAIN and artifact.complete is False:
        tone = Tone.MUTED
    parts = "" if artifact.problem else f"{artifact.files} {'tensors' if artifact.is_model else 'files'}"
    tokens = "" if artifact.tokens is None else str(artifact.tokens)
    return Row(
        artifact.path,
        (
            "●" if artifact.path in marked else " ", short_path(artifact.path, working), artifact.kind, artifact.model,
            artifact.engine, artifact.mode, tokens, parts, size_text(artifact.bytes), state_text(artifact),
            age_text(max(now - artifact.modified, 0)),
        ),
        tone,
    )  # fmt: skip


def artifact_words(artifact: Artifact, warnings: Sequence[str] = ()) -> str:
    """An artifact in words, with the first of the warnings about it."""
    fields = [f"{artifact.kind} {artifact.path}"]
    if artifact.problem:
        return SEPARATOR.join([*fields, artifact.problem])
    fields += [] if artifact.is_model else [state_text(artifact)]
    fields += list(warnings[:1])
    fields += [artifact.model] if artifact.model else []
    fields += [f"{artifact.engine}, mode {artifact.mode}"] if artifact.engine else []
    fields += [] if artifact.tokens is None else [f"{artifact.tokens} tokens"]
    fields += [f"{artifact.files} {'tensors' if artifact.is_model else 'stage files'}", size_text(artifact.bytes)]
    return SEPARATOR.join(fields)


def stage_rows(capture: Capture, entries: Mapping[Node, Entry]) -> list[Row]:
    """A row for each stage that the capture holds or its manifest promises, in execution order."""
    expected = capture.promised | capture.files.keys()
    return [_stage_row(capture, node, entries.get(node)) for node in capture.graph.nodes if node in expected]


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
        return Row(node, (*name, shape_text(shape or ()) or UNKNOWN, *[_PENDING] * 5, "", ""), Tone.MUTED)
    if isinstance(entry, BrokenStage):
        word, tone = "gone" if entry.error is None else "unreadable", Tone.BAD
    else:
        word, tone = "not written", Tone.MUTED
    return Row(node, (*name, word, *[UNKNOWN] * 5, "", ""), tone)


def stage_words(node: Node, entry: Entry | None) -> str:
    match entry:
        case None:
            words = ["being read"]
        case StageSummary():
            words = [*stats_words(entry.stats), shape_text(entry.shape)]
        case BrokenStage(error=error):
            words = ["its file is gone" if error is None else str(error)]
        case _:
            words = [NOT_WRITTEN]
    return SEPARATOR.join([str(node), *words])


def stats_words(stats: StageStats) -> list[str]:
    bad = f"{stats.nan} NaN, {stats.inf} Inf" if stats.nan or stats.inf else "all finite"
    names = ("rms", "min", "max", "mean", "absmax")
    return [bad, *(f"{name} {number(getattr(stats, name))}" for name in names), f"{stats.count} values"]


def grid_stats(graph: StageGraph, entries: Mapping[Node, Entry]) -> NDArray[np.void]:
    """Statistics `[nodes]` for a stage grid; a stage that has not been read has a count of 0."""
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


def tensor_row(info: TensorInfo, summary: TensorSummary | None) -> Row:
    size = UNKNOWN if info.bytes is None else size_text(info.bytes)
    head = (info.name, info.type, shape_text(info.shape), size)
    if info.stored is None:
        return Row(info.name, (*head, *[UNKNOWN] * 5), Tone.BAD)
    if summary is None:
        return Row(info.name, (*head, *[_PENDING] * 5), Tone.MUTED)
    scales = [range_text(summary.scales[name]) if name in summary.scales else "" for name in ("d", "dmin")]
    stats = summary.stats
    figures = [UNKNOWN] * 3 if stats is None else [number(value) for value in (stats.min, stats.max, stats.rms)]
    return Row(info.name, (*head, *scales, *figures), Tone.BAD if stats and (stats.nan or stats.inf) else Tone.PLAIN)


def tensor_words(info: TensorInfo, summary: TensorSummary | None) -> str:
    fields = [info.name, info.type, shape_text(info.shape)]
    if info.stored is None:
        return SEPARATOR.join([*fields, info.problem])
    if summary is None:
        return SEPARATOR.join([*fields, "being read"])
    fields += [f"{name} {range_text(ends)}" for name, ends in summary.scales.items()]
    fields += stats_words(summary.stats) if summary.stats else ["values of this type are not known here"]
    return SEPARATOR.join(fields)
