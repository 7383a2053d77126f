"""A grid of layers: a row for each layer, a column for each stage that layers have, and headers over the columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from aprtui.trace.graph.ops import Scope
from aprtui.trace.graph.stage import CODES, Node, Stage
from aprtui.trace.graph.stage_graph import StageGraph


@dataclass(frozen=True, slots=True)
class GridLayout:
    """Where each node of a graph stands: layers × columns, and the stages that the model has once."""

    stages: tuple[Stage, ...]
    groups: tuple[tuple[str, int], ...]
    """Names of the column groups and their numbers of columns."""
    rows: NDArray[np.int64]
    """Index of each cell's node in execution order, `[layers, columns]`; −1 where a layer lacks the stage."""
    model_nodes: tuple[Node, ...]
    model_rows: NDArray[np.int64]
    """Index of each of `model_nodes` in execution order."""


def grid_layout(graph: StageGraph) -> GridLayout:
    stages = tuple(stage for stage in graph.stages if stage.scope is Scope.LAYER)
    groups = tuple((name, len(list(members))) for name, members in groupby(stages, lambda stage: stage.column))
    rows = np.array(
        [[graph.order.get(Node(layer, stage.name), -1) for stage in stages] for layer in range(graph.layers)], np.int64
    ).reshape(graph.layers, len(stages))
    once = tuple(node for node in graph.nodes if graph[node.stage].scope is not Scope.LAYER)
    return GridLayout(stages, groups, rows, once, np.array([graph.order[node] for node in once], np.int64))


def wrapped_name(name: str, width: int) -> list[str]:
    """`name` in rows of at most `width` characters; the `_` at a break is left out."""
    rows: list[str] = []
    for word in name.split("_"):
        if rows and len(rows[-1]) + 1 + len(word) <= width:
            rows[-1] += f"_{word}"
        else:
            rows.extend(_even_parts(word, width))
    return rows


def _even_parts(word: str, width: int) -> list[str]:
    """`word` in as few parts as fit in `width`, as long as each other: `matmul` at width 4 is `mat` and `mul`."""
    parts = max(1, -(-len(word) // width))
    length = -(-len(word) // parts)
    return [word[start : start + length] for start in range(0, len(word), length)]


def header_rows(names: Sequence[str], width: int) -> list[list[str]]:
    """Rows of header texts, one text of exactly `width` characters for each name, with a blank between neighbours.

    The names stand at the bottom. Columns narrower than 5 have codes in their place, those narrower than 3 nothing.
    """
    if width < 5:
        return code_rows(names, width) if width > 2 else []
    wrapped = [wrapped_name(name, width - 1) for name in names]
    height = max((len(rows) for rows in wrapped), default=0)
    padded = [[""] * (height - len(rows)) + rows for rows in wrapped]
    return [[column[row].ljust(width) for column in padded] for row in range(height)]


def code_rows(names: Sequence[str], width: int) -> list[list[str]]:
    """The same with the codes of the stages; where these fill their columns, in two rows, one lower than the other.

    In columns of two cells a code takes one cell of the next column, whose text is as much shorter.
    """
    if width < 2 or not names:
        return []
    codes = [CODES[name].ljust(width) for name in names]
    if width > 3:
        return [codes]

    def text(row: int, column: int) -> str:
        if column % 2 == row:
            return codes[column]
        return " " * (width if width == 3 or column < row else 1)

    return [[text(row, column) for column in range(len(codes))] for row in (0, 1)]
