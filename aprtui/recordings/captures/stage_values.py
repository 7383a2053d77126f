"""The values of the stages that the nodes of a recording are, passes joined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from aprtui.errors import UnreadableError
from aprtui.importing.elements import ELEMENTS, Raw, SourceTensor
from aprtui.importing.import_format import PartChoice
from aprtui.importing.passes import ForwardPass, joined
from aprtui.importing.planning import plan, values_of
from aprtui.oracle.llamacpp_stages import StagePlace, StagePlaces
from aprtui.oracle.stage_parts import StageParts
from aprtui.progress import Progress
from aprtui.recordings.format import OpGraph, OpNode, OpSet, RootKind
from aprtui.recordings.memory import Bytes, Memory, four
from aprtui.recordings.reading import Recording
from aprtui.recordings.stages import NodeNames
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RecordedStages:
    """Stages by node, `[tokens, width]` or `[heads, query, key]`, and what a person should know of them."""

    values: Mapping[Node, Floats]
    notes: tuple[str, ...] = ()


class _UnreadWeights:
    """Weights that nothing is computed from: they take no memory, however large they say they are."""

    def weight_bytes(self, _name: str, size: int) -> Bytes:
        return np.broadcast_to(np.zeros(1, np.uint8), size)


def stage_values(
    recording: Recording, graph: StageGraph | None, places: StagePlaces | None, progress: Progress
) -> RecordedStages:
    """What stages the nodes of `recording` are, and their values.

    `graph` and `places` are those of the model that was recorded, where it is known. A node that does not hold rows of
    tokens is left out, and so is a stage that not all passes have.
    """
    if recording.header.ops is OpSet.ATEN:
        return _of_modules(recording, graph, progress)
    collected = _Collected()
    memory = Memory(recording, _UnreadWeights())
    for number, passed in enumerate(recording.graphs):
        progress("reading stages", number, len(recording.graphs))
        memory.begin(passed)
        try:
            _take_graph(memory, NodeNames(passed, recording.header.stages, places), collected)
        except (MemoryError, BufferError, ValueError) as error:
            raise UnreadableError(
                f"{recording.path}: graph {number}: an op writes into a weight: record again"
            ) from error
    return RecordedStages(dict(collected.whole(recording.graphs)), tuple(collected.notes()))


def _take_graph(memory: Memory, names: NodeNames, collected: _Collected) -> None:
    passed = names.graph
    collected.begin(names.stages)
    parts, views = StageParts(names.stages, collected.put), names.views()
    for node in passed.nodes:
        found = names.places(node)
        for place in found:
            taken = _taken_source(passed, node) if place.takes_input else None
            if taken is not None:
                _take(memory, passed, taken, node, place, parts, collected)
        memory.store(node)
        if node.blobs[0] is None:
            continue
        for place in found:
            if not place.takes_input:
                _take(memory, passed, node.outputs[0], node, place, parts, collected)
        for view, place in views.get(passed.tensors[node.outputs[0]].root, ()):
            _take(memory, passed, view, node, place, parts, collected)


def _take(
    memory: Memory, passed: OpGraph, index: int, node: OpNode, place: StagePlace, parts: StageParts,
    collected: _Collected,
) -> None:  # fmt: skip
    """Take the values of tensor `index`, which `node` has made or is about to read."""
    values = four(np.asarray(memory.values(passed.tensors[index]), np.float32))
    scale = float(node.params.get("scale", 1.0))
    try:
        parts.take(place, values, passed.count, passed.position + passed.count, lambda: scale)
    except ValueError:
        collected.without_rows.add(place.node.stage)


def _taken_source(passed: OpGraph, node: OpNode) -> int | None:
    """The tensor that a product takes in beside its weight."""
    sources = [source for source in node.sources if source is not None]
    return next((s for s in sources if passed.roots[passed.tensors[s].root].kind is not RootKind.WEIGHT), None)


@dataclass(slots=True)
class _Collected:
    """What each graph has of each stage."""

    graphs: list[dict[Node, Floats]] = field(default_factory=list)
    without_rows: set[str] = field(default_factory=set)
    states: set[str] = field(default_factory=set)

    def begin(self, stages: StageGraph) -> None:
        self.graphs.append({})
        self.states |= {stage.name for stage in stages.stages if stage.holds_state}

    def put(self, node: Node, values: Floats) -> None:
        self.graphs[-1][node] = values

    def whole(self, passes: tuple[OpGraph, ...]) -> Iterator[tuple[Node, Floats]]:
        """The stages that all graphs have, joined."""
        for node in self.graphs[0]:
            found = [each[node] for each in self.graphs if node in each]
            if len(found) < len(self.graphs):
                continue
            if node.stage in self.states:
                yield node, found[-1]  # that after the last token
            elif len({part.shape[-1] for part in found if part.ndim == 2}) <= 1:
                yield node, _joined(found, passes)

    def notes(self) -> Iterator[str]:
        if self.without_rows:
            yield f"not rows of tokens, left out: {', '.join(sorted(self.without_rows))}"
        partly = {
            node.stage for each in self.graphs for node in each if not all(node in other for other in self.graphs)
        }
        if partly:
            yield f"not in all passes, left out: {', '.join(sorted(partly))}"


def _joined(parts: list[Floats], passes: tuple[OpGraph, ...]) -> Floats:
    if len(parts) == 1:
        return parts[0]
    if parts[0].ndim == 2:
        return np.concatenate(parts)
    last = passes[-1]
    maps = np.zeros((parts[0].shape[0], last.position + last.count, last.position + last.count), np.float32)
    for part, passed in zip(parts, passes, strict=True):
        maps[:, passed.position : passed.position + passed.count, : part.shape[2]] = part
    return maps


def _of_modules(recording: Recording, graph: StageGraph | None, progress: Progress) -> RecordedStages:
    """What the modules of a PyTorch model take in and give: what goes into their first op, what their last one made."""
    memory, passes = Memory(recording, _UnreadWeights()), list[ForwardPass]()
    for number, passed in enumerate(recording.graphs):
        progress("reading stages", number, len(recording.graphs))
        memory.begin(passed)
        found: dict[str, SourceTensor] = {}
        for node in passed.nodes:
            taken, name = _taken_source(passed, node), f"{node.name}.input.0"
            if node.name and taken is not None and name not in found:
                found[name] = _kept(memory, passed, taken, name)
            memory.store(node)
            if node.name and node.blobs[0] is not None:
                found[f"{node.name}.output"] = _kept(memory, passed, node.outputs[0], f"{node.name}.output")
        ids = recording.header.tokens[passed.position : passed.position + passed.count]
        positions = tuple(range(passed.position, passed.position + passed.count))
        passes.append(ForwardPass(number, found, ids, positions))
    source, mapping = joined(recording.path, passes, PartChoice(), graph, {})
    made = plan(mapping, source.tensors)
    return RecordedStages(
        {node: values_of(node, each) for node, each in made.nodes.items()}, (*source.notes, *made.missing)
    )


def _kept(memory: Memory, passed: OpGraph, index: int, name: str) -> SourceTensor:
    values = np.ascontiguousarray(memory.values(passed.tensors[index]), "<f4")
    return SourceTensor(name, values.shape, ELEMENTS["F32"], partial(_bytes, values))


def _bytes(values: Floats) -> Raw:
    return values.reshape(-1).view(np.uint8)
