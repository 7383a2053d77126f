"""Colour levels, the layout of stage grids, and short texts for numbers, without a screen.

A grid has a row for each layer and a column for each stage that layers have, in graph order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from aprtui.trace.graph import Node, Scope, Stage, StageGraph

LEVELS = 64
"""Colour levels; more are not told apart, and few styles mean few colour changes to send."""

LEAST_SPAN = 10.0
"""A column's scale covers at least this factor, so that a stage that hardly varies looks even."""


class Mark(IntEnum):
    """Values of a level tile that are no level; `ABOVE` and `BELOW` lie beyond the ends of the scale."""

    MISSING = 64
    ZERO = 65
    INF = 66
    NAN = 67
    ABOVE = 68
    BELOW = 69


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

    @property
    def layers(self) -> int:
        """Rows of the grid."""
        return int(self.rows.shape[0])

    @property
    def columns(self) -> int:
        """Columns of the grid."""
        return len(self.stages)


def grid_layout(graph: StageGraph) -> GridLayout:
    """The layout for `graph`."""
    stages = tuple(stage for stage in graph.stages if stage.scope is Scope.LAYER)
    groups = tuple((name, len(list(members))) for name, members in groupby(stages, lambda stage: stage.column))
    rows = np.array(
        [[graph.order.get(Node(layer, stage.name), -1) for stage in stages] for layer in range(graph.layers)], np.int64
    ).reshape(graph.layers, len(stages))
    once = tuple(node for node in graph.nodes if graph[node.stage].scope is not Scope.LAYER)
    return GridLayout(stages, groups, rows, once, np.array([graph.order[node] for node in once], np.int64))


def first_nonfinite(stats: NDArray[np.void]) -> tuple[int, Mark] | None:
    """Index in execution order of the first node that holds NaN or Inf, and which of them; None where none does."""
    bad = np.flatnonzero((stats["nan"] > 0) | (stats["inf"] > 0))
    if not bad.size:
        return None
    first = int(bad[0])
    return first, Mark.NAN if stats["nan"][first] else Mark.INF


_PREFIXES = {-12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T"}


def signed(value: float, width: int) -> str:
    """`value` with its sign in at most `width` ≥ 4 characters, as `short` writes it."""
    return f"{'−' if value < 0 else '+'}{short(abs(value), width - 1)}"


@lru_cache(1 << 16)
def short(value: float, width: int) -> str:
    """`value` ≥ 0 in at most `width` ≥ 3 characters and three digits, with SI prefixes: `43m`, `.43`, `4.3`, `4k`.

    Widths below 3 give an empty text; values too small or too large for the prefixes give `~0` and `>T`.
    """
    if width < 3:
        return ""
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Inf"
    if value < 1e-12 or value >= 1e15:
        return "~0" if value < 1 else ">T"
    exponent = 3 * math.floor(math.log10(value) / 3)
    for power in (0,) if exponent == -3 and value >= 0.09951 else (exponent, exponent + 3):
        for digits in (3, 2, 1):
            text = _digits(value / 10.0**power, digits) + _PREFIXES.get(power, "?")
            if len(text) <= width and "?" not in text:
                return text
    return ">T"


def _digits(value: float, digits: int) -> str:
    """`value` < 1000 with `digits` significant digits and no exponent; 1000 where it rounds up to that."""
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = max(0, digits - 1 - math.floor(math.log10(rounded)))
    text = f"{rounded:.{decimals}f}"
    # A leading 0 is worth its place only where it costs no digit.
    return text[1:] if digits < 3 and text.startswith("0.") else text


RAMP = " `,:~=*%#@"
"""Glyphs from the lowest to the highest level, for terminals without colour; `+` and `-` mean clipped, `.` missing."""


def glyph(level: int) -> str:
    """The glyph of a level or mark."""
    marks = {
        Mark.MISSING: "·", Mark.ZERO: "0", Mark.INF: "I", Mark.NAN: "X", Mark.ABOVE: "+", Mark.BELOW: "-"
    }  # fmt: skip
    return RAMP[level * len(RAMP) // LEVELS] if level < LEVELS else marks[Mark(level)]
