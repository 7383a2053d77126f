"""From the numbers of a pair of tensors to a verdict.

The rules, strongest first:
1. Another shape, or NaN or Inf on one side only, is FAIL. Equal bytes and equal values are PASS.
2. A stated tolerance decides.
3. Where nothing is stated, rounding to the two storage types is the floor: an error beyond `LIMIT` times what that
   rounding typically costs, over the whole tensor or in one group of 32 values, is FAIL.
4. Within it, two different types are PASS: that is what an honest quantisation looks like. One type on both sides is
   UNKNOWN: two quantisers can differ by as much, and so can a bug.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aprtui.compare.metrics.measure import Metric
from aprtui.compare.verdict import DEFAULT_METRIC, Tolerance, Verdict
from aprtui.compare.wording import counted
from aprtui.model.weight_difference.values import WeightMetrics
from aprtui.model.weights import StoredTensor

LIMIT = 4.0
"""How many times the typical rounding error an honest quantisation may err.

Measured on normal, Laplace and Student-t (2 and 3 degrees) values, with outlier columns and with 95 % zeros: at most
1.02 over a tensor and 1.8 in a group of 32 (upper quartile) for every type without an importance matrix, 2.7 and 2.1
with an extreme one. Floats that were cut off instead of rounded stay below √12. A Q4_K scale that is twice too large
gives about 19.
"""

STEP_RATIO = "step_ratio"
"""Name of the number that groups are judged by: their error in units of the rounding error."""


@dataclass(frozen=True, slots=True)
class WeightJudgement:
    """A verdict with its number: `error` of `metric` was held against `bound`, which was made from `floor`."""

    verdict: Verdict
    metric: str
    error: float | None
    floor: float | None
    bound: float | None
    reason: str


BIT_EQUAL = WeightJudgement(Verdict.PASS, DEFAULT_METRIC.value, 0.0, None, None, "bit-equal")


def shape_text(shape: Sequence[int]) -> str:
    """A shape as people write it: [512, 256]."""
    return f"[{', '.join(str(extent) for extent in shape)}]"


def judge_shapes(a: StoredTensor, b: StoredTensor) -> WeightJudgement:
    reason = f"shape {shape_text(a.shape)} in A, {shape_text(b.shape)} in B"
    return WeightJudgement(Verdict.FAIL, "shape", None, None, None, reason)


def judge_bytes_only(a: StoredTensor, b: StoredTensor) -> WeightJudgement:
    reason = f"bytes differ, and {' or '.join(dict.fromkeys((a.type, b.type)))} cannot be dequantised here"
    return WeightJudgement(Verdict.UNKNOWN, DEFAULT_METRIC.value, None, None, None, reason)


def judge(a: StoredTensor, b: StoredTensor, metrics: WeightMetrics, tolerances: Sequence[Tolerance]) -> WeightJudgement:
    """The verdict on the numbers of two tensors whose bytes differ. Of several tolerances all must hold."""
    if metrics.mismatches:
        count = metrics.mismatches
        reason = f"{counted(count, 'value')} NaN or Inf on one side, not alike on the other"
        return WeightJudgement(Verdict.FAIL, Metric.NON_FINITE.value, float(count), None, 0.0, reason)
    if not metrics.compared:
        return WeightJudgement(
            Verdict.UNKNOWN, DEFAULT_METRIC.value, None, None, None, "bytes differ, no finite value on either side"
        )
    if metrics.max_abs == 0:
        return WeightJudgement(Verdict.PASS, DEFAULT_METRIC.value, 0.0, None, None, "equal values, other bytes")
    return _by_tolerance(metrics, tolerances) if tolerances else _by_step(a, b, metrics)


def _by_tolerance(metrics: WeightMetrics, tolerances: Sequence[Tolerance]) -> WeightJudgement:
    for tolerance in tolerances:
        error = metrics.value(tolerance.metric)
        assert error is not None, "a metric is None only where nothing was compared"
        if not tolerance.admits(error):
            beyond = "below" if tolerance.metric.is_similarity else "above"
            reason = f"{beyond} {tolerance.basis}"
            return WeightJudgement(
                Verdict.FAIL, tolerance.metric.value, error, metrics.expected_rel_l2, tolerance.bound, reason
            )
    first = tolerances[0]
    return WeightJudgement(
        Verdict.PASS, first.metric.value, metrics.value(first.metric), metrics.expected_rel_l2, first.bound,
        f"within {first.basis}",
    )  # fmt: skip


def _by_step(a: StoredTensor, b: StoredTensor, metrics: WeightMetrics) -> WeightJudgement:
    types = a.type if a.type == b.type else f"{a.type} and {b.type}"
    error, floor, ratio = metrics.rel_l2, metrics.expected_rel_l2, metrics.step_ratio
    name = DEFAULT_METRIC.value
    if error is None or floor is None or ratio is None:
        reason = f"differs, the rounding error of {types} is not known: no tolerance applies"
        return WeightJudgement(Verdict.UNKNOWN, name, error, None, None, reason)
    bound = LIMIT * floor
    if error > bound:
        return WeightJudgement(Verdict.FAIL, name, error, floor, bound, f"more than rounding to {types} explains")
    if ratio > LIMIT:
        reason = f"{metrics.step_place}: {ratio:.3g} times the rounding error of {types}"
        return WeightJudgement(Verdict.FAIL, STEP_RATIO, ratio, 1.0, LIMIT, reason)
    if a.type != b.type:
        return WeightJudgement(Verdict.PASS, name, error, floor, bound, f"within what rounding to {types} explains")
    reason = f"bytes differ, by no more than rounding to {types} explains: no tolerance applies"
    return WeightJudgement(Verdict.UNKNOWN, name, error, floor, bound, reason)
