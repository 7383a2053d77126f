"""Whether one of two captures counts layers from 1: each of its layers would be held against the one behind it."""

from __future__ import annotations

from collections.abc import Iterator

from aprtui.compare.metrics.measure import rel_l2
from aprtui.compare.survey import Lost, held_values
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import ENTRY, Node

_CLEARLY = 0.25
"""How much nearer a stage is to that of the layer before: engines differ by less, and neighbouring layers by more."""
_MOST_STAGES = 8


def counted_from_one(a: Capture, b: Capture) -> str | None:
    """What is to be said of the side that has no layer 0, and whose stages are those of the other side's layer before;
    None where there is no such side."""
    for name, capture, other in (("A", a, b), ("B", b, a)):
        if not _layers(capture) or 0 in _layers(capture) or 0 not in _layers(other):
            continue
        nearer = [crosswise < _CLEARLY * straight for crosswise, straight in _errors(capture, other)]
        if len(nearer) > 1 and 4 * sum(nearer) >= 3 * len(nearer):
            return (
                f"{name} counts layers from 1: its layers have the values of the other side's layers before them: "
                "count from 0, in the names of folders and in the headers of files"
            )
    return None


def _layers(capture: Capture) -> set[int]:
    return {node.layer for node in capture.files if node.layer is not None and node.stage != ENTRY}


def _errors(capture: Capture, other: Capture) -> Iterator[tuple[float, float]]:
    """How far stages of `capture` are from those of the layer before, and from those of their own layer, of `other`."""
    nodes = [node for node in capture.files if node.layer and {_before(node), node} <= other.files.keys()]
    for node in nodes[:: max(1, len(nodes) // _MOST_STAGES)]:
        values, *others = (held_values(*at) for at in ((capture, node), (other, _before(node)), (other, node)))
        if isinstance(values, Lost):
            continue
        errors = [
            rel_l2(one.reshape(-1), values.reshape(-1))
            for one in others
            if not isinstance(one, Lost) and one.size == values.size
        ]
        if len(errors) == 2 and errors[0] is not None and errors[1] is not None:
            yield errors[0], errors[1]


def _before(node: Node) -> Node:
    return Node(None if node.layer is None else node.layer - 1, node.stage)
