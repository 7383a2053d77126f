"""From numbers to verdicts."""

from __future__ import annotations

import numpy as np
import pytest

from aprtui.compare.metrics.measure import Metric, compare_values
from aprtui.compare.verdict import (
    TOLERABLE,
    Tolerance,
    Verdict,
    is_plausible,
    judge,
    parse_tolerance,
    smallest_tolerance,
)
from aprtui.errors import UsageError
from aprtui.trace.graph.stage import Node

NODE = Node(1, "ffn_gate")


def verdict_on(a: list[float], b: list[float], *tolerances: str) -> tuple[Verdict, Metric, float | None]:
    metrics = compare_values(np.array(a, np.float32), np.array(b, np.float32))
    stage = judge(NODE, metrics, [parse_tolerance(text) for text in tolerances])
    return stage.verdict, stage.metric, stage.error


def test_equal_values_need_no_tolerance() -> None:
    assert verdict_on([1, 2], [1, 2]) == (Verdict.PASS, Metric.REL_L2, 0)


def test_differing_values_without_tolerance_are_unknown() -> None:
    verdict, metric, error = verdict_on([3, 4], [3, 5])
    assert (verdict, metric) == (Verdict.UNKNOWN, Metric.REL_L2) and error == pytest.approx(0.2)


def test_bound_itself_passes_and_beyond_it_fails() -> None:
    assert verdict_on([3, 4], [3, 5], "max_abs=1")[0] is Verdict.PASS
    assert verdict_on([3, 4], [3, 5], "max_abs=0.999")[0] is Verdict.FAIL


def test_cosine_is_bounded_from_below() -> None:
    assert verdict_on([1, 0], [1, 1], "cosine=0.7")[0] is Verdict.PASS
    assert verdict_on([1, 0], [1, 1], "cosine=0.71")[0] is Verdict.FAIL


def test_all_tolerances_must_hold_and_the_broken_one_is_named() -> None:
    assert verdict_on([3, 4], [3, 5], "rel_l2=0.5", "max_abs=0.5") == (Verdict.FAIL, Metric.MAX_ABS, 1)


def test_nan_on_one_side_fails_whatever_is_tolerated() -> None:
    assert verdict_on([1, 2], [1, float("nan")], "rel_l2=1000") == (Verdict.FAIL, Metric.NON_FINITE, 1)


def test_nan_everywhere_is_never_a_pass() -> None:
    nan = float("nan")
    assert verdict_on([nan, nan], [nan, nan], "rel_l2=1")[0] is Verdict.UNKNOWN


def test_nan_alike_leaves_the_verdict_to_the_finite_values_and_is_in_every_reason() -> None:
    nan, inf = float("nan"), float("inf")
    for b, tolerances, verdict, reason in (
        ([nan, inf, 3, 4], [], Verdict.PASS, "bit-equal"),
        ([nan, inf, 3, 5], [], Verdict.UNKNOWN, "differs, no tolerance applies"),
        ([nan, inf, 3, 5], ["max_abs=1"], Verdict.PASS, "within the tolerance"),
        ([nan, inf, 3, 5], ["max_abs=0.5"], Verdict.FAIL, "above the tolerance"),
    ):
        metrics = compare_values(np.array([nan, inf, 3, 4], np.float32), np.array(b, np.float32))
        stage = judge(NODE, metrics, [parse_tolerance(text) for text in tolerances])
        assert (stage.verdict, stage.reason) == (verdict, f"{reason}; 1 NaN, 1 Inf on both sides")


def test_only_what_noise_can_explain_is_plausible() -> None:
    def plausible(a: list[float], b: list[float]) -> bool:
        return is_plausible(compare_values(np.array(a, np.float32), np.array(b, np.float32)))

    assert plausible([1, 0], [1, 0.09])
    assert not plausible([1, 0], [1, 0.11])
    assert not plausible([1, 0], [-1, 0])
    assert not plausible([1, 0], [1, float("nan")])
    assert not plausible([0, 0], [0, 1])
    assert plausible([], [])


def test_empty_is_unknown() -> None:
    assert verdict_on([], [], "rel_l2=1")[0] is Verdict.UNKNOWN


def test_infinite_relative_error_fails_any_bound() -> None:
    assert verdict_on([0, 0], [0, 1e-9], "rel_l2=1e30")[0] is Verdict.FAIL


@pytest.mark.parametrize(
    "text", ["rel_l2", "rel_l2=", "rel_l2=x", "rel_l2=-1", "rel_l2=nan", "rel_l2=inf", "cosine=1.1", "speed=1", "=1",
             "non_finite=3"]
)  # fmt: skip
def test_malformed_tolerance_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="tolerance"):
        parse_tolerance(text)


@pytest.mark.parametrize("metric", TOLERABLE)
def test_smallest_tolerance_passes_as_printed(metric: Metric) -> None:
    random = np.random.default_rng(7)
    for _ in range(50):
        a = random.standard_normal(20).astype(np.float32)
        b = a + random.standard_normal(20).astype(np.float32) * np.float32(10.0 ** random.integers(-6, 2))
        metrics = compare_values(a, b)
        smallest = smallest_tolerance([metrics], metric)
        assert smallest is not None
        assert judge(NODE, metrics, [parse_tolerance(str(smallest))]).verdict is Verdict.PASS


def test_no_tolerance_would_pass_a_mismatch() -> None:
    metrics = compare_values(np.array([1], np.float32), np.array([np.nan], np.float32))
    assert smallest_tolerance([metrics], Metric.REL_L2) is None


def test_tolerance_reads_as_it_is_written() -> None:
    assert str(Tolerance(Metric.REL_L2, 1e-5)) == "rel_l2=1e-05"
    assert parse_tolerance(" rel_l2 = 1e-5 ") == Tolerance(Metric.REL_L2, 1e-5)
