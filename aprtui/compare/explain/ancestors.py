"""What stands before a stage in the graph, where not every stage was compared."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from aprtui.trace.graph import Node, StageGraph


def nearest(graph: StageGraph, node: Node, compared: Collection[Node]) -> Iterator[Node]:
    """The nearest ancestors of `node` that were compared: its inputs, or what lies behind those that were not."""
    seen: set[Node] = set()
    pending = list(graph.inputs(node))
    while pending:
        source = pending.pop()
        if source in seen:
            continue
        seen.add(source)
        if source in compared:
            yield source
        else:
            pending += graph.inputs(source)
