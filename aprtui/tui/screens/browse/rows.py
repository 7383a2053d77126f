"""Rows of the browse screen's tables, and the line below them: artifacts, stages and tensors."""

from __future__ import annotations

import math
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.survey import NOT_WRITTEN, BrokenStage, Entry, StageSummary
from aprtui.compare.verdict import Verdict
from aprtui.compare.wording import counted
from aprtui.engine.process.slots import STATS
from aprtui.model.tensor_table import TensorInfo, TensorSummary
from aprtui.recordings.listing import ListedNode
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph
from aprtui.trace.stats import StageStats
from aprtui.tui.draw.numbers import UNKNOWN, age_text, column_number, number, range_text, shape_text, size_text
from aprtui.tui.draw.text import SEPARATOR, as_typed, clipped, flowed, one_line, padded, short_path
from aprtui.tui.frame.session import RecordedVerdict
from aprtui.tui.screens.browse.artifacts import Artifact, ArtifactKind
from aprtui.tui.screens.browse.contents import CaptureContents, Contents, ModelContents
from aprtui.tui.screens.browse.facts import fault_words
from aprtui.tui.widgets.lines import Ink, Piece
from aprtui.tui.widgets.table import Column, Row, Tone

ARTIFACT_COLUMNS = (
    Column(" "), Column("name", grows=True, end_matters=True), Column("kind", rank=7),
    Column("prompt or title", grows=True), Column("note", grows=True, tone=Tone.MARKED), Column("mode", rank=1),
    Column("tokens", right=True, rank=2), Column("layers", right=True, rank=5), Column("engine", rank=4),
    Column("model", rank=6, grows=True), Column("size", right=True, rank=3), Column("age", right=True, rank=2),
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

WORD = 9
"""Cells of the words before the facts of a preview."""

SHOWN_DAMAGE = 3
"""Broken stages and warnings that a preview names."""

MOST_LINES = 6
"""Lines that one fact may take: a prompt can be long."""


Marks = Mapping[str, Path]
"""The captures that are marked: `a`, the reference, and `b`."""


def note(artifact: Artifact) -> str:
    """What sets a capture apart from a whole one of an engine as it is: what it is made of, injected faults, an end too
    early."""
    if artifact.problem:
        return "damaged"
    if artifact.refusal:
        return "cannot be run"
    words = ["recorded ops"] if artifact.kind is ArtifactKind.RECORDING else []
    words += [f"fault {fault_words(fault)}" for fault in artifact.faults[:1]]
    words += [f"and {len(artifact.faults) - 1} more"] if len(artifact.faults) > 1 else []
    if artifact.kind is ArtifactKind.SESSION and not artifact.complete:
        words.append("unfinished")
    if artifact.is_capture and artifact.complete is not True:
        words.append("no manifest" if artifact.complete is None else "unfinished")
    return ", ".join(words)


def name_text(artifact: Artifact, working: Path) -> str:
    name = artifact.name or short_path(artifact.path, working)
    return name if artifact.other is None else f"{name} ↔ {short_path(artifact.other, working)}"


def artifact_row(artifact: Artifact, marks: Marks, now: float, working: Path) -> Row:
    """An artifact in the list; it stands out if it is marked. `now` is in seconds, as its time of change is."""
    letters = [letter.upper() for letter, path in marks.items() if artifact.key == (path,)]
    tone = Tone.BAD if artifact.problem or artifact.refusal else Tone.MARKED if letters else Tone.PLAIN
    if tone is Tone.PLAIN and artifact.complete is False:
        tone = Tone.MUTED
    title = one_line(artifact.text) or (artifact.model if artifact.is_model else "")
    number_of = ["" if count is None else str(count) for count in (artifact.tokens, artifact.layers)]
    return Row(
        artifact.key,
        (
            "".join(letters) or " ", name_text(artifact, working), artifact.kind, title, note(artifact),
            artifact.mode, *number_of,
            artifact.engine, "" if artifact.is_model else artifact.model,
            size_text(artifact.bytes) if artifact.bytes else "", age_text(max(now - artifact.modified, 0)),
        ),
        tone,
    )  # fmt: skip


def artifact_words(artifact: Artifact, warnings: Sequence[str] = ()) -> str:
    """An artifact in words, with the first of the warnings about it."""
    fields = [f"{artifact.kind} {name_text(artifact, Path.cwd())}"]
    if artifact.problem:
        return SEPARATOR.join([*fields, artifact.problem])
    fields += [note(artifact)] if note(artifact) else []
    fields += list(warnings[:1])
    fields += [artifact.model] if artifact.model else []
    mode = [f"mode {artifact.mode}"] if artifact.mode else []
    fields += [", ".join([artifact.engine, *mode])] if artifact.engine else []
    fields += [] if artifact.tokens is None else [f"{artifact.tokens} tokens"]
    parts = {
        ArtifactKind.CAPTURE: "stage file", ArtifactKind.RECORDING: "op",
        ArtifactKind.MODEL: "tensor", ArtifactKind.CONVERSATION: "message",
        ArtifactKind.CONTRACT: "falsifier",
    }  # fmt: skip
    fields += [counted(artifact.files, parts[artifact.kind])] if artifact.kind in parts else []
    fields += [size_text(artifact.bytes)] if artifact.bytes else []
    return SEPARATOR.join(fields)


def preview_lines(
    artifact: Artifact, marks: Marks, more: Sequence[tuple[str, str, Ink]], hints: Sequence[str], width: int
) -> list[list[Piece]]:
    """`more` and what else is known of an artifact, each fact behind its word, and the keys that are of use here."""
    facts = [(word, text, Ink.PLAIN) for word, text in artifact.facts]
    if artifact.problem:
        facts.insert(0, ("damaged", artifact.problem, Ink.BAD))
    if artifact.refusal:
        facts.insert(0, ("not run", artifact.refusal, Ink.BAD))
    if artifact.other is not None:
        facts += [("A", as_typed(artifact.path), Ink.PLAIN), ("B", as_typed(artifact.other), Ink.PLAIN)]
    roles = {"a": "A, the reference", "b": "B, held against A"}
    facts += [("marked", roles[letter], Ink.MARKED) for letter, path in marks.items() if artifact.key == (path,)]
    lines: list[list[Piece]] = []
    room = max(width - WORD, 8)
    for word, text, ink in (*facts, *more) if artifact.is_model else (*more, *facts):
        ink = Ink.ACCENT if word == "faults" else ink
        rows = [row for line in text.splitlines() for row in _wrapped(line, room)] or [""]
        if len(rows) > MOST_LINES:
            rows = [*rows[: MOST_LINES - 1], clipped(rows[MOST_LINES - 1] + "…", room)]
        words = [word, *[""] * (len(rows) - 1)]
        lines += [[(padded(label, WORD), Ink.MUTED), (row, ink)] for label, row in zip(words, rows, strict=True)]
    return [*lines, *([[]] if hints else []), *([(line, Ink.MUTED)] for line in flowed(hints, width))]


def judgement_lines(judgement: RecordedVerdict) -> list[tuple[str, str, Ink]]:
    """A verdict in words, and the command that gives it headless."""
    ink = {Verdict.PASS: Ink.STRONG, Verdict.FAIL: Ink.BAD, Verdict.UNKNOWN: Ink.ACCENT, None: Ink.ACCENT}
    word = "" if judgement.verdict is None else f"{judgement.verdict}: "
    lines = [("verdict", f"{word}{judgement.words}", ink[judgement.verdict])]
    return lines + ([("command", shlex.join(judgement.command), Ink.MUTED)] if judgement.command else [])


def remarks(contents: Contents | None) -> list[tuple[str, str, Ink]]:
    """What cannot be read in a capture, and what is unusual about it or about a model, for its preview."""
    if isinstance(contents, ModelContents):
        words = ["unusual", *[""] * len(contents.unusual)]
        return [(word, text, Ink.ACCENT) for word, text in zip(words, contents.unusual, strict=False)]
    if not isinstance(contents, CaptureContents):
        return []
    broken = [str(node) for node, entry in contents.entries.items() if isinstance(entry, BrokenStage)]
    lines = []
    if broken:
        more = len(broken) - SHOWN_DAMAGE
        shown = ", ".join(broken[:SHOWN_DAMAGE]) + (f" and {more} more" if more > 0 else "")
        lines.append(("damaged", f"{counted(len(broken), 'stage')} unreadable: {shown}", Ink.BAD))
    return lines + [("note", warning, Ink.ACCENT) for warning in contents.capture.warnings[:SHOWN_DAMAGE]]


def _wrapped(line: str, width: int) -> list[str]:
    """A line of text on lines of `width`, with its indent, and with nothing that moves a terminal's cursor."""
    shown = "".join(character if character.isprintable() else "�" for character in line.expandtabs(4))
    first, *others = textwrap.wrap(shown, width, drop_whitespace=False) or [""]
    return [first, *(row.lstrip() for row in others)]


def stage_rows(capture: Capture, entries: Mapping[Node, Entry]) -> list[Row]:
    """A row for each stage that the capture holds or its manifest promises, in execution order."""
    expected = capture.promised | capture.files.keys()
    return [_stage_row(capture, node, entries.get(node)) for node in capture.graph.nodes if node in expected]


def node_rows(others: Mapping[ListedNode, StageStats | None]) -> list[Row]:
    """A row for each node of a recording that is no stage, in the order of execution."""
    return [_node_row(node, stats) for node, stats in others.items()]


def _node_row(node: ListedNode, stats: StageStats | None) -> Row:
    layer = UNKNOWN if node.name.layer is None else str(node.name.layer)
    head = (layer, one_line(f"{node.name.text} {node.node.op}"), shape_text(node.shape))
    if stats is None:
        return Row(node, (*head, *[_PENDING] * 5, "", ""), Tone.MUTED)
    figures = [column_number(value) for value in (stats.rms, stats.min, stats.max, stats.absmax, stats.mean)]
    tone = Tone.BAD if stats.nan or stats.inf else Tone.MUTED
    return Row(node, (*head, *figures, str(stats.nan or ""), str(stats.inf or "")), tone)


def node_words(node: ListedNode, stats: StageStats | None) -> str:
    """A node that is no stage, in words."""
    words = [f"op {node.index} of pass {node.graph}", node.node.op, node.name.text or "without a name"]
    return SEPARATOR.join([*words, *([] if stats is None else stats_words(stats)), shape_text(node.shape)])


def _stage_row(capture: Capture, node: Node, entry: Entry | None) -> Row:
    name = ("model" if node.layer is None else str(node.layer), node.stage)
    if isinstance(entry, StageSummary):
        stats = entry.stats
        figures = [column_number(value) for value in (stats.rms, stats.min, stats.max, stats.absmax, stats.mean)]
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
    # In a column that is always there.
    return Row(node, (*name, UNKNOWN, word, *[UNKNOWN] * 4, "", ""), tone)


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
    figures = [UNKNOWN] * 3 if stats is None else [column_number(value) for value in (stats.min, stats.max, stats.rms)]
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
