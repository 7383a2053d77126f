"""Whether ranks that must hold the same do, and which of them parts from the others.

Bits may differ by the order in which a sum over ranks was made: where each rank adds for itself, in a type of unit
roundoff u, n terms summed in two orders differ by about sqrt(n) · u of their size (Higham, Accuracy and Stability of
Numerical Algorithms, ch. 4). All ranks add the same terms, so that residual streams differ by the rounding of each sum
since the first layer: a walk of as many steps. What is computed from equal inputs without a sum over ranks has no
such reason to differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_GENEROUS = 8.0
"""Times the error that sums in another order have on average."""
_WITHOUT_SUM = 4.0
"""Units that ranks may differ by where neither inputs nor a sum over ranks explain it: another kernel was chosen."""
_LEAST = 2e-5
"""What products of long rows in float32 differ by where kernels add in another order."""
_FEW = 64.0
"""Units by which a few channels may differ more than all together, before that is worth a look."""
_UNITS = ((0xFFFF, 2.0**-9), (0x1FFF, 2.0**-12))
"""Mantissa bits that are zero in every value of bfloat16 and of float16, and the unit roundoff of the type."""
_FLOAT32 = 2.0**-24


class CopyState(StrEnum):
    """Copies are equal to the bit, differ by rounding, part, or differ in a way that nothing here settles."""

    EQUAL = "equal"
    ROUNDING = "rounding"
    UNSETTLED = "unsettled"
    PARTS = "parts"


@dataclass(frozen=True, slots=True)
class Copies:
    """What was found of the copies of a tensor. `kept` is the rank whose copy stands for all; `parting` are the ranks
    that differ from it by `distance`, more than `bound`; `settled` says whether they are fewer than the others."""

    state: CopyState
    ranks: tuple[int, ...]
    kept: int
    distance: float = 0.0
    bound: float = 0.0
    parting: tuple[int, ...] = ()
    settled: bool = True
    words: str = ""


def unit_roundoff(values: Floats) -> float:
    """That of the type which values are stored in: of bfloat16 or float16 where all of them fit into it."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return next((unit for mask, unit in _UNITS if values.size and not (bits & mask).any()), _FLOAT32)


def honest_bound(unit: float, ranks: int, layer: int | None, layers: int) -> float:
    """What the order of all sums up to a layer may make copies differ by, as a part of their size."""
    sums = 2 * (layers if layer is None else layer + 1)
    return max(_LEAST, _GENEROUS * unit * (math.sqrt(ranks) + math.sqrt(sums)))


def strict_bound(unit: float) -> float:
    """What copies may differ by that are computed from equal inputs without a sum over ranks."""
    return max(_LEAST, _WITHOUT_SUM * unit)


def compare_copies(copies: Mapping[int, Floats], bound: float, unit: float) -> Copies:
    """The copies of ranks, held against one another. Shapes are equal."""
    ranks = tuple(sorted(copies))
    alike = _equal_bits(copies)
    if len(alike) == 1:
        return Copies(CopyState.EQUAL, ranks, ranks[0])
    groups, distances = _near(alike, copies, bound)
    groups.sort(key=lambda group: (-len(group), group))
    kept = groups[0][0]
    if len(groups) == 1:
        farthest = max(distances.values())
        few = max(_largest(copies[kept], copies[rank]) for rank in ranks)
        if few > max(_FEW * unit * math.sqrt(len(ranks)), 4 * bound):
            words = f"a channel differs by {few:.2g} of its size: the terms of the sum would tell whether they cancel"
            return Copies(CopyState.UNSETTLED, ranks, kept, few, bound, (), True, words)
        return Copies(CopyState.ROUNDING, ranks, kept, farthest, bound)
    parting = tuple(sorted(rank for group in groups[1:] for rank in group))
    distance = max(distance_of(copies[kept], copies[rank]) for rank in parting)
    return Copies(CopyState.PARTS, ranks, kept, distance, bound, parting, len(groups[0]) > len(groups[1]))


def _equal_bits(copies: Mapping[int, Floats]) -> list[list[int]]:
    found: list[list[int]] = []
    for rank in sorted(copies):
        bits = copies[rank].view(np.uint32)
        group = next((one for one in found if np.array_equal(copies[one[0]].view(np.uint32), bits)), None)
        if group is None:
            found.append([rank])
        else:
            group.append(rank)
    return found


def _near(
    alike: Sequence[Sequence[int]], copies: Mapping[int, Floats], bound: float
) -> tuple[list[list[int]], dict[tuple[int, int], float]]:
    """Ranks in groups within `bound` of one another, step by step, and how far apart those of other bits are."""
    distances = {
        (one[0], other[0]): distance_of(copies[one[0]], copies[other[0]])
        for number, one in enumerate(alike)
        for other in alike[number + 1 :]
    }
    groups = [list(group) for group in alike]
    for (one, other), distance in distances.items():
        if distance <= bound:
            left, right = (next(group for group in groups if rank in group) for rank in (one, other))
            if left is not right:
                left += right
                groups.remove(right)
    return [sorted(group) for group in groups], distances


def _by_size(a: Floats, b: Floats) -> NDArray[np.float64]:
    """The rms difference of each column by its size, which is at least that of the median column; inf where NaN or Inf
    are not alike."""
    with np.errstate(invalid="ignore"):
        wide = a.reshape(-1, a.shape[-1]).astype(np.float64)
        difference = b.reshape(wide.shape).astype(np.float64) - wide
    odd = ~np.isfinite(difference)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    mismatched = (odd & ~same.reshape(wide.shape)).any(0)
    difference[odd], wide[~np.isfinite(wide)] = 0.0, 0.0
    size = np.sqrt(np.mean(wide**2, 0))
    positive = size[size > 0]
    usual = float(np.median(positive)) if positive.size else 0.0
    error = np.sqrt(np.mean(difference**2, 0))
    scale = np.maximum(size, usual)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(error == 0, 0.0, np.where(scale > 0, error / scale, np.inf))
    return np.asarray(np.where(mismatched, np.inf, found))


def distance_of(a: Floats, b: Floats) -> float:
    """How far two copies are apart, as a part of their size: of each column by its own size, so that a few large ones
    hide nothing. 0 for empty ones and equal ones, inf where NaN or Inf are not alike."""
    if not a.size:
        return 0.0
    columns = _by_size(a, b)
    return float(np.sqrt(np.mean(columns**2)))


def _largest(a: Floats, b: Floats) -> float:
    return float(_by_size(a, b).max()) if a.size else 0.0
