"""What a stage grid shows of one pass: a figure for every node, the level of its colour, and its text.

The colours of rms, absmax and mean compare layers: each column has a scale of its own. Those of change and time compare
all cells, on one scale. Everything is computed once for all cells of a frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import numpy as np
from numpy.typing import NDArray

from aprtui.trace.graph.stage_graph import StageGraph
from aprtui.tui.draw.colours import LEVELS, ColourMap, Mark
from aprtui.tui.draw.grid_layout import GridLayout
from aprtui.tui.draw.numbers import short_number, signed_short_number

LEAST_SPAN = 10.0
"""A column's scale covers at least this factor, so that a stage that hardly varies looks even."""

FULL_CHANGE = 4.0
"""A change by this factor, up or down, has the full colour."""

SHARED = "←"
"""Stands for a time that is part of the stage before: both were computed together."""

_DIGITS = 4
"""More digits than are ever shown, but few enough different numbers to cache their texts."""

_NUMBER = 255
"""In `Figures.marks`: no mark, the value counts."""


class Statistic(StrEnum):
    """What is shown of each stage."""

    RMS = "rms"
    ABSMAX = "absmax"
    MEAN = "mean"
    CHANGE = "change"
    NONFINITE = "NaN/Inf"
    TIME = "time"

    @property
    def words(self) -> str:
        return _WORDS[self]

    @property
    def is_signed(self) -> bool:
        return self in (Statistic.MEAN, Statistic.CHANGE)

    @property
    def colour_map(self) -> ColourMap:
        return ColourMap.DIVERGING if self.is_signed else ColourMap.CIVIDIS

    @property
    def ends(self) -> tuple[str, str]:
        """What the ends of the colour scale mean; empty where there is none."""
        return _ENDS.get(self, ("", ""))

    @property
    def following(self) -> Statistic:
        every = list(Statistic)
        return every[(every.index(self) + 1) % len(every)]


_WORDS = {
    Statistic.RMS: "rms of each stage",
    Statistic.ABSMAX: "largest magnitude in each stage",
    Statistic.MEAN: "mean of each stage",
    Statistic.CHANGE: "% change of each stage's rms against the token before",
    Statistic.NONFINITE: "NaN and Inf in each stage",
    Statistic.TIME: "seconds of each stage",
}
_ENDS = {
    Statistic.RMS: ("small", "large"),
    Statistic.ABSMAX: ("small", "large"),
    Statistic.MEAN: ("below 0", "above 0"),
    Statistic.CHANGE: (f"÷{FULL_CHANGE:.0f}", f"×{FULL_CHANGE:.0f}"),
    Statistic.TIME: ("short", "long"),
}


@dataclass(frozen=True, slots=True)
class Figures:
    """One statistic of all nodes, in execution order: `values` `[nodes]`, and where a mark stands for them.

    Changes are in per cent, times in seconds.
    """

    statistic: Statistic
    values: NDArray[np.float64]
    marks: NDArray[np.uint8]
    shared: NDArray[np.bool_]
    """Times that are part of the one before."""

    def text(self, node: int, width: int) -> str:
        """The figure of node number `node` in at most `width` ≥ 1 characters."""
        mark = self.marks[node]
        if self.shared[node]:
            return SHARED
        if mark != _NUMBER and not (mark == Mark.ZERO and width >= 3):
            names = {Mark.NAN: ("NaN", "X"), Mark.INF: ("Inf", "I"), Mark.MISSING: ("·", "·"), Mark.ZERO: ("0", "0")}
            wide, narrow = names[Mark(mark)]
            return wide if width >= 3 else narrow
        value = float(self.values[node])
        return signed_short_number(value, width) if self.statistic.is_signed else short_number(value, width)


def figures_of(
    statistic: Statistic,
    stats: NDArray[np.void],
    seconds: NDArray[np.float32] | None = None,
    before: NDArray[np.void] | None = None,
) -> Figures:
    """The figures of `stats` `[nodes]` (the fields of `process.slots.STATS`).

    `seconds` `[nodes]` are needed for times, the statistics of the pass `before` for changes; without them, those are
    missing. NaN wins over Inf, and Inf over any number, but for the times.
    """
    tapped = stats["count"] > 0
    shared = np.zeros(stats.size, np.bool_)
    marks = np.full(stats.size, _NUMBER, np.uint8)
    if statistic is Statistic.TIME:
        values = np.full(stats.size, np.nan) if seconds is None else seconds.astype(np.float64)
        known = ~np.isnan(values)
        shared = ~known & (known.cumsum() > 0)
        marks[~known] = Mark.MISSING
    else:
        values = _values(statistic, stats, before)
        marks[np.isnan(values) | ~tapped] = Mark.MISSING
        marks[tapped & (stats["inf"] > 0)] = Mark.INF
        marks[tapped & (stats["nan"] > 0)] = Mark.NAN
    marks[(values == 0) & (marks == _NUMBER)] = Mark.ZERO
    return Figures(statistic, _rounded(values), marks, shared)


def _values(statistic: Statistic, stats: NDArray[np.void], before: NDArray[np.void] | None) -> NDArray[np.float64]:
    if statistic is Statistic.CHANGE:
        if before is None:
            return np.full(stats.size, np.nan)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            change = stats["rms"].astype(np.float64) / before["rms"] - 1
        return np.where(np.isfinite(change), 100 * change, np.nan)
    if statistic is Statistic.NONFINITE:
        return np.asarray(stats["nan"] + stats["inf"].astype(np.float64))
    return np.asarray(stats[statistic.value], np.float64)


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        exponents = np.nan_to_num(np.floor(np.log10(np.abs(values))), nan=0, posinf=0, neginf=0)
    units = 10.0 ** (exponents - _DIGITS + 1)
    return np.where(np.isfinite(values), np.rint(values / units) * units, values)


def grid_tile(layout: GridLayout, figures: Figures) -> NDArray[np.uint8]:
    """Levels 0 … 63 or marks `[layers, columns]`."""
    marks = np.where(layout.rows < 0, Mark.MISSING, figures.marks[layout.rows])
    values = np.where(marks == _NUMBER, figures.values[layout.rows], np.nan)
    shares = _SCALES[figures.statistic](values)
    with np.errstate(invalid="ignore"):
        levels = np.clip(np.nan_to_num(shares), 0, 1) * (LEVELS - 1) + 0.5
    return np.where(marks == _NUMBER, levels, marks).astype(np.uint8)


def _logarithmic(values: NDArray[np.float64], axis: int | None) -> NDArray[np.float64]:
    """0 … 1 from the smallest to the largest of a column (`axis` 0) or of all, a factor of LEAST_SPAN at least."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log10(values)
        usable = np.isfinite(logs)
        low = np.min(logs, axis=axis, where=usable, initial=np.inf)
        high = np.max(logs, axis=axis, where=usable, initial=-np.inf)
        shares = (logs - (low + high) / 2) / np.maximum(high - low, math.log10(LEAST_SPAN)) + 0.5
    return np.asarray(shares, np.float64)


def _about_zero(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """0 … 1 with 0.5 for zero, as far as the largest magnitude of a column."""
    largest = np.max(np.abs(values), axis=0, where=np.isfinite(values), initial=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(0.5 + values / largest / 2, np.float64)


def _factors(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """0 … 1 for changes in per cent, 0.5 for none; the ends are FULL_CHANGE down and up."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return 0.5 + np.log(1 + values / 100) / math.log(FULL_CHANGE) / 2


_SCALES: Mapping[Statistic, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    Statistic.RMS: partial(_logarithmic, axis=0),
    Statistic.ABSMAX: partial(_logarithmic, axis=0),
    Statistic.MEAN: _about_zero,
    Statistic.CHANGE: _factors,
    Statistic.NONFINITE: np.ones_like,
    Statistic.TIME: partial(_logarithmic, axis=None),
}


def first_nonfinite(stats: NDArray[np.void]) -> tuple[int, Mark] | None:
    """Index in execution order of the first node that holds NaN or Inf, and which of them; None if none does."""
    bad = np.flatnonzero((stats["nan"] > 0) | (stats["inf"] > 0))
    if not bad.size:
        return None
    first = int(bad[0])
    return first, Mark.NAN if stats["nan"][first] else Mark.INF


def first_bad(graph: StageGraph, stats: NDArray[np.void]) -> str:
    """Which stage is the first to hold NaN or Inf, in words; empty if none does."""
    found = first_nonfinite(stats)
    if found is None:
        return ""
    return f"first {'NaN' if found[1] is Mark.NAN else 'Inf'}: {graph.nodes[found[0]]}"
