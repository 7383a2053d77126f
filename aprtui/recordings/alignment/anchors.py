"""Nodes that consume a matrix of weights: where two graphs are pinned to one another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from aprtui.recordings.alignment.weights import WeightMatch
from aprtui.recordings.format import OpGraph, OpNode, RootKind
from aprtui.recordings.memory import Values
from aprtui.recordings.ops.operands import Operands


@dataclass(frozen=True, slots=True)
class AnchorKind:
    """Where an op has its matrix and its input among its sources, and the bias that it adds (None for none)."""

    is_product: bool
    matrix: int
    input: int
    bias: int | None = None


ANCHOR_OPS: Mapping[str, AnchorKind] = MappingProxyType(
    {
        "MUL_MAT": AnchorKind(True, 0, 1),
        "GET_ROWS": AnchorKind(False, 0, 1),
        "aten.mm.default": AnchorKind(True, 1, 0),
        "aten.addmm.default": AnchorKind(True, 2, 1, 0),
        "aten.embedding.default": AnchorKind(False, 0, 1),
    }
)
"""Products with a matrix of weights, and rows taken from one."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """A node, and the name of the matrix that it consumes."""

    index: int
    weight: str
    kind: AnchorKind


@dataclass(frozen=True, slots=True)
class AnchorPair:
    """A node of A and the one of B that consumes the same weight. `unique`: no other node of either side does."""

    a: Anchor
    b: Anchor
    match: WeightMatch
    unique: bool


def anchors_of(graph: OpGraph, names: Mapping[str, object]) -> list[Anchor]:
    """The anchors of a graph whose matrix is one of `names`."""
    found = []
    for index, node in enumerate(graph.nodes):
        kind = ANCHOR_OPS.get(node.op)
        name = "" if kind is None else _weight(graph, node, kind)
        if kind is not None and name in names:
            found.append(Anchor(index, name, kind))
    return found


def _weight(graph: OpGraph, node: OpNode, kind: AnchorKind) -> str:
    source = node.sources[kind.matrix] if kind.matrix < len(node.sources) else None
    root = None if source is None else graph.roots[graph.tensors[source].root]
    return root.name if root is not None and root.kind is RootKind.WEIGHT else ""


def paired(a: list[Anchor], b: list[Anchor], matches: list[WeightMatch]) -> list[AnchorPair]:
    """Anchors by their weights; where several nodes use one weight, in the order of execution if there are as many."""
    found = []
    for match in matches:
        for product in (True, False):
            mine = [anchor for anchor in a if anchor.weight == match.a and anchor.kind.is_product is product]
            theirs = [anchor for anchor in b if anchor.weight == match.b and anchor.kind.is_product is product]
            if len(mine) == len(theirs):
                found += [AnchorPair(x, y, match, len(mine) == 1) for x, y in zip(mine, theirs, strict=True)]
    twice = Counter(pair.b.index for pair in found)
    return sorted((pair for pair in found if twice[pair.b.index] == 1), key=lambda pair: pair.a.index)


def without_bias(output: Values, operands: Operands, kind: AnchorKind, sign: int) -> Values:
    """An output of a product with its bias taken off (`sign` -1) or added (1)."""
    return output if kind.bias is None else output + sign * operands.values(kind.bias)


def rows_of_a(output: Values, match: WeightMatch) -> Values:
    """What a product with B's matrix gives, in the order of the rows of A's."""
    flat = output.reshape(-1, output.shape[-1])
    if match.rows_a is None:
        return flat
    turned = np.empty_like(flat)
    turned[:, match.rows_a] = flat[:, match.rows_b]
    return turned
