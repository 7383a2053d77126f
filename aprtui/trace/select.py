"""What users select: layers and positions as ranges or lists, stages as names, aliases or globs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from aprtui.errors import UsageError
from aprtui.trace.graph.ops import Scope
from aprtui.trace.graph.stage import Node, canonical_name
from aprtui.trace.graph.stage_graph import StageGraph

ALL = "all"
_LAYER = re.compile("[0-9]{1,9}")


def parse_layers(text: str, layers: int) -> frozenset[int]:
    """Layers meant by `text`: `all`, a half-open range `0..2`, or a list `0,3` of either.

    Layers beyond the model's `layers` select nothing, as upstream; a text that selects no layer at all is a
    `UsageError`, and so is a malformed one.
    """
    return _parse_numbers(text, layers, "layer")


def parse_positions(text: str, tokens: int) -> frozenset[int]:
    """Positions of `tokens` meant by `text`, which is as for `parse_layers`."""
    return _parse_numbers(text, tokens, "token")


def _parse_numbers(text: str, count: int, what: str) -> frozenset[int]:
    chosen: set[int] = set()
    for piece in text.split(","):
        chosen.update(_parse_range(piece.strip(), text, count, what))
    selected = frozenset(number for number in chosen if number < count)
    if not selected:
        raise UsageError(f"{what}s {text!r}: selects none of the {count} {what}s: use START..END (END excluded) or all")
    return selected


def _parse_range(piece: str, text: str, count: int, what: str) -> range:
    if piece.lower() == ALL:
        return range(count)
    start, dots, end = (part.strip() for part in piece.partition(".."))
    if not _LAYER.fullmatch(start) or (dots and not _LAYER.fullmatch(end)):
        raise UsageError(f"{what}s {text!r:.60}: {piece!r:.40} is not a {what}: use 0..1 (END excluded), 0,3 or all")
    first = int(start)
    last = int(end) if dots else first + 1
    if last <= first:
        raise UsageError(
            f"{what}s {text!r}: the range {piece!r} is empty: END is excluded, so {first}..{first + 1} is one {what}"
        )
    return range(first, min(last, count))


def select_stages(text: str, graph: StageGraph) -> tuple[str, ...]:
    """Stages of `graph` meant by the comma list `text` of names, aliases, globs or `all`, in execution order.

    Raises `UsageError` for an empty entry, and for one that no stage of the graph answers to.
    """
    chosen: set[str] = set()
    for piece in text.split(","):
        name = canonical_name(piece)
        if not name:
            raise UsageError(f"stages {text!r}: an entry is empty: separate names by single commas")
        found = [stage for stage in graph.names if name == ALL or fnmatchcase(stage, name)]
        if not found:
            raise UsageError(f"stages {text!r}: this model has no stage {name!r}: it has {', '.join(graph.names)}")
        chosen.update(found)
    return tuple(stage for stage in graph.names if stage in chosen)


def node_of(fields: dict[str, str], graph: StageGraph, what: str) -> Node:
    """The node that `layer` and `stage` of `fields` name, which are taken out of them.

    Raises `UsageError`, which begins with `what` and lists what there is.
    """
    name, layer = canonical_name(fields.pop("stage", "")), fields.pop("layer", None)
    if name not in graph:
        problem = f"no stage {name!r}" if name else "stage= is missing"
        raise UsageError(f"{what}: {problem}: this model has {', '.join(graph.names)}")
    scope = graph[name].scope
    if scope is Scope.MODEL:
        if layer is not None:
            raise UsageError(f"{what}: {name} is in no layer: leave layer= out")
        return Node(None, name)
    last = 0 if scope is Scope.FIRST_LAYER else graph.layers - 1
    if layer is None and scope is Scope.FIRST_LAYER:
        return Node(0, name)
    if layer is None or not layer.isdecimal() or len(layer) > 6 or int(layer) > last:
        raise UsageError(f"{what}: layer {layer or 'is missing'}: {name} is in layers 0 … {last}")
    node = Node(int(layer), name)
    if node not in graph.order:
        found = ", ".join(str(other.layer) for other in graph.nodes if other.stage == name)
        raise UsageError(f"{what}: layer {layer} has no {name}, which is in {found}")
    return node


def parse_node(text: str, graph: StageGraph, option: str) -> Node:
    """The node that `text` names, as `layer=12,stage=ffn_out`. Raises `UsageError`, which names the `option`."""
    what = f"{option} {text!r:.80}"
    pieces = [piece.partition("=") for piece in text.split(",")]
    fields = {name.strip(): value.strip() for name, equals, value in pieces if equals}
    if len(fields) < len(pieces) or not fields.keys() <= {"layer", "stage"}:
        raise UsageError(f"{what}: expected layer=N,stage=NAME, or stage=NAME of the whole model")
    return node_of(fields, graph, what)


def select_nodes(graph: StageGraph, stages: Iterable[str], layers: Iterable[int]) -> frozenset[Node]:
    """Nodes of `stages` in `layers`; stages of the whole model are selected by name alone, as upstream."""
    names, chosen = set(stages), set(layers)
    return frozenset(
        node
        for node in graph.nodes
        if node.stage in names and (graph[node.stage].scope is Scope.MODEL or node.layer in chosen)
    )
