"""Whether one of two captures counts layers from 1: each of its layers would be held against the one behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from aprtui.compare.metrics.measure import rel_l2
from aprtui.compare.survey import Lost, held_values
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import ENTRY, Node

_CLEARLY = 0.25
"""How far a stage may be from that of the layer before: relative to how far it is from that of its own, and at all.
Engines differ by less, and neighbouring layers by more."""
_LAYERS, _STAGES = 3, 4
Item = TypeVar("Item")


def counted_from_one(a: Capture, b: Capture) -> str | None:
    """What is to be said of the side that has no layer 0, and whose stages are those of the other side's layer before;
    None where there is no such side.

    One layer proves nothing: it may have been left out, or hold what the layer before has left. A manifest says itself
    how layers are counted.
    """
    for name, capture, other in (("A", a, b), ("B", b, a)):
        layers = _layers(capture)
        if capture.manifest is not None or not layers or 0 in layers or 0 not in _layers(other):
            continue
        behind = [layer for layer in sorted(layers) if {layer, layer - 1} <= _layers(other)]
        if len(behind) > 1 and all(_is_the_one_before(capture, other, layer) for layer in _spread(behind, _LAYERS)):
            return (
                f"{name} counts layers from 1: its layers have the values of the other side's layers before them: "
                "count from 0, in the names of folders and in the headers of files"
            )
    return None


def _layers(capture: Capture) -> set[int]:
    return {node.layer for node in capture.files if node.layer is not None and node.stage != ENTRY}


def _is_the_one_before(capture: Capture, other: Capture, layer: int) -> bool:
    """Whether most stages of `layer` have the values of the layer before in `other`."""
    nearer = [before < _CLEARLY * min(own, 1.0) for before, own in _errors(capture, other, layer)]
    return 2 * sum(nearer) > len(nearer)


def _errors(capture: Capture, other: Capture, layer: int) -> Iterator[tuple[float, float]]:
    """How far stages of `layer` are from those of the layer before, and of the same layer, of `other`."""
    of_layer = sorted(node.stage for node in capture.files if node.layer == layer)
    stages = [stage for stage in of_layer if Node(layer - 1, stage) in other.files]
    for stage in _spread(stages, _STAGES):
        places = (capture, layer), (other, layer - 1), (other, layer)
        held = [held_values(side, Node(at, stage)) for side, at in places if Node(at, stage) in side.files]
        found = [values.reshape(-1) for values in held if not isinstance(values, Lost)]
        if len(found) == len(places) and len({values.size for values in found}) == 1:
            before, own = (rel_l2(values, found[0]) for values in found[1:])
            if before is not None and own is not None:
                yield before, own


def _spread(items: Sequence[Item], most: int) -> Sequence[Item]:
    """Up to `most` of `items`, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[index * (len(items) - 1) // (most - 1)] for index in range(most)]
