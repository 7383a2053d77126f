"""Which stages a comparison of two captures owes an answer about, and in which order they are executed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from aprtui.trace.capture import Capture
from aprtui.trace.graph import GraphConfig, Node, StageGraph, graph_for, graph_from_names
from aprtui.trace.select import ALL, parse_layers, select_nodes, select_stages


@dataclass(frozen=True, slots=True)
class Selection:
    """What the user asked for: `--stage` and `--layers` as written, None where not given."""

    stages: str | None = None
    layers: str | None = None


@dataclass(frozen=True, slots=True)
class Coverage:
    """The nodes in question, in execution order: those to compare, and those that must not be missing."""

    graph: StageGraph
    nodes: tuple[Node, ...]
    expected: frozenset[Node]


def plan_coverage(a: Capture, b: Capture, selection: Selection, allowed: Sequence[str]) -> Coverage:
    """Expected is what a side's manifest promises and, for a side without one, what the other side has; a selection
    promises the stages it names, in the layers it names. Extensions and what `allowed` globs match may be missing.

    Raises `UsageError` for a stage or layer range that selects nothing.
    """
    graph = joint_graph(a, b)
    stages = select_stages(selection.stages or ALL, graph)
    layers = parse_layers(selection.layers or ALL, graph.layers)
    selected = select_nodes(graph, stages, layers)
    promised = _promised(a, b)
    if selection.stages or selection.layers:
        named = stages if selection.stages else [node.stage for node in promised]
        within = layers if selection.layers else [node.layer for node in promised if node.layer is not None]
        promised = select_nodes(graph, named, within)
    expected = frozenset(node for node in promised if not _may_be_missing(node, graph, allowed))
    considered = promised | (selected & (a.files.keys() | b.files.keys()))
    return Coverage(graph, tuple(node for node in graph.nodes if node in considered), expected)


def _promised(a: Capture, b: Capture) -> frozenset[Node]:
    promised: set[Node] = set()
    for side, other in ((a, b), (b, a)):
        promised |= other.files.keys() if side.manifest is None else side.promised
    return frozenset(promised)


def _may_be_missing(node: Node, graph: StageGraph, allowed: Iterable[str]) -> bool:
    names = [node.stage] if node.layer is None else [node.stage, f"layer-{node.layer}/{node.stage}"]
    return graph[node.stage].extension or any(fnmatchcase(name, glob) for glob in allowed for name in names)


def joint_graph(a: Capture, b: Capture) -> StageGraph:
    """The graph of everything that either capture knows of: that of a manifest where it says it all."""
    names = {name for side in (a, b) for name in side.graph.names}
    layers = max(a.graph.layers, b.graph.layers)
    for graph in (a.graph, b.graph):
        if graph.config is not None and graph.layers == layers and names <= set(graph.names):
            return graph
    return graph_from_names(names, layers)


def segment(graph: StageGraph, divergent: Node, compared: Collection[Node]) -> tuple[Node, ...]:
    """The stages that could be to blame for `divergent`, in execution order: itself, and on the way to it the stages
    that were not compared. Just itself where all its inputs were."""
    graph = graph if graph.config is not None else _with_dense_stages(graph)
    blamed: set[Node] = set()
    pending = [divergent]
    while pending:
        node = pending.pop()
        if node not in blamed:
            blamed.add(node)
            pending += [source for source in graph.inputs(node) if source not in compared]
    return tuple(node for node in graph.nodes if node in blamed)


def _with_dense_stages(graph: StageGraph) -> StageGraph:
    """`graph` with the stages that every dense model has, so that those in neither capture can be named too."""
    dense = graph_for(GraphConfig("unknown", graph.layers, 0, 0, 0, 0, 0, 0))
    return graph_from_names({*graph.names, *dense.names}, graph.layers)
