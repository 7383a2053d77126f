"""What the grid of a comparison shows: two signals a cell, signs that need no colour, rows that fold; without a screen.

The upper half of a cell is the error that the stage adds itself, the lower half the difference of the sides as it is
observed there, with all that was inherited. Without a replay what a stage adds is known only where all that it is
computed from is within bounds: elsewhere the upper half is empty.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

from aprtui.compare.explain.classify import ErrorState
from aprtui.compare.metrics.measure import Metric, PairMetrics
from aprtui.compare.report.grid import error_step
from aprtui.compare.verdict import ROUNDING_REL_L2, StageVerdict
from aprtui.trace.graph import Node, Scope
from aprtui.tui.draw.levels import LEVELS, Mark
from aprtui.tui.screens.diff.model import Judgement, Stage, Told

STEPS = 6
STEP_TEXTS = ("far below its bound", "below", "up to it", "up to 3 ×", "up to 30 ×", "more")
"""What the steps of the error scale mean."""


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


SIGN_TEXTS: Mapping[Sign, str] = {
    Sign.ADDS: "adds error itself",
    Sign.BEYOND: "beyond its bound",
    Sign.NAN: "NaN on one side",
    Sign.INF: "Inf on one side",
    Sign.UNJUDGED: "not judged",
    Sign.SKIPPED: "not compared",
    Sign.ONLY_A: "in A only",
    Sign.ONLY_B: "in B only",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """Levels or marks of the two halves (None: nothing is known), in greys where no bound is on what is shown."""

    upper: int | None
    lower: int | None
    sign: Sign
    grey: bool = False


def step_level(step: int) -> int:
    """The level of a tile that has the colour of a step of the error scale."""
    return round(step * (LEVELS - 1) / (STEPS - 1))


@dataclass(frozen=True, slots=True)
class Greys:
    """The scale of what is shown without a bound: logarithmic, from the smallest number of all stages on."""

    metric: Metric
    low: float
    high: float

    def level(self, metrics: PairMetrics) -> int:
        """The level of one stage."""
        value = lack(self.metric, metrics)
        if not value or math.isnan(value):
            return 0
        span = math.log(self.high / self.low) if self.high > self.low else 0.0
        share = math.log(min(value, self.high) / self.low) / span if span else 1.0
        return round(max(share, 0.0) * (LEVELS - 1))


def lack(metric: Metric, metrics: PairMetrics) -> float | None:
    """The number as an error: what a similarity lacks of 1."""
    value = metrics.value(metric)
    return value if value is None or not metric.is_similarity else 1 - value


def greys(told: Told, metric: Metric) -> Greys:
    """The scale of `metric` over all stages."""
    values = [lack(metric, metrics) for _, _, metrics in told.compared]
    usable = [value for value in values if value and 0 < value < math.inf]
    return Greys(metric, min(usable, default=1.0), max(usable, default=1.0))


def cells(judgement: Judgement, metric: Metric, before: Judgement | None = None) -> dict[Node, Cell]:
    """The cell of each stage, by `metric`; `before` has the bounds of what is observed, which a replay knows not."""
    scale = greys(judgement.told, metric)
    return {node: _cell(stage, metric, scale, before) for node, stage in judgement.stages.items()}


def _cell(stage: Stage, metric: Metric, scale: Greys, before: Judgement | None) -> Cell:
    verdict, metrics = stage.verdict, stage.metrics
    if verdict is None or metrics is None:
        only = {"a": Sign.ONLY_A, "b": Sign.ONLY_B}
        return Cell(None, None, only.get(stage.side or "", Sign.SKIPPED))
    if metrics.mismatches:
        nan = metrics.nan_a != metrics.nan_b
        mark = Mark.NAN if nan else Mark.INF
        return Cell(mark if stage.state is ErrorState.INJECTED else None, mark, Sign.NAN if nan else Sign.INF)
    if any(stage.injected):
        return _replayed(stage, metrics, before)
    if verdict.bound is None and stage.alike:
        return Cell(step_level(0), step_level(0), Sign.NONE)
    if verdict.bound is None or verdict.error is None:
        return Cell(scale.level(metrics), scale.level(metrics), Sign.UNJUDGED, grey=True)
    sign = _sign(stage)
    if verdict.metric is not metric and verdict.metric is not Metric.INDICES:
        return Cell(scale.level(metrics), scale.level(metrics), sign, grey=True)
    level = _level(verdict)
    return Cell(level if stage.state in (ErrorState.CLEAN, ErrorState.INJECTED) else None, level, sign)


def _sign(stage: Stage) -> Sign:
    if not stage.beyond:
        return Sign.NONE
    return Sign.ADDS if stage.state is ErrorState.INJECTED else Sign.BEYOND


def _level(verdict: StageVerdict | None) -> int | None:
    if verdict is None or verdict.error is None or verdict.bound is None:
        return None
    return step_level(error_step(verdict.metric, verdict.error, verdict.bound))


def _replayed(stage: Stage, metrics: PairMetrics, before: Judgement | None) -> Cell:
    """Of a replay: what either side adds; the observed difference over the floor if one was measured, or rounding."""
    added = [level for level in map(_level, stage.injected) if level is not None]
    floor = before.stages.get(stage.node) if before is not None else None
    observed = None if floor is None else _level(floor.verdict)
    if observed is None and metrics.token_rel_l2 is not None:
        observed = step_level(error_step(Metric.TOKEN_REL_L2, metrics.token_rel_l2, ROUNDING_REL_L2))
    unjudged = not added or (not stage.beyond and not stage.alike)
    return Cell(max(added, default=None), observed, Sign.UNJUDGED if unjudged else _sign(stage))


@dataclass(frozen=True, slots=True)
class Layout:
    """Which stages are columns, in named groups; which stand below the grid since the model has them once."""

    columns: tuple[str, ...]
    groups: tuple[tuple[str, int], ...]
    layers: tuple[int, ...]
    once: tuple[Node, ...]


def layout(told: Told) -> Layout:
    """The layout for the stages of a comparison."""
    in_layers = [stage for stage in told.graph.stages if stage.scope is Scope.LAYER]
    columns = tuple(stage.name for stage in in_layers)
    groups = tuple((name, len(list(members))) for name, members in groupby(in_layers, lambda stage: stage.column))
    nodes = [node for node in told.stages if node.stage in columns and node.layer is not None]
    layers = sorted({node.layer for node in nodes if node.layer is not None})
    return Layout(columns, groups, tuple(layers), tuple(node for node in told.stages if node not in set(nodes)))


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the grid: a layer, or the fold of several that are alike."""

    layers: tuple[int, ...]
    folded: bool = False

    @property
    def text(self) -> str:
        """What a fold says."""
        count = len(self.layers)
        place = f"layer {self.layers[0]}" if count == 1 else f"layers {self.layers[0]}–{self.layers[-1]}"
        return f"{place}: {count} {'layer' if count == 1 else 'layers'} alike, nothing beyond the bound"


def rows(judgement: Judgement, shape: Layout, folded: bool) -> tuple[Row, ...]:
    """The rows; `folded` puts neighbouring layers in which every stage is within its bound into one."""
    if not folded:
        return tuple(Row((layer,)) for layer in shape.layers)
    differing = {node.layer for node, stage in judgement.stages.items() if not stage.alike}
    found: list[Row] = []
    for alike, layers in groupby(shape.layers, lambda layer: layer not in differing):
        members = tuple(layers)
        found += [Row(members, True)] if alike else [Row((layer,)) for layer in members]
    return tuple(found)
