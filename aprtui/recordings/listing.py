"""The nodes of a recording one by one: what each is called, and the values that it made."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.survey import tensor_stats
from aprtui.errors import UsageError
from aprtui.recordings.format import OpGraph, OpNode
from aprtui.recordings.memory import output_values
from aprtui.recordings.reading import Recording
from aprtui.recordings.stages import NodeName, NodeNames
from aprtui.trace.stats import StageStats


@dataclass(frozen=True, slots=True)
class ListedNode:
    """Node `index` of graph `graph`. `shape` is that of its first output, without leading ones."""

    graph: int
    index: int
    node: OpNode = field(compare=False)
    name: NodeName
    shape: tuple[int, ...]
    type: str

    @property
    def title(self) -> str:
        """What the engine calls it, or which op it is."""
        return self.name.text or self.node.op


def listed_nodes(recording: Recording) -> Iterator[ListedNode]:
    """All nodes in the order of their execution."""
    for number, graph in enumerate(recording.graphs):
        names = NodeNames(graph, recording.header.stages)
        for index in range(len(graph.nodes)):
            yield _listed(graph, number, index, names)


def listed_node(recording: Recording, graph: int, index: int) -> ListedNode:
    """One node. Raises `UsageError` for one that there is not."""
    if not 0 <= graph < len(recording.graphs) or not 0 <= index < len(recording.graphs[graph].nodes):
        raise UsageError(f"{recording.path}: has no op {index} of graph {graph}: see aprtui stats {recording.path}")
    names = NodeNames(recording.graphs[graph], recording.header.stages)
    return _listed(recording.graphs[graph], graph, index, names)


def _listed(graph: OpGraph, number: int, index: int, names: NodeNames) -> ListedNode:
    node = graph.nodes[index]
    tensor = graph.tensors[node.outputs[0]]
    shape = graph.tensors[node.sources[0] or 0].shape if node.rows else tensor.shape
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return ListedNode(number, index, node, names.name(node), shape, tensor.type)


def node_values(recording: Recording, listed: ListedNode) -> NDArray[np.float32] | None:
    """The values of the first output as float32, in `listed.shape`; None where they were not recorded."""
    found = output_values(recording, recording.graphs[listed.graph], listed.node)
    if found is None:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(found, np.float32).reshape(listed.shape)


def node_stats(recording: Recording, listed: ListedNode) -> StageStats | None:
    """Statistics of the values of a node; None where they were not recorded."""
    values = node_values(recording, listed)
    return None if values is None else tensor_stats(values.reshape(-1))


def selected(stages: str | None, layers: Callable[[int], bool] | None) -> Callable[[ListedNode], bool]:
    """Whether a node is asked for: by a comma list of globs that its stage, its name or its op fits, and by layer."""
    globs = [] if stages is None or stages == "all" else [glob.strip() for glob in stages.split(",") if glob.strip()]

    def fits(listed: ListedNode) -> bool:
        if layers is not None and (listed.name.layer is None or not layers(listed.name.layer)):
            return False
        called = [listed.name.stage, listed.name.text, listed.node.op]
        return not globs or any(name and fnmatch.fnmatchcase(name, glob) for name in called for glob in globs)

    return fits
