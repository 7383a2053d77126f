"""From numbers to a verdict: PASS, FAIL or UNKNOWN, never a bare number.

The rules, strongest first:
1. A value that is NaN or Inf on one side only, or of another sign, is FAIL, whatever is tolerated.
2. Where nothing finite is left to compare (NaN everywhere, an empty tensor), UNKNOWN, even where every bit is equal.
3. NaN and Inf alike on both sides are neither a difference nor an agreement: the finite values decide by the rules
   below, and every reason says how many values it does not speak for.
4. Equal values are PASS without a bound. Differing values need one: within it PASS, beyond it FAIL, without any
   UNKNOWN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from enum import StrEnum

from aprtui.compare.metrics.logits import IndexMetrics
from aprtui.compare.metrics.measure import Metric, PairMetrics
from aprtui.compare.wording import counted
from aprtui.errors import UsageError
from aprtui.trace.graph.stage import Node

DEFAULT_METRIC = Metric.REL_L2
"""The metric that is shown where no tolerance names another: it does not depend on a stage's scale or size."""

ROUNDING_REL_L2 = 1e-5
"""The most that two honest float32 engines differ by at one stage; less is no finding."""

PLAUSIBLE_REL_L2 = 0.1
QUANTISED_OTHERWISE = (
    "its matrix was made of quantised ones of the other form of latent attention: an engine with a file of that form "
    "rounded the same weights otherwise"
)
"""Why a product is UNKNOWN whose model has the weights in the other form of latent attention."""

PADDED = "again and again, as padding is"
"""Part of why a capture is UNKNOWN that is a row of a padded batch."""

PLAUSIBLE_COSINE = 0.995
"""Beyond these, neither rounding nor 4-bit weights (8 %, cosine 0.997) explain a difference: it is no noise."""

TOLERABLE = tuple(metric for metric in Metric if metric not in (Metric.NON_FINITE, Metric.INDICES, Metric.PLACE))
"""The metrics that a bound can be put on."""

BOUND_STEP = 10**0.25
"""A step of a bound that is moved: four of them are a factor of 10."""

ERROR_STEPS = (0.1, 0.5, 1.0, 3.0, 30.0)
"""Of an error over its bound: where the next step of `error_step` begins."""


class Verdict(StrEnum):
    PASS = "PASS"
    FAIL = "FAIL"
    UNKNOWN = "UNKNOWN"


class Signal(StrEnum):
    """What a verdict judges: how far two sides are apart, or the error that a stage adds to what its inputs give."""

    DIFFERENCE = "difference"
    INJECTED = "injected"


STATED = "the tolerance"
"""The basis of a tolerance that a user states."""

NO_BOUND = "differs, no tolerance applies"
"""Why a difference without a bound is UNKNOWN."""

UNSETTLED = "beyond what engines of the nearest rounding err by, within what a coarser honest one explains"
"""Why an error between a bound and its limit is UNKNOWN."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """A bound: the most that `metric` may be, the least for cosine.

    `basis` says in words where it comes from; `floor` is the noise floor that it was made from, if it was. An error
    beyond the bound and up to the `limit`, where there is one, is UNKNOWN: some honest engine may err as much, and
    nothing has settled whether this one does.
    """

    metric: Metric
    bound: float
    floor: float | None = None
    basis: str = STATED
    limit: float | None = None

    def __str__(self) -> str:
        return f"{self.metric}={self.bound!r}"

    def admits(self, number: float) -> bool:
        """Whether `number` lies within the bound; the bound itself does."""
        return number >= self.bound if self.metric.is_similarity else number <= self.bound


def parse_tolerance(text: str) -> Tolerance:
    """The tolerance meant by `METRIC=X`, as `rel_l2=1e-5`. Raises `UsageError`."""
    name, equals, number = (part.strip() for part in text.partition("="))
    if not equals or name not in TOLERABLE:
        raise UsageError(f"tolerance {text!r}: expected METRIC=X with METRIC one of {', '.join(TOLERABLE)}")
    try:
        bound = float(number)
    except ValueError:
        raise UsageError(f"tolerance {text!r}: {number!r} is not a number: use e.g. {name}=1e-5") from None
    metric = Metric(name)
    low, high = (-1.0, 1.0) if metric.is_similarity else (0.0, math.inf)
    if not low <= bound <= high or math.isinf(bound):
        raise UsageError(f"tolerance {text!r}: {metric} needs a finite number from {low:g} to {high:g}")
    return Tolerance(metric, bound)


@dataclass(frozen=True, slots=True)
class StageVerdict:
    """The verdict on one stage tensor: `error` is the number of `metric`, `bound` what it was held against.

    `floor` is the noise floor that the bound was made from, None where the bound is a stated tolerance or absent.
    """

    node: Node
    verdict: Verdict
    metric: Metric
    error: float | None
    floor: float | None
    bound: float | None
    reason: str
    signal: Signal = Signal.DIFFERENCE


def judge(node: Node, metrics: PairMetrics, tolerances: Sequence[Tolerance]) -> StageVerdict:
    """The verdict on one pair. Of several tolerances all must hold; the first that does not is named."""
    verdict = _judge(node, metrics, tolerances)
    alike = alike_text(metrics)
    return verdict if alike is None else replace(verdict, reason=f"{verdict.reason}; {alike}")


def _judge(node: Node, metrics: PairMetrics, tolerances: Sequence[Tolerance]) -> StageVerdict:
    if metrics.mismatches:
        count = metrics.mismatches
        reason = f"{counted(count, 'value')} NaN or Inf on one side, not alike on the other"
        return StageVerdict(node, Verdict.FAIL, Metric.NON_FINITE, float(count), None, 0.0, reason)
    first = tolerances[0] if tolerances else None
    metric = first.metric if first else DEFAULT_METRIC
    bound, floor = (first.bound, first.floor) if first else (None, None)
    if metrics.compared == 0:
        reason = "no finite value on either side" if metrics.count else "empty on both sides"
        return StageVerdict(node, Verdict.UNKNOWN, metric, None, floor, bound, reason)
    if metrics.equal:
        reason = "bit-equal" if metrics.equal_bits == 1 else "equal values"
        return StageVerdict(node, Verdict.PASS, metric, metrics.value(metric), floor, bound, reason)
    unsettled = False
    for tolerance in tolerances:
        error = metrics.value(tolerance.metric)
        assert error is not None, "a metric is None only where nothing was compared"
        if tolerance.admits(error):
            continue
        if tolerance.limit is not None and error <= tolerance.limit:
            unsettled = True
            continue
        beyond = "below" if tolerance.metric.is_similarity else "above"
        reason = f"{beyond} {tolerance.basis}"
        bound = tolerance.bound
        if tolerance.limit is not None:
            reason, bound = f"{reason}, and above what the coarsest honest engine explains", tolerance.limit
        return StageVerdict(node, Verdict.FAIL, tolerance.metric, error, tolerance.floor, bound, reason)
    verdict, reason = Verdict.UNKNOWN, NO_BOUND
    if first:
        verdict, reason = Verdict.PASS, f"within {first.basis}"
    if unsettled:
        verdict, reason = Verdict.UNKNOWN, UNSETTLED
    return StageVerdict(node, verdict, metric, metrics.value(metric), floor, bound, reason)


def alike_text(metrics: PairMetrics) -> str | None:
    """How many values are NaN or Inf alike on both sides, and so in no metric; None where there are none."""
    if not metrics.excluded:
        return None
    return f"{metrics.nan_both} NaN, {metrics.inf_both} Inf on both sides"


def judge_indices(node: Node, metrics: IndexMetrics) -> StageVerdict:
    """The verdict on indices, as of experts: equal or not, whatever is tolerated."""
    differing = metrics.count - metrics.equal
    if not metrics.count:
        return StageVerdict(node, Verdict.UNKNOWN, Metric.INDICES, None, None, 0.0, "empty on both sides")
    indices = "index" if metrics.count == 1 else "indices"
    reason = f"{differing} of {metrics.count} {indices} differ" if differing else "equal indices"
    verdict = Verdict.FAIL if differing else Verdict.PASS
    return StageVerdict(node, verdict, Metric.INDICES, float(differing), None, 0.0, reason)


def is_plausible(metrics: PairMetrics) -> bool:
    """Whether rounding and quantised weights could explain how far the sides are apart; so where nothing was compared.

    NaN or Inf on one side only never is.
    """
    if metrics.mismatches:
        return False
    if metrics.rel_l2 is None or metrics.cosine is None:
        return True
    return metrics.rel_l2 <= PLAUSIBLE_REL_L2 and metrics.cosine >= PLAUSIBLE_COSINE


def smallest_tolerance(pairs: Iterable[PairMetrics], metric: Metric) -> Tolerance | None:
    """The smallest tolerance of `metric` that every pair passes, rounded to three digits (cosine: six) so that it still
    does; None where none would do: a mismatch of NaN or Inf, an infinite error, nothing compared."""
    numbers: list[float] = []
    for pair in pairs:
        number = pair.value(metric)
        if pair.mismatches or number is None or math.isinf(number):
            return None
        numbers.append(number)
    if not numbers:
        return None
    if metric.is_similarity:
        return Tolerance(metric, _rounded(min(numbers), 6, ROUND_FLOOR))
    return Tolerance(metric, _rounded(max(numbers), 3, ROUND_CEILING))


def moved_bound(bound: Tolerance | None, pairs: Iterable[PairMetrics], metric: Metric, steps: int) -> Tolerance:
    """`bound` on `metric`, `steps` of `BOUND_STEP` wider (narrower where negative).

    Without a bound on `metric` it begins at the smallest one that every pair passes, at 0.1 (cosine 0.99) where none
    does, and only narrower steps count.
    """
    if bound is None or bound.metric is not metric:
        bound = smallest_tolerance(pairs, metric)
        if bound is None:
            return Tolerance(metric, 0.99 if metric.is_similarity else 0.1)
        steps = min(steps, 0)
    factor = BOUND_STEP**steps
    if metric.is_similarity:
        return Tolerance(metric, max(float(f"{1 - (1 - bound.bound) * factor:.6g}"), -1.0))
    return Tolerance(metric, float(f"{(bound.bound or ROUNDING_REL_L2) * factor:.3g}"))


def error_step(metric: Metric, error: float, bound: float) -> int:
    """How far an error is from its bound, from 0 (far below) by 2 (up to it) to 5 (more than 30 × as large)."""
    error, bound = metric.deviation(error), metric.deviation(bound)
    ratio = 0.0 if error == 0 else error / bound if bound else math.inf
    return sum(ratio > limit for limit in ERROR_STEPS)


def _rounded(number: float, digits: int, rounding: str) -> float:
    return float(Context(prec=digits, rounding=rounding).plus(Decimal(number)))
