"""From a mapping and the names in a source to what each node is made of, and from that to its values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from aprtui.errors import UsageError
from aprtui.importing.elements import Floats, SourceTensor
from aprtui.importing.mapping import SCOPES, Operation, PairOrder, Piece, Rule, SourceAxis, TensorMapping, expression
from aprtui.importing.stacked import Stacks, count_layers, without_layers
from aprtui.trace.graph.names import known_stages
from aprtui.trace.graph.ops import Scope
from aprtui.trace.graph.stage import ENTRY, MAX_LAYERS, Node

MAPS = frozenset(name for name, stage in known_stages().items() if stage.is_attention_map)
"""Stages that are attention maps."""

_LOGITS = frozenset(name for name, stage in known_stages().items() if stage.holds_logits)
_NUMBERS = re.compile("[0-9]{1,9}")

_ROWS = (SourceAxis.TOKEN, SourceAxis.HEAD, SourceAxis.EXPERT, SourceAxis.CHANNEL)
_MAP = (SourceAxis.HEAD, SourceAxis.QUERY, SourceAxis.KEY)


@dataclass(frozen=True, slots=True)
class Ingredient:
    """What a piece is made of for one node: tensors that follow one another by token, or ingredients of its parts."""

    piece: Piece
    tensors: tuple[SourceTensor, ...] = ()
    parts: tuple[Ingredient, ...] = ()

    def names(self) -> Iterator[SourceTensor]:
        """All the tensors that it takes."""
        yield from self.tensors
        for part in self.parts:
            yield from part.names()


@dataclass(frozen=True, slots=True)
class Plan:
    """What each node is made of, and what could not be found."""

    nodes: Mapping[Node, Ingredient]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    """Names of tensors that no rule means."""


_Found = dict[int | None, dict[int, SourceTensor]]
"""Tensors of a pattern by layer and place among the tokens."""


def plan(mapping: TensorMapping, tensors: Mapping[str, SourceTensor]) -> Plan:
    """What each node that the rules speak of is made of. Raises `UsageError` where two tensors answer to one rule."""
    nodes: dict[Node, Ingredient] = {}
    missing: list[str] = []
    matched: dict[str, _Found] = {}
    index, stacks = _index(tensors), Stacks()
    for rule in mapping.rules:
        for pattern in rule.piece.patterns():
            if pattern not in matched:
                matched[pattern] = _matches(pattern, tensors, index)
            if not matched[pattern]:
                missing.append(f"{rule.stage}: no tensor is named {pattern!r}")
        for node, made in _of_rule(rule, matched, stacks):
            if node in nodes:
                raise UsageError(f"{node}: two rules make it: leave one out")
            nodes[node] = made
    nodes, gaps = _without_gaps(nodes, matched)
    missing += gaps
    used = {tensor.name for found in matched.values() for each in found.values() for tensor in each.values()}
    return Plan(nodes, tuple(dict.fromkeys(missing)), tuple(name for name in tensors if tensors[name].name not in used))


def _of_rule(rule: Rule, matched: Mapping[str, _Found], stacks: Stacks) -> Iterator[tuple[Node, Ingredient]]:
    """The nodes that a rule makes, and what each is made of."""
    if rule.piece.counts_layers:
        yield from _of_stack(rule, matched, stacks)
        return
    layers = {layer for pattern in rule.piece.patterns() for layer in matched[pattern]} or {None}
    for layer in sorted(layers - {None} if len(layers) > 1 else layers, key=lambda number: number or 0):
        node = _node(rule, layer)
        made = None if node is None else _made(rule.piece, layer, matched)
        if node is not None and made is not None:
            yield node, made


def _of_stack(rule: Rule, matched: Mapping[str, _Found], stacks: Stacks) -> Iterator[tuple[Node, Ingredient]]:
    """The same where an axis counts the layers. Raises `UsageError` where one is meant and several are taken."""
    count = _layers_inside(rule.piece, matched)
    is_one = rule.layer is not None or SCOPES[rule.stage] is not Scope.LAYER
    if is_one and count > 1:
        raise UsageError(
            f"{rule.stage}: is made of one entry of the axis layer, of which the rule takes {count}: "
            "slice: {layer: [FIRST, END]} says which"
        )
    for entry in range(min(count, MAX_LAYERS)):
        node = _node(rule, None) if is_one else Node(entry, rule.stage)
        made = _made(rule.piece, None, matched, partial(stacks.layer, entry=entry))
        if node is not None and made is not None:
            yield node, made


def _layers_inside(piece: Piece, matched: Mapping[str, _Found]) -> int:
    if piece.parts:
        counts = [_layers_inside(part, matched) for part in piece.parts if part.counts_layers]
        if len(set(counts)) > 1:
            raise UsageError(
                f"tensors of {' and '.join(map(str, counts))} layers are taken together: "
                "slice: {layer: [FIRST, END]} says which of them belong together"
            )
        return counts[0]
    return count_layers(piece, matched[piece.pattern].get(None, {}).values())


def _without_gaps(
    nodes: Mapping[Node, Ingredient], matched: Mapping[str, _Found]
) -> tuple[dict[Node, Ingredient], list[str]]:
    """The nodes that have all pieces by token that others have, and what is to be said of those that have not.

    Of logits, the last piece may be all that there is.
    """
    places = {place for found in matched.values() for each in found.values() for place in each}
    by_place = {
        tensor.name: place for found in matched.values() for each in found.values() for place, tensor in each.items()
    }  # fmt: skip

    def is_whole(node: Node, made: Ingredient) -> bool:
        if made.parts:
            return all(is_whole(node, part) for part in made.parts)
        if "{token}" not in made.piece.pattern:
            return True
        own = {by_place[tensor.name] for tensor in made.tensors}
        return own == places or (node.stage in _LOGITS and own == {max(places)})

    gaps = [node for node, made in nodes.items() if not is_whole(node, made)]
    said = [f"{len(gaps)} stage tensors lack some of the {len(places)} pieces, as {gaps[0]}: left out"] if gaps else []
    return {node: made for node, made in nodes.items() if node not in gaps}, said


_Index = Mapping[tuple[str, str], Sequence[str]]
"""Names by what stands before and behind one of their numbers."""


def _index(tensors: Mapping[str, SourceTensor]) -> _Index:
    """A dump of many passes has a hundred thousand names, and a rule for each stage of each layer."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in tensors:
        for number in _NUMBERS.finditer(name):
            found.setdefault((name[: number.start()], name[number.end() :]), []).append(name)
    return found


def _candidates(pattern: str, tensors: Mapping[str, SourceTensor], index: _Index) -> Iterable[str]:
    """The names that a pattern may mean: those that differ in its one number, where it has no more than that."""
    parts = re.split(r"\{layer\}|\{token\}|(\*)", pattern)
    if len(parts) == 1:
        return [pattern] if pattern in tensors else []
    if len(parts) == 3 and parts[1] is None and not parts[0][-1:].isdecimal() and not parts[2][:1].isdecimal():
        return index.get((parts[0], parts[2]), ())
    return tensors


def _matches(pattern: str, tensors: Mapping[str, SourceTensor], index: _Index) -> _Found:
    compiled = expression(pattern)
    found: _Found = {}
    taken: dict[tuple[int | None, int], str] = {}
    for name in _candidates(pattern, tensors, index):
        tensor, match = tensors[name], compiled.fullmatch(name)
        if match is None:
            continue
        groups = match.groupdict()
        layer = None if groups.get("layer") is None else int(groups["layer"])
        place = int(groups.get("token") or 0)
        other = taken.setdefault((layer, place), name)
        if other != name:
            raise UsageError(f"{pattern!r} means {other!r:.80} and {name!r:.80}: write a name that means one of them")
        found.setdefault(layer, {})[place] = tensor
    return found


def _node(rule: Rule, layer: int | None) -> Node | None:
    if layer is None:
        return Node(0 if rule.stage == ENTRY else rule.layer, rule.stage)
    if rule.end is not None and layer >= rule.end:
        return None
    number = layer - rule.first
    last = 0 if rule.stage == ENTRY else MAX_LAYERS - 1
    return Node(number, rule.stage) if 0 <= number <= last else None


def _made(
    piece: Piece,
    layer: int | None,
    matched: Mapping[str, _Found],
    taken: Callable[[SourceTensor, Piece], SourceTensor] | None = None,
) -> Ingredient | None:
    """What a piece is made of for a layer; `taken` takes that out of tensors of all layers."""
    if piece.parts:
        parts = [_made(part, layer, matched, taken) for part in piece.parts]
        whole = tuple(part for part in parts if part is not None)
        return Ingredient(piece, parts=whole) if len(whole) == len(parts) else None
    found = matched[piece.pattern]
    by_place = found.get(layer) or found.get(None)
    if not by_place:
        return None
    tensors = tuple(by_place[place] for place in sorted(by_place))
    if taken is None or not piece.counts_layers:
        return Ingredient(piece, tensors)
    return Ingredient(without_layers(piece), tuple(taken(tensor, piece) for tensor in tensors))


def values_of(node: Node, made: Ingredient) -> Floats:
    """The values of a node, `[tokens, width]` or `[heads, query, key]`. Raises `UsageError` for a shape that the rule
    does not fit."""
    is_map = node.stage in MAPS
    return np.ascontiguousarray(_values(node, made, is_map), np.float32)


def _values(node: Node, made: Ingredient, is_map: bool) -> Floats:
    piece = made.piece
    if made.parts:
        found = _joined(node, piece, [_values(node, part, is_map) for part in made.parts])
        found = _sliced(node, found, _MAP if is_map else (SourceAxis.TOKEN, SourceAxis.CHANNEL), piece)
    else:
        each = [_arranged(node, tensor, piece, is_map) for tensor in made.tensors]
        if len({part.shape[1:] for part in each}) > 1 or (is_map and len(each) > 1):
            raise UsageError(f"{node}: {made.tensors[0].name!r:.80} and those that follow it do not make one tensor")
        found = each[0] if len(each) == 1 else np.concatenate(each)
    return found if piece.pairs is None else _moved(node, found, piece)


def _joined(node: Node, piece: Piece, parts: list[Floats]) -> Floats:
    shapes = [part.shape for part in parts]
    if piece.operation is Operation.CONCATENATE:
        if len({shape[:-1] for shape in shapes}) > 1:
            raise UsageError(f"{node}: concatenate: shapes {shapes}: the tokens differ")
        return np.concatenate(parts, -1)
    if len(set(shapes)) > 1:
        raise UsageError(f"{node}: sum: shapes {shapes} differ")
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def default_axes(shape: tuple[int, ...], is_map: bool) -> tuple[SourceAxis, ...] | None:
    """The axes of a tensor of which nothing is said: the last ones of a stage, behind axes of size 1; None where there
    are more."""
    wanted = _MAP if is_map else (SourceAxis.TOKEN, SourceAxis.CHANNEL)
    if len(shape) <= len(wanted):
        return wanted[len(wanted) - len(shape) :]
    extra = len(shape) - len(wanted)
    return (SourceAxis.ONE,) * extra + wanted if set(shape[:extra]) == {1} else None


def _arranged(node: Node, tensor: SourceTensor, piece: Piece, is_map: bool) -> Floats:
    axes = piece.axes or default_axes(tensor.shape, is_map)
    what = f"{node}: {tensor.name!r:.80} of shape {list(tensor.shape)}"
    if axes is None:
        raise UsageError(f"{what}: say which axis is which, as axes: [batch, head, token, channel]")
    if len(axes) != len(tensor.shape):
        raise UsageError(f"{what}: the rule names {len(axes)} axes: {', '.join(axes)}")
    values, left = _sliced(node, tensor.floats(), axes, piece), list(axes)
    for axis, index in ((SourceAxis.BATCH, piece.batch), (SourceAxis.ONE, 0)):
        while axis in left:
            place = left.index(axis)
            size = values.shape[place]
            if index >= size or (axis is SourceAxis.ONE and size > 1):
                raise UsageError(f"{what}: axis {place + 1} has {size} entries, the rule takes number {index} ({axis})")
            values = np.take(values, index, place)
            left.pop(place)
    order = _MAP if is_map else _ROWS
    if not set(left) <= set(order) or (is_map and len(left) < len(order)):
        raise UsageError(f"{what}: a stage like this has the axes {', '.join(order)}")
    values = values.transpose([left.index(axis) for axis in order if axis in left])
    if is_map:
        return values
    shape = values.shape if SourceAxis.TOKEN in left else (1, *values.shape)
    return values.reshape(shape[0], math.prod(shape[1:]))


def _sliced(node: Node, values: Floats, axes: tuple[SourceAxis, ...], piece: Piece) -> Floats:
    for axis, (first, end) in piece.slices.items():
        if axis not in axes:
            raise UsageError(f"{node}: slice: there is no axis {axis}: there are {', '.join(axes)}")
        place = axes.index(axis)
        if end > values.shape[place]:
            raise UsageError(
                f"{node}: slice: axis {axis} has {values.shape[place]} entries, the rule takes {first}…{end}"
            )
        values = values[(*(slice(None),) * place, slice(first, end))]
    return values


def _moved(node: Node, rows: Floats, piece: Piece) -> Floats:
    """`rows` with the channels of each head in the other order of pairs."""
    if rows.shape[-1] % piece.head_dim:
        raise UsageError(f"{node}: pairs: {rows.shape[-1]} channels are no heads of {piece.head_dim}")
    half = piece.head_dim // 2
    split = (2, half) if piece.pairs is PairOrder.TO_NEIGHBOURS else (half, 2)
    return rows.reshape(len(rows), -1, *split).swapaxes(2, 3).reshape(rows.shape)
