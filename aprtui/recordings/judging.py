"""How far an op's recorded output is from what its sources give, as a whole and at each row and channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.metrics.measure import Metric
from aprtui.compare.wording import counted
from aprtui.engine.rounding import ROUND
from aprtui.recordings.element_types import BF16, element_type
from aprtui.recordings.memory import Values

Array = NDArray[np.float64]

BOUND = 3e-6
"""The most that an honest op errs by, rel_l2, its rounding of activations modelled; see docs/recordings.md."""
_PLACE = 1e-4 / BOUND
"""A single row or channel averages less: how many times the bound it may err by."""
PLACE_FLOOR, SINGLE_FLOOR = 1e-2, 0.1
"""The norm of a row or channel counts as at least this share of their rms: one of zeros is not infinitely far. A single
value averages nothing: of n values the second over the root of n, where that is more."""
_MOVED = 8
"""An error within so many times what a disturbance of the sources does is the op's conditioning, not a fault."""
_STEPS = {"f16": (2.0**-10, 2.0**-24), BF16: (2.0**-7, 2.0**-133)}
"""Of short floats: the gap between neighbours, relative to the power of two below, and the smallest there is."""
_LIMITS = {"f16": 65520.0, BF16: 2.0**128 - 2.0**119, "f32": 2.0**128 - 2.0**103}
"""What rounds to Inf in a type."""


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative L2 errors: of all values, and of each row and channel over the larger of its norm and the floor.

    `mismatches` counts values that are NaN or Inf on one side, or of another sign; `nan` those that are NaN on both,
    `compared` the finite ones. `differences` are the magnitudes `[rows, channels]`, inf at a mismatch.
    """

    whole: float
    rows: Array
    channels: Array
    mismatches: int
    nan: int
    compared: int
    differences: Array

    @property
    def badness(self) -> tuple[int, float]:
        return self.mismatches, self.whole


@dataclass(frozen=True, slots=True)
class Beyond:
    """An error beyond its bound. `index` is the flat index of the value that differs most there."""

    metric: Metric
    error: float
    bound: float
    index: int
    words: str


def beyond(errors: Errors, bound: float, moved: Sequence[Errors] = ()) -> Beyond | None:
    """What of `errors` is beyond `bound`; where disturbances of the sources are given, beyond what those `moved` too.

    None for nothing.
    """
    largest = int(errors.differences.argmax()) if errors.differences.size else 0
    if errors.mismatches:
        words = f"{errors.mismatches} values NaN or Inf on one side, not alike on the other"
        return Beyond(Metric.NON_FINITE, float(errors.mismatches), 0.0, largest, words)
    wider = max(bound, *(_MOVED * part.whole for part in moved)) if moved else bound
    if errors.whole > wider:
        return Beyond(Metric.REL_L2, errors.whole, wider, largest, "above what an honest op errs by")
    return _beyond_at_places(errors, bound * _PLACE, moved)


def _beyond_at_places(errors: Errors, bound: float, moved: Sequence[Errors]) -> Beyond | None:
    width = errors.differences.shape[1]
    for name, found, by_move in (
        ("row", errors.rows, [part.rows for part in moved]),
        ("channel", errors.channels, [part.channels for part in moved]),
    ):
        bounds = np.full(found.shape, bound)
        for part in by_move:
            bounds = np.maximum(bounds, _MOVED * part)
        over = np.flatnonzero(found > bounds)
        if over.size:
            place = int(over[0])
            if name == "row":
                index = place * width + int(errors.differences[place].argmax())
            else:
                index = int(errors.differences[:, place].argmax()) * width + place
            words = f"{counted(int(over.size), name)} above what an honest op errs by at one"
            return Beyond(Metric.PLACE, float(found[place]), float(bounds[place]), index, words)
    return None


def measured(expected: Values, found: Values, kind: str) -> Errors:
    """The errors of `found`, values of an output of type `kind`, against `expected`, of the same shape.

    What a short float's own rounding explains is no error: half a step around what is expected. Integers differ or not.
    """
    if found.dtype.kind in "iub":
        return _of_indices(expected, found)
    expected = np.asarray(expected, np.float64)
    if kind in _LIMITS:
        expected = np.where(np.abs(expected) >= _LIMITS[kind], np.copysign(np.inf, expected), expected)
    with np.errstate(invalid="ignore", over="ignore"):
        difference = found - expected
        if kind in _STEPS:
            difference = np.sign(difference) * np.maximum(np.abs(difference) - _half_step(expected, kind), 0)
    finite = np.isfinite(found) & np.isfinite(expected)
    both_nan = np.isnan(found) & np.isnan(expected)
    alike = finite | (found == expected) | both_nan
    difference = np.where(finite, difference, 0.0)
    norm = np.where(finite, expected, 0.0)
    width = expected.shape[-1] if expected.ndim and expected.size else 1
    d2, a2 = (difference**2).reshape(-1, width), (norm**2).reshape(-1, width)
    mismatches = int(alike.size - np.count_nonzero(alike))
    magnitudes = np.where(alike, np.abs(difference), np.inf).reshape(-1, width)
    return Errors(
        _ratio(d2.sum(), a2.sum()), _by_place(d2, a2, 1), _by_place(d2, a2, 0), mismatches,
        int(np.count_nonzero(both_nan)), int(np.count_nonzero(finite)), magnitudes,
    )  # fmt: skip


def at_any_place(errors: Errors) -> Errors:
    """`errors` with those of the worst row and channel at all of them."""
    rows, channels = (np.full(part.shape, part.max(initial=0.0)) for part in (errors.rows, errors.channels))
    return replace(errors, rows=rows, channels=channels)


def _of_indices(expected: Values, found: Values) -> Errors:
    differs = np.asarray(expected != found, np.float64)
    share, none = float(differs.mean()) if differs.size else 0.0, np.zeros(0)
    width = differs.shape[-1] if differs.ndim and differs.size else 1
    return Errors(share, none, none, 0, 0, differs.size, differs.reshape(-1, width))


def _half_step(values: Array, kind: str) -> Array:
    """Half the gap between short floats around `values`."""
    relative, smallest = _STEPS[kind]
    with np.errstate(invalid="ignore"):
        _, exponent = np.frexp(np.where(np.isfinite(values), values, 0))
    return np.asarray(np.maximum(np.ldexp(relative / 2, exponent - 1), smallest / 2))


def _ratio(d2: float, a2: float) -> float:
    if d2 == 0:
        return 0.0
    return float(np.sqrt(d2 / a2)) if a2 else float("inf")


def _by_place(d2: Array, a2: Array, axis: int) -> Array:
    averaged = max(1, d2.shape[axis])
    d2, a2 = d2.sum(axis), a2.sum(axis)
    floor = max(PLACE_FLOOR, SINGLE_FLOOR / np.sqrt(averaged)) * np.sqrt(a2.mean()) if a2.size else 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.sqrt(d2) / np.maximum(np.sqrt(a2), floor)
    return np.asarray(np.where(d2 == 0, 0.0, errors))


def as_stored(values: Values, kind: str) -> Values | None:
    """`values` as a tensor of a block type keeps them; unchanged for other types, None where that is not known here."""
    row = element_type(kind)
    if row is None or not row.is_quantised:
        return values
    rows = np.ascontiguousarray(values, np.float32).reshape(-1, values.shape[-1])
    if kind in ROUND:
        return ROUND[kind](rows).astype(np.float64).reshape(values.shape)
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    try:
        blocks = quantize(rows, GGMLQuantizationType[kind.upper()])
        return np.asarray(dequantize(blocks, GGMLQuantizationType[kind.upper()]), np.float64).reshape(values.shape)
    except NotImplementedError:
        return None
