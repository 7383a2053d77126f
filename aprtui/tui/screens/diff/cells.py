"""The contents of the grid of a comparison: two signals a cell, signs that need no colour, folded rows.

The upper half of a cell is the error that the stage adds itself, the lower half the difference of the sides as it is
observed there, with all that was inherited. Without a replay what a stage adds is known only where all that it is
computed from is within bounds: elsewhere the upper half is empty. Red is for error that a stage adds beyond its bound:
a difference that honest rounding explains is calm, however large it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

from aprtui.compare.align.pairing import Unpaired
from aprtui.compare.comparison import Comparison, ErrorState, StageComparison
from aprtui.compare.metrics.measure import Metric, PairMetrics
from aprtui.compare.verdict import TOLERABLE, StageVerdict, Verdict, error_step
from aprtui.trace.graph.ops import Scope
from aprtui.trace.graph.stage import Node
from aprtui.tui.draw.colours import LEVELS, ColourMap, Mark

_FIRST = (Metric.TOKEN_REL_L2, Metric.REL_L2, Metric.REL_LINF)
METRICS = (*_FIRST, *(metric for metric in TOLERABLE if metric not in _FIRST))
"""The metrics that can be shown and bounded, in the order in which M goes through them."""

STEPS = 6
STEP_TEXTS = ("far below its bound", "below", "up to it", "up to 3 ×", "up to 30 ×", "more")
"""The meaning of each `error_step`."""


class Sign(StrEnum):
    """What stands beside a cell's colours."""

    NONE = " "
    ADDS = "◆"
    BEYOND = "!"
    NAN = "X"
    INF = "I"
    UNJUDGED = "?"
    SKIPPED = "·"
    ONLY_A = "A"
    ONLY_B = "B"
    DAMAGED = "✗"


SIGN_TEXTS: Mapping[Sign, str] = {
    Sign.ADDS: "adds error itself",
    Sign.BEYOND: "beyond its bound",
    Sign.NAN: "NaN on one side",
    Sign.INF: "Inf on one side",
    Sign.UNJUDGED: "not judged",
    Sign.SKIPPED: "not compared",
    Sign.ONLY_A: "in A only",
    Sign.ONLY_B: "in B only",
    Sign.DAMAGED: "damaged",
}


COLOUR_TEXTS = (
    ("blue", "within its bound"), ("red", "adds error beyond its bound"),
    ("ochre", "beyond its bound, may be inherited"), ("grey", "no bound judges it"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DiffCell:
    """Levels or marks of the two halves (None: nothing is known) in the colours of their maps."""

    upper: int | None
    lower: int | None
    sign: Sign
    upper_map: ColourMap = ColourMap.ADDED
    lower_map: ColourMap = ColourMap.OBSERVED

    @property
    def grey(self) -> bool:
        """Whether no bound is on what is shown."""
        return self.upper_map is ColourMap.UNBOUNDED


def step_level(step: int) -> int:
    """The level of a tile that has the colour of a step of the error scale."""
    return round(step * (LEVELS - 1) / (STEPS - 1))


@dataclass(frozen=True, slots=True)
class Greys:
    """The logarithmic scale of numbers without a bound, from the smallest to the largest of all stages."""

    metric: Metric
    low: float
    high: float

    @property
    def words(self) -> str:
        less = "1 − " if self.metric is Metric.COSINE else ""
        return f"{less}{self.metric} without a bound: {self.low:.2g} … {self.high:.2g}"

    def level(self, metrics: PairMetrics) -> int:
        value = metrics.deviation(self.metric)
        if not value or math.isnan(value):
            return 0
        span = math.log(self.high / self.low) if self.high > self.low else 0.0
        share = math.log(min(value, self.high) / self.low) / span if span else 1.0
        return round(max(share, 0.0) * (LEVELS - 1))


def greys(comparison: Comparison, metric: Metric) -> Greys:
    values = [stage.metrics.deviation(metric) for stage in comparison.stages]
    usable = [value for value in values if value and 0 < value < math.inf]
    return Greys(metric, min(usable, default=1.0), max(usable, default=1.0))


def cells(comparison: Comparison, metric: Metric, before: Comparison | None = None) -> dict[Node, DiffCell]:
    """The cell of each stage, by `metric`.

    A replay has no bound on the difference that is observed: `before` is the comparison before it, which may have one.
    """
    scale = greys(comparison, metric)
    observed = {} if before is None else {stage.node: stage.verdict for stage in before.stages}
    adding = comparison.adding
    return {
        node: _skipped(entry)
        if isinstance(entry, Unpaired)
        else _cell(entry, metric, scale, observed.get(node), node in adding)
        for node, entry in comparison.by_node.items()
    }


def _skipped(unpaired: Unpaired) -> DiffCell:
    if unpaired.damaged:
        return DiffCell(None, None, Sign.DAMAGED)
    only = {"a": Sign.ONLY_A, "b": Sign.ONLY_B}
    return DiffCell(None, None, only.get(unpaired.side or "", Sign.SKIPPED))


def _cell(
    stage: StageComparison, metric: Metric, scale: Greys, observed: StageVerdict | None, adds: bool
) -> DiffCell:  # fmt: skip
    verdict, metrics = stage.verdict, stage.metrics
    if metrics.mismatches:
        nan = metrics.nan_a != metrics.nan_b
        mark = Mark.NAN if nan else Mark.INF
        return DiffCell(mark if adds else None, mark, Sign.NAN if nan else Sign.INF)
    if any(stage.injected):
        return _replayed(stage, observed, scale, adds)
    if verdict.bound is None and verdict.verdict is Verdict.PASS:
        return DiffCell(step_level(0), step_level(0), Sign.NONE)
    if verdict.bound is None or verdict.error is None:
        return _unbounded(scale.level(metrics), Sign.UNJUDGED)
    sign = _sign(stage, adds)
    if verdict.metric is not metric and verdict.metric is not Metric.INDICES:
        return _unbounded(scale.level(metrics), sign)
    level = _level(verdict)
    if adds:
        return DiffCell(level, level, sign, lower_map=ColourMap.ADDED)
    return DiffCell(level if stage.state is ErrorState.CLEAN else None, level, sign)


def _unbounded(level: int, sign: Sign) -> DiffCell:
    return DiffCell(level, level, sign, ColourMap.UNBOUNDED, ColourMap.UNBOUNDED)


def _sign(stage: StageComparison, adds: bool) -> Sign:
    if stage.verdict.verdict is not Verdict.FAIL:
        return Sign.UNJUDGED if stage.verdict.verdict is Verdict.UNKNOWN else Sign.NONE
    return Sign.ADDS if adds else Sign.BEYOND


def _level(verdict: StageVerdict | None) -> int | None:
    if verdict is None or verdict.error is None or verdict.bound is None:
        return None
    return step_level(error_step(verdict.metric, verdict.error, verdict.bound))


def _replayed(stage: StageComparison, before: StageVerdict | None, scale: Greys, adds: bool) -> DiffCell:
    """Of a replay: what either side adds; the observed difference over its bound if one was measured, else in greys."""
    added = [level for level in map(_level, stage.injected) if level is not None]
    observed, lower_map = _level(before), ColourMap.OBSERVED
    if observed is None:
        observed, lower_map = scale.level(stage.metrics), ColourMap.UNBOUNDED
    unjudged = not added or stage.verdict.verdict is Verdict.UNKNOWN
    sign = Sign.UNJUDGED if unjudged else _sign(stage, adds)
    return DiffCell(max(added, default=None), observed, sign, lower_map=lower_map)


@dataclass(frozen=True, slots=True)
class DiffLayout:
    """Stages as columns in named groups; those that the model has `once` stand below the grid."""

    columns: tuple[str, ...]
    groups: tuple[tuple[str, int], ...]
    layers: tuple[int, ...]
    once: tuple[Node, ...]


def layout(comparison: Comparison) -> DiffLayout:
    in_layers = [stage for stage in comparison.graph.stages if stage.scope is Scope.LAYER]
    columns = tuple(stage.name for stage in in_layers)
    groups = tuple((name, len(list(members))) for name, members in groupby(in_layers, lambda stage: stage.column))
    nodes = comparison.by_node
    once = tuple(node for node in nodes if node.layer is None or node.stage not in columns)
    layers = sorted({node.layer for node in nodes if node.layer is not None and node.stage in columns})
    return DiffLayout(columns, groups, tuple(layers), once)


@dataclass(frozen=True, slots=True)
class DiffRow:
    """A row of the grid: a layer, or the fold of several that are alike."""

    layers: tuple[int, ...]
    folded: bool = False

    @property
    def text(self) -> str:
        count = len(self.layers)
        place = f"layer {self.layers[0]}" if count == 1 else f"layers {self.layers[0]}–{self.layers[-1]}"
        return f"{place}: {count} {'layer' if count == 1 else 'layers'} alike, nothing beyond the bound"


def rows(comparison: Comparison, shape: DiffLayout, folded: bool) -> tuple[DiffRow, ...]:
    """The rows; `folded` puts neighbouring layers in which every stage is within its bound into one."""
    if not folded:
        return tuple(DiffRow((layer,)) for layer in shape.layers)
    passed = {stage.node for stage in comparison.stages if stage.verdict.verdict is Verdict.PASS}
    differing = {node.layer for node in comparison.by_node if node not in passed}
    found: list[DiffRow] = []
    for alike, layers in groupby(shape.layers, lambda layer: layer not in differing):
        members = tuple(layers)
        found += [DiffRow(members, True)] if alike else [DiffRow((layer,)) for layer in members]
    return tuple(found)
