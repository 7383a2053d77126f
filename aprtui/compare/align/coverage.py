"""Which stages a comparison of two captures has to cover, in the order in which they are executed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from aprtui.compare.align.pairing import Unpaired
from aprtui.trace.capture import Capture
from aprtui.trace.graph.names import graph_from_names
from aprtui.trace.graph.stage import Node, canonical_name
from aprtui.trace.graph.stage_graph import StageGraph
from aprtui.trace.select import ALL, parse_layers, select_nodes, select_stages


@dataclass(frozen=True, slots=True)
class Selection:
    """What the user asked for: `--stage` and `--layers` as written, None where not given."""

    stages: str | None = None
    layers: str | None = None


@dataclass(frozen=True, slots=True)
class Coverage:
    """The nodes in question, in execution order. The `expected` ones must not be missing; the `allowed` ones may be,
    because the user allows it."""

    graph: StageGraph
    nodes: tuple[Node, ...]
    expected: frozenset[Node]
    allowed: frozenset[Node]

    def owed(self, skipped: Iterable[Unpaired]) -> frozenset[Node]:
        """The expected stages, and those whose damaged files were skipped, unless they may be missing."""
        return self.expected | {unpaired.node for unpaired in skipped if unpaired.damaged} - self.allowed


def plan_coverage(a: Capture, b: Capture, selection: Selection, allowed: Sequence[str]) -> Coverage:
    """Expected is what a side's manifest promises and, for a side without one, what the other side has; a selection
    promises the stages it names, in the layers it names. What `allowed` globs match may be missing, and what the
    selection does not name exactly of extension stages, of stages that are their input as it is, and of those that a
    side's engine has no tensor of by its manifest: engines differ in which they have.

    Raises `UsageError` for a stage or layer range that selects nothing.
    """
    graph = joint_graph(a, b)
    stages = select_stages(ALL if selection.stages is None else selection.stages, graph)
    # A capture of the logits alone has no layers, of which an explicit selection would select none.
    layers = range(graph.layers) if selection.layers is None else parse_layers(selection.layers, graph.layers)
    selected = select_nodes(graph, stages, layers)
    promised = _promised(a, b)
    if selection.stages is not None or selection.layers is not None:
        named = [node.stage for node in promised] if selection.stages is None else stages
        within = [n.layer for n in promised if n.layer is not None] if selection.layers is None else layers
        promised = select_nodes(graph, named, within)
    exactly = {canonical_name(name) for name in (selection.stages or "").split(",")}
    owed = {node for node in promised if node.stage in exactly or not _is_optional(graph, node)}
    excused = frozenset(
        node for node in owed
        if _is_allowed(node, allowed) or (node.stage not in exactly and unavailable_in(node, a, b) is not None)
    )  # fmt: skip
    considered = promised | (selected & (a.files.keys() | b.files.keys()))
    nodes = tuple(node for node in graph.nodes if node in considered)
    return Coverage(graph, nodes, frozenset(owed - excused), excused)


def _is_optional(graph: StageGraph, node: Node) -> bool:
    return graph[node.stage].extension or graph.passes_through(node)


def unavailable_in(node: Node, *sides: Capture) -> str | None:
    """Why the engine of one of `sides`, which lacks `node`, has no tensor of it; None where no manifest says so."""
    return next(
        (
            side.manifest.unavailable[node.stage] for side in sides
            if side.manifest is not None and node not in side.promised and node.stage in side.manifest.unavailable
        ),
        None,
    )  # fmt: skip


def _promised(a: Capture, b: Capture) -> frozenset[Node]:
    promised: set[Node] = set()
    for side, other in ((a, b), (b, a)):
        promised |= other.files.keys() if side.manifest is None else side.promised
    return frozenset(promised)


def _is_allowed(node: Node, allowed: Iterable[str]) -> bool:
    names = [node.stage] if node.layer is None else [node.stage, f"layer-{node.layer}/{node.stage}"]
    return any(fnmatchcase(name, glob) for glob in allowed for name in names)


def joint_graph(a: Capture, b: Capture) -> StageGraph:
    """The graph of everything that either capture holds: that of a manifest where it has all the stages."""
    names = {name for side in (a, b) for name in side.graph.names}
    layers = max(a.graph.layers, b.graph.layers)
    for graph in (a.graph, b.graph):
        if graph.config is not None and graph.layers == layers and names <= set(graph.names):
            return graph
    return graph_from_names(names, layers)
