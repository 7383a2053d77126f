"""What is in a capture or a model: its stages or tensors, and their statistics, computed where no manifest states them.

No file is mapped into memory here: the files of a capture may be written again at any time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import TypeVar

from aprtui.compare.survey import BrokenStage, Entry, StageSummary, UnwrittenStage, is_unfinished, stated
from aprtui.errors import UnreadableError
from aprtui.model.facts import model_facts
from aprtui.model.model import load_model
from aprtui.model.tensor_table import TensorInfo, TensorSummary, summarise, tensor_table
from aprtui.progress import Cancelled
from aprtui.recordings.captures.stand_in import open_capture
from aprtui.recordings.listing import ListedNode, listed_nodes, node_stats
from aprtui.recordings.reading import Recording
from aprtui.trace.agent_trace import AgentTrace, read_agent_trace
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph
from aprtui.trace.stage_reader import StageReader, reader_stats
from aprtui.trace.stats import StageStats
from aprtui.tui.screens.browse.artifacts import Artifact, ArtifactKind

K = TypeVar("K")
T = TypeVar("T")

BATCH_SECONDS = 0.2
"""Results of this time are yielded together."""


@dataclass(frozen=True, slots=True)
class CaptureContents:
    """A capture, and what has been read of its stages so far; of a recording, also of the `others` of its nodes, which
    are no stage."""

    capture: Capture
    entries: Mapping[Node, Entry]
    others: Mapping[ListedNode, StageStats | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelContents:
    """The tensors of a model, what has been read of them so far, and what is unusual about the model, in sentences."""

    tensors: tuple[TensorInfo, ...]
    summaries: Mapping[str, TensorSummary]
    unusual: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConversationContents:
    """What was said in an agent trace."""

    trace: AgentTrace


Contents = CaptureContents | ModelContents | ConversationContents


def read_contents(artifact: Artifact, cancelled: Cancelled) -> Iterator[Contents]:
    """What is in an artifact: first what is known without reading values, then more, until all is read.

    Raises `UnreadableError` if it cannot be opened.
    """
    if artifact.kind is ArtifactKind.CONVERSATION:
        yield ConversationContents(read_agent_trace(artifact.path))
    elif artifact.is_model:
        tensors = tensor_table(artifact.path)
        yield ModelContents(tensors, {})
        unusual = _unusual(artifact.path)
        readable = takewhile(lambda _: not cancelled(), (info for info in tensors if info.stored is not None))
        summaries = ((info.name, summarise(info, cancelled)) for info in readable)
        yield from (ModelContents(tensors, found, unusual) for found in _growing({}, summaries))
    elif artifact.kind is ArtifactKind.RECORDING:
        yield from _recording_contents(artifact.path, cancelled)
    else:
        yield from _capture_contents(Capture.open(artifact.path, copied=True), cancelled)


def _recording_contents(path: Path, cancelled: Cancelled) -> Iterator[CaptureContents]:
    """The stages that the nodes of a recording are, then those that are none."""
    recording = Recording.open(path)
    others: dict[ListedNode, StageStats | None] = {
        node: None for node in listed_nodes(recording) if node.name.stage is None
    }
    try:
        capture = open_capture(path, copied=True)
    except UnreadableError:
        capture = Capture(path, None, StageGraph((), 0, None), {}, (), None, None, None, ())
    last = CaptureContents(capture, {}, others)
    for last in _capture_contents(capture, cancelled):
        yield replace(last, others=others)
    readable = takewhile(lambda _: not cancelled(), others)
    stats = ((node, node_stats(recording, node)) for node in readable)
    yield from (replace(last, others=found) for found in _growing(others, stats))


def _capture_contents(capture: Capture, cancelled: Cancelled) -> Iterator[CaptureContents]:
    known = stated(capture)
    missing = (node for node in capture.graph.nodes if node in capture.files and node not in known)
    readable_nodes = takewhile(lambda _: not cancelled(), missing)
    entries = ((node, _stage_entry(capture, node, cancelled)) for node in readable_nodes)
    yield from (CaptureContents(capture, found) for found in _growing(known, entries))


def _unusual(path: Path) -> tuple[str, ...]:
    """What a port of the model is likely to miss; why it cannot be run where it cannot."""
    try:
        return model_facts(load_model(path)).unusual
    except UnreadableError as error:
        return (f"cannot be run here: {str(error).removeprefix(f'{path}: ')}",)


def _stage_entry(capture: Capture, node: Node, cancelled: Cancelled) -> Entry:
    file = capture.files[node]
    try:
        with closing(StageReader(file.path, file.shape)) as reader:
            causal = capture.graph[node.stage].is_attention_map and len(reader.shape) == 3
            stats = reader_stats(reader, causal, cancelled)
    except UnreadableError as error:
        return UnwrittenStage(node) if is_unfinished(capture) else BrokenStage(node, error)
    return StageSummary(node, reader.shape, causal, stats)


def _growing(known: Mapping[K, T], pairs: Iterable[tuple[K, T]]) -> Iterator[dict[K, T]]:
    """`known`, then the same with more and more of `pairs`, about each `BATCH_SECONDS`, until it has all."""
    found = dict(known)
    yield found
    batch: dict[K, T] = {}
    begun = time.monotonic()
    for key, value in pairs:
        batch[key] = value
        if time.monotonic() - begun > BATCH_SECONDS:
            found = found | batch
            yield found
            batch, begun = {}, time.monotonic()
    if batch:
        yield found | batch
