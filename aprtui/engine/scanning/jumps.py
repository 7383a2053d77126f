"""Where the figures of a walk jump: rules that honest engines do not break.

- *not finite*: a stage or the logits hold NaN or Inf.
- *error*: the logits are farther from the reference's than noise. The logarithm of a token's error is held against
  those before it that were within noise (the first 32 against one another): their median, and how they spread, by the
  median of absolute deviations. Were it normal, a walk of a thousand would break the bound that is taken from the
  quantile of a thousandth divided by the number of tokens; half as much again is allowed, for tails are heavier. What
  16 tokens have in common is held to half the bound: their median spreads less. A flip of the first token is a
  divergence only where the lead that it overcomes is more than this bound allows: else it is noise.
- *level*: the error is larger than what differs between the two may make it, from the first tokens on.
- *entropy*: the model knows nothing any more: its entropy is 97 % of what a model has that gives each token the same
  probability, or 70 % on average over 16 tokens, where the first tokens had less in the middle.

`docs/paths.md` has what honest walks of real models came to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.wording import number_text
from aprtui.engine.scanning.figures import PositionFigures

Wide = NDArray[np.float64]

FALSE_ALARMS = 1e-3
"""Of honest walks, if errors were as regular as their model; measured, there are fewer."""
FIRST = 32
"""Tokens that are held against one another before there is a past to hold the next against."""
TOGETHER = 16
"""Tokens whose common change counts."""
FEWEST = 8
"""Tokens that a spread can be measured on."""

_TAILS = 1.5
_LEAST_SPREAD = 0.3
"""Of the logarithm: honest walks have 0.3 to 0.5."""
_AS_GOOD_AS_EQUAL = 1e-6
"""Of the scale of the logits: errors below are rounding of float32."""
_KNOWS_NOTHING, _KNOWS_LITTLE = 0.97, 0.7
"""Of the entropy of a model that gives each token the same probability."""


class JumpRule(StrEnum):
    """What was broken."""

    NOT_FINITE = "not finite"
    ERROR = "error"
    LEVEL = "level"
    ENTROPY = "entropy"


@dataclass(frozen=True, slots=True)
class Jump:
    """Where a rule is broken first, and at how many tokens from there on; `said` has the numbers."""

    position: int
    rule: JumpRule
    said: str
    tokens: int = 1


def normal_bound(tokens: int) -> float:
    """How many spreads above the median the logarithm of an error may be in a walk of so many tokens."""
    return _TAILS * NormalDist().inv_cdf(1 - FALSE_ALARMS / max(tokens, 1))


@dataclass(frozen=True, slots=True)
class ErrorBounds:
    """Of each token: the error that noise explains `[n]`, by how many spreads its own is above the median, and which
    errors are beyond, alone or with those behind."""

    bounds: Wide
    spreads: Wide
    alone: NDArray[np.bool_]
    together: NDArray[np.bool_]


def error_bounds(figures: Sequence[PositionFigures]) -> ErrorBounds | None:
    """The bounds on the errors of a walk; None where it has no reference, or too few tokens to tell what noise is."""
    errors = np.array([np.nan if one.error is None else one.error for one in figures])
    scales = np.array([np.nan if one.scale is None else one.scale for one in figures])
    if np.count_nonzero(np.isfinite(errors)) < FEWEST:
        return None
    logs = np.log(np.maximum(errors, _AS_GOOD_AS_EQUAL * np.nan_to_num(scales, nan=1.0)))
    allowed, count = normal_bound(len(figures)), len(logs)
    middles, spreads, together = np.empty(count), np.empty(count), np.zeros(count, bool)
    past = logs[:FIRST][np.isfinite(logs[:FIRST])]
    middles[:FIRST], spreads[:FIRST] = _middle_and_spread(past)
    past = past[past <= middles[0] + allowed * spreads[0]]
    for at in range(FIRST, count):
        middles[at], spreads[at] = middle, spread = _middle_and_spread(past)
        behind = logs[at : at + TOGETHER]
        shared = middle + allowed / 2 * spread
        changed = len(behind) == TOGETHER and bool(np.median(behind) > shared)
        together[at] = changed and logs[at] > shared
        # What is beyond noise is no measure of it.
        if logs[at] <= middle + allowed * spread and not changed:
            past = np.append(past, logs[at])
    above = np.nan_to_num((logs - middles) / spreads, nan=-np.inf)
    return ErrorBounds(np.exp(middles + allowed * spreads), above, above > allowed, together)


def _middle_and_spread(past: Wide) -> tuple[float, float]:
    if not past.size:
        return math.inf, math.inf
    middle = float(np.median(past))
    return middle, max(_LEAST_SPREAD, 1.4826 * float(np.median(np.abs(past - middle))))


def is_beyond_noise(flip: PositionFigures, bound: float) -> bool:
    """Whether a flip of the first token overcomes a lead that errors within `bound` do not: two logits err by √2 as
    much as one."""
    return flip.lead is not None and flip.lead > math.sqrt(2) * bound


def find_jumps(figures: Sequence[PositionFigures], vocabulary: int, level: float | None = None) -> list[Jump]:
    """All rules that are broken, each where it begins, in the order of tokens.

    `level` is the largest error, as a median over the first tokens, that what differs from the reference explains.
    """
    found = [*_not_finite(figures), *_errors(figures), *_entropies(figures, vocabulary), *_levels(figures, level)]
    return sorted(found, key=lambda jump: jump.position)


def _not_finite(figures: Sequence[PositionFigures]) -> Iterator[Jump]:
    broken = [one.origin is not None or math.isnan(one.entropy) for one in figures]
    for begin, end in _runs(broken):
        origin = figures[begin].origin
        where = "the logits" if origin is None else str(origin)
        yield Jump(figures[begin].position, JumpRule.NOT_FINITE, f"{where} first: NaN or Inf", end - begin)


def _errors(figures: Sequence[PositionFigures]) -> Iterator[Jump]:
    bounds = error_bounds(figures)
    if bounds is None:
        return
    flips = [is_beyond_noise(one, bound) for one, bound in zip(figures, bounds.bounds, strict=True)]
    broken = [bool(any(three)) for three in zip(bounds.alone, bounds.together, flips, strict=True)]
    for begin, end in _runs(broken):
        one = figures[begin]
        said = (
            f"the logits are off by {number_text(one.error)}, noise here is up to {number_text(bounds.bounds[begin])}"
        )
        if not bounds.alone[begin] and bounds.together[begin]:
            said = f"the logits of {TOGETHER} tokens together are off by more than noise, {number_text(one.error)} here"
        if one.lead:
            said += f"; another first token, against a lead of {number_text(one.lead)}"
        yield Jump(one.position, JumpRule.ERROR, f"{said}; KL {number_text(one.kl)}", end - begin)


def _levels(figures: Sequence[PositionFigures], level: float | None) -> Iterator[Jump]:
    errors = [one.error for one in figures[:FIRST] if one.error is not None and math.isfinite(one.error)]
    if level is not None and errors and (middle := float(np.median(errors))) > level:
        said = f"the logits are off by {number_text(middle)}, what differs explains {number_text(level)}"
        yield Jump(figures[0].position, JumpRule.LEVEL, f"{said}, from the first token on", len(figures))


def _entropies(figures: Sequence[PositionFigures], vocabulary: int) -> Iterator[Jump]:
    most, entropies = math.log(vocabulary), np.array([one.entropy for one in figures])
    little = _KNOWS_LITTLE * most
    known = np.isfinite(entropies[:FIRST])
    if not known.any() or np.median(entropies[:FIRST][known]) > little:
        return  # it knows nothing from the first token on: nothing jumps
    with np.errstate(invalid="ignore"):
        broken = entropies > _KNOWS_NOTHING * most
    for at in range(FIRST, len(entropies) - TOGETHER + 1):
        # The token itself too: a window that begins before the jump is not where it is.
        broken[at] |= bool(entropies[at : at + TOGETHER].mean() > little and entropies[at] > little)
    for begin, end in _runs(broken.tolist()):
        said = f"the entropy is {entropies[begin]:.2f} nats, of {most:.2f} where nothing is known"
        yield Jump(figures[begin].position, JumpRule.ENTROPY, said, end - begin)


def _runs(broken: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """Begin and end of each run of broken tokens; runs with fewer than `TOGETHER` between them are one."""
    begin = last = -1
    for at, one in enumerate(broken):
        if not one:
            continue
        if begin >= 0 and at - last > TOGETHER:
            yield begin, last + 1
            begin = at
        begin = at if begin < 0 else begin
        last = at
    if begin >= 0:
        yield begin, last + 1
