"""Numbers on a pair of stage tensors, side A being the reference.

With d = b − a over the elements that are finite on both sides, all sums in float64:

| metric | definition | both sides zero | only A zero |
|---|---|---|---|
| max_abs | max of abs(d), and the first index that has it | 0 | max of abs(b) |
| mean_abs | mean of abs(d) | 0 | mean of abs(b) |
| rms | root of the mean of d² | 0 | rms of b |
| rel_l2 | norm of d over norm of a | 0 | inf |
| rel_linf | max of abs(d) over max of abs(a) | 0 | inf |
| token_rel_l2 | the worst token's rel_l2 (see `Measurement`) | 0 | inf |
| cosine | a·b over the product of the norms | 1 | 0 |
| cosine_without_top | cosine without the channels of most energy, see below | 1 | 0 |
| sigma_ratio | standard deviation of b over that of a (population) | 1 | inf |
| bias | mean of d, signed | 0 | mean of b |
| q50 q90 q99 q999 | quantiles of abs(d), see below | 0 | those of abs(b) |

`cosine_without_top` leaves out one channel in 128, at least one: those with the largest sum of a² + b² over the tokens
(a few massive channels hold nearly all energy of a residual stream and hide the rest). None for attention maps, for
tensors without channels, and where no channel is left.

`sigma_ratio`: a standard deviation below 3e-7 of the root mean square, a few float32 roundings, counts as 0; both 0
give 1. Only A's 0, as of a constant, gives inf.

Quantiles: the least value that at least this share of abs(d) does not exceed, from a histogram of 64 bins an octave:
within 0.8 % from 1.2e-38 to 3.4e38, below that within 1e-40; abs(d) under 1.8e-40 counts as 0. The largest is exact.

Elements that are NaN, +Inf or −Inf alike on both sides are left out and counted; elements where the sides differ in
kind are mismatches, a categorical result that no metric shows but `token_rel_l2`, which is inf. Where nothing is left
(an empty tensor, NaN everywhere) every metric is None. −0.0 equals 0.0 in all metrics, but not in `equal_bits`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.metrics.blocks import Rows, Values
from aprtui.compare.metrics.passes import add_up
from aprtui.compare.metrics.plain import kinds
from aprtui.compare.metrics.totals import BIN_SHIFT, PartCount, RowSum, Totals
from aprtui.progress import Progress

TOP_CHANNELS = 128
"""`cosine_without_top` leaves out one channel of so many."""

TOKEN_FLOOR = 1e-3
"""A token's norm counts as at least this share of the rms over tokens: a token of zeros is not infinitely far."""

_CONSTANT = 1e-13  # variance over mean square; float64 sums cannot tell less from none


class Metric(StrEnum):
    """Names of the metrics that a verdict can rest on."""

    MAX_ABS = "max_abs"
    MEAN_ABS = "mean_abs"
    RMS = "rms"
    REL_L2 = "rel_l2"
    TOKEN_REL_L2 = "token_rel_l2"
    REL_LINF = "rel_linf"
    COSINE = "cosine"
    NON_FINITE = "non_finite"
    INDICES = "indices"
    PLACE = "place"
    """How many times what others err by some channels, heads or tokens do: see `standing_out`."""

    @property
    def is_similarity(self) -> bool:
        """Whether higher is better, so that a bound is a least value."""
        return self is Metric.COSINE

    def deviation(self, number: float) -> float:
        """How far two sides with this `number` are apart: a similarity counts as what it lacks of 1."""
        return 1 - number if self.is_similarity else number


@dataclass(frozen=True, slots=True)
class PairMetrics:
    """All metrics of one pair. Indices are flat, row-major, in the compared shape.

    `count` is all elements looked at, `compared` those finite on both sides; `equal_bits` is a share of `count`.
    `nan_both` and `inf_both` are NaN, or Inf of one sign, at the same place on both sides. `first_nan_a` and the like
    are the first three positions.
    """

    count: int
    compared: int
    max_abs: float | None
    max_abs_index: int | None
    mean_abs: float | None
    rms: float | None
    rel_l2: float | None
    rel_linf: float | None
    token_rel_l2: float | None
    cosine: float | None
    cosine_without_top: float | None
    sigma_ratio: float | None
    bias: float | None
    q50: float | None
    q90: float | None
    q99: float | None
    q999: float | None
    equal_bits: float | None
    nan_a: int
    nan_b: int
    inf_a: int
    inf_b: int
    nan_both: int
    inf_both: int
    mismatches: int
    first_mismatch: int | None
    first_nan_a: tuple[int, ...]
    first_nan_b: tuple[int, ...]
    first_inf_a: tuple[int, ...]
    first_inf_b: tuple[int, ...]

    @property
    def equal(self) -> bool:
        """Whether something was compared and no value differs (−0.0 equals 0.0)."""
        return self.compared > 0 and self.mismatches == 0 and self.max_abs == 0

    @property
    def excluded(self) -> int:
        """Elements that are NaN or Inf alike on both sides: in no metric."""
        return self.nan_both + self.inf_both

    def value(self, metric: Metric) -> float | None:
        """The number that `metric` has on this pair; None where nothing was compared."""
        if metric is Metric.NON_FINITE:
            return float(self.mismatches)
        if metric in (Metric.INDICES, Metric.PLACE):
            return None  # `logits.measure_indices` and `standing_out` alone have them
        number: float | None = getattr(self, metric.value)
        return number

    def deviation(self, metric: Metric) -> float | None:
        """How far the sides are apart by `metric`, 0 where they are alike; None where nothing was compared."""
        number = self.value(metric)
        return None if number is None else metric.deviation(number)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a pair measures, as a whole and token by token.

    `tokens[t]` is the rel_l2 of token t, over all heads and key ≤ query where the values are attention maps: the norm
    of d at t over the norm of a at t, the latter at least `TOKEN_FLOOR` times its rms over all tokens that hold
    something finite. inf where the token holds a mismatch of NaN or Inf, and where all of a is 0 and b is not; 0 where
    nothing differs; NaN where nothing finite was compared. Values without a token axis are one token.
    """

    metrics: PairMetrics
    tokens: NDArray[np.float64]


def compare_values(a: Values, b: Values, *, causal: bool = False) -> PairMetrics:
    """The metrics of `measure`."""
    return measure(a, b, causal=causal).metrics


def measure(a: Values, b: Values, *, causal: bool = False, progress: Progress | None = None) -> Measurement:
    """Measure `b` against the reference `a`, of one shape: `[tokens, width]`, `[heads, query, key]` with key ≤ query
    where `causal`, or anything else as one row.

    Reads both once, in pieces, so memory-mapped tensors of any size take little memory: 90 bytes a row and 200 bytes a
    channel. Two threads or more; their number changes no bit.
    """
    a, b, totals = _totals(a, b, causal, progress)
    per_token = totals.tokens()
    tokens = _token_errors(per_token)
    return Measurement(_metrics(a, b, totals, per_token, tokens), tokens)


def token_errors(a: Values, b: Values, *, causal: bool = False) -> NDArray[np.float64]:
    """The `tokens` of `measure`, without its metrics: they take as long again."""
    return _token_errors(_totals(a, b, causal, None)[2].tokens())


def rel_l2(a: Values, b: Values, *, causal: bool = False) -> float | None:
    """The `rel_l2` of `measure`, without its other metrics."""
    return _numbers(_summed(_totals(a, b, causal, None)[2].tokens())).get("rel_l2")


def token_values(a: Values, b: Values, metric: Metric, *, causal: bool = False) -> NDArray[np.float64]:
    """The number that `metric` has on each token alone (`non_finite`: its mismatches); NaN where nothing was compared.

    One pass, as `measure`. A token's `rel_l2` has no floor below its norm, other than its `token_rel_l2`.
    """
    if metric is Metric.TOKEN_REL_L2:
        return token_errors(a, b, causal=causal)
    table = _totals(a, b, causal, None)[2].tokens()
    if metric is Metric.NON_FINITE:
        return table[:, RowSum.MISMATCHES]
    numbers = [_numbers(row).get(metric.value, math.nan) for row in table]
    return np.array(numbers, np.float64)


def _totals(a: Values, b: Values, causal: bool, progress: Progress | None) -> tuple[Values, Values, Totals]:
    assert a.shape == b.shape, f"shapes {a.shape} and {b.shape} must be aligned before they are compared"
    rows = Rows.of(a.shape, causal)
    totals = Totals.of(rows)
    a, b = rows.walked(a), rows.walked(b)
    add_up(a, b, totals, progress)
    return a, b, totals


def _metrics(
    a: Values, b: Values, totals: Totals, per_token: NDArray[np.float64], tokens: NDArray[np.float64]
) -> PairMetrics:
    whole = _summed(per_token)
    numbers = _numbers(whole)
    counts = totals.counts.sum(0)
    compared = int(whole[RowSum.COMPARED])
    size = totals.rows.size
    return PairMetrics(
        count=size,
        compared=compared,
        max_abs=numbers.get("max_abs"),
        max_abs_index=_largest(a, b, totals) if compared else None,
        mean_abs=numbers.get("mean_abs"),
        rms=numbers.get("rms"),
        rel_l2=numbers.get("rel_l2"),
        rel_linf=numbers.get("rel_linf"),
        token_rel_l2=float(np.nanmax(tokens)) if compared else None,
        cosine=numbers.get("cosine"),
        cosine_without_top=_cosine_without_top(totals.channels.sum(0), whole) if compared else None,
        sigma_ratio=numbers.get("sigma_ratio"),
        bias=numbers.get("bias"),
        **_quantiles(totals.histogram.sum(0), whole[RowSum.MAX_D]),
        equal_bits=int(counts[PartCount.EQUAL_BITS]) / size if size else None,
        nan_a=int(counts[PartCount.NAN_A]),
        nan_b=int(counts[PartCount.NAN_B]),
        inf_a=int(counts[PartCount.INF_A]),
        inf_b=int(counts[PartCount.INF_B]),
        nan_both=int(counts[PartCount.NAN_BOTH]),
        inf_both=int(counts[PartCount.INF_BOTH]),
        mismatches=int(whole[RowSum.MISMATCHES]),
        first_mismatch=_first_mismatch(a, b, totals),
        first_nan_a=totals.first_positions(PartCount.NAN_A),
        first_nan_b=totals.first_positions(PartCount.NAN_B),
        first_inf_a=totals.first_positions(PartCount.INF_A),
        first_inf_b=totals.first_positions(PartCount.INF_B),
    )


def _summed(per_token: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sums of all tokens, and the largest of what is largest in each."""
    whole: NDArray[np.float64] = per_token.sum(0)
    for column in (RowSum.MAX_D, RowSum.MAX_A):
        whole[column] = per_token[:, column].max(initial=0.0)
    return whole


def _numbers(sums: NDArray[np.float64]) -> dict[str, float]:
    """The metrics that follow from row sums; none where nothing was compared."""
    d2, a2, b2, ab, total_abs, total_d, total_a, max_d, max_a, n, _ = sums.tolist()
    if not n:
        return {}
    mean_a, mean_b = total_a / n, (total_a + total_d) / n
    return {
        "max_abs": max_d,
        "mean_abs": total_abs / n,
        "rms": math.sqrt(d2 / n),
        "rel_l2": math.sqrt(_ratio(d2, a2)),
        "rel_linf": _ratio(max_d, max_a),
        "cosine": 1.0 if max_d == 0 else cosine_of_sums(ab, a2, b2),
        "sigma_ratio": 1.0 if max_d == 0 else _sigma_ratio(a2 / n, mean_a, b2 / n, mean_b),
        "bias": total_d / n,
    }


def _token_errors(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """`Measurement.tokens` from the sums of tokens."""
    d2, a2 = table[:, RowSum.D2], table[:, RowSum.A2]
    compared = table[:, RowSum.COMPARED] > 0
    floor = TOKEN_FLOOR * math.sqrt(a2[compared].mean()) if compared.any() else 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.sqrt(d2) / np.maximum(np.sqrt(a2), floor)
    errors[d2 == 0] = 0.0
    errors[~compared] = np.nan
    errors[table[:, RowSum.MISMATCHES] > 0] = np.inf
    return errors


def _largest(a: Values, b: Values, totals: Totals) -> int:
    """Where abs(d) is largest, the first of equals."""
    row = int(totals.sums[:, RowSum.MAX_D].argmax())
    if totals.sums[row, RowSum.MAX_D] == 0:
        # Nothing differs: the first value that was compared at all.
        row = int((totals.sums[:, RowSum.COMPARED] > 0).argmax())
    left, right = totals.rows.row(a, row), totals.rows.row(b, row)
    with np.errstate(invalid="ignore"):
        d = np.abs(right.astype(np.float64) - left.astype(np.float64))
    d[~(np.isfinite(left) & np.isfinite(right))] = -1.0
    return totals.rows.position(row, int(d.argmax()))


def _first_mismatch(a: Values, b: Values, totals: Totals) -> int | None:
    rows = np.flatnonzero(totals.sums[:, RowSum.MISMATCHES])
    if not rows.size:
        return None
    row = int(rows[0])
    differing = kinds(totals.rows.row(a, row)) != kinds(totals.rows.row(b, row))
    return totals.rows.position(row, int(differing.argmax()))


def _quantiles(histogram: NDArray[np.int64], largest: float) -> dict[str, float | None]:
    shares = {"q50": 0.5, "q90": 0.9, "q99": 0.99, "q999": 0.999}
    reached = np.cumsum(histogram)
    count = int(reached[-1])
    if not count:
        return dict.fromkeys(shares)
    out: dict[str, float | None] = {}
    for name, share in shares.items():
        rank = max(1, math.ceil(share * count))
        found = int(np.searchsorted(reached, rank))
        # The last bin also holds what exceeds float32: the largest bounds it, and is known exactly.
        out[name] = largest if rank == count else min(largest, _middle(found))
    return out


def _middle(bin_index: int) -> float:
    """The middle of a bin of the histogram; 0 for bin 0."""
    bits = (bin_index << BIN_SHIFT) | (1 << (BIN_SHIFT - 1))
    return float(np.array(bits, np.int32).view(np.float32)) if bin_index else 0.0


def _ratio(numerator: float, denominator: float) -> float:
    if numerator == 0:
        return 0.0
    return numerator / denominator if denominator else math.inf


def cosine_of_sums(dot: float, squares_a: float, squares_b: float) -> float:
    """a·b over the product of the norms, from Σ a·b, Σ a² and Σ b²; 1 where both sides are zero, 0 where one is."""
    if squares_a == 0 and squares_b == 0:
        return 1.0
    if squares_a == 0 or squares_b == 0:
        return 0.0
    # One root of the product is exact for equal sides; the product of float32 squares cannot leave float64's range.
    return max(-1.0, min(1.0, dot / math.sqrt(squares_a * squares_b)))


def _cosine_without_top(channels: NDArray[np.float64], whole: NDArray[np.float64]) -> float | None:
    width = channels.shape[1]
    dropped = max(1, width // TOP_CHANNELS)
    if width <= dropped:
        return None
    if whole[RowSum.MAX_D] == 0:
        return 1.0
    energy = channels[0] + channels[1]
    remaining = np.sort(np.argsort(-energy, kind="stable")[dropped:])
    squares_a, squares_b, dot = channels[:, remaining].sum(1).tolist()
    return cosine_of_sums(dot, squares_a, squares_b)


def _sigma_ratio(square_a: float, mean_a: float, square_b: float, mean_b: float) -> float:
    variance_a, variance_b = square_a - mean_a**2, square_b - mean_b**2
    spread_a = math.sqrt(variance_a) if variance_a > _CONSTANT * square_a else 0.0
    spread_b = math.sqrt(variance_b) if variance_b > _CONSTANT * square_b else 0.0
    return 1.0 if spread_a == spread_b == 0 else _ratio(spread_b, spread_a)
