"""Where differences are: the elements that differ most, and the first token that breaks a bound."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.compare.align.pairing import StagePair
from aprtui.compare.explain.locate import first_failing_place, top_elements
from aprtui.compare.metrics import blocks as blocks_module
from aprtui.compare.metrics.measure import Metric, measure, rel_l2, token_errors, token_values
from aprtui.compare.verdict import Tolerance, judge
from aprtui.trace.graph.ops import Axis
from aprtui.trace.graph.stage import Node

Values = NDArray[np.float32]

ROWS = (Axis.TOKEN, Axis.CHANNEL)
MAPS = (Axis.HEAD, Axis.QUERY, Axis.KEY)


def pair(a: Values, b: Values, axes: tuple[Axis, ...]) -> StagePair:
    return StagePair(Node(0, "ffn_out"), a, b, axes, 0, "")


def random(shape: tuple[int, ...], seed: int) -> Values:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("limit", [0, 1, 7, 1000])
@pytest.mark.parametrize(("shape", "axes"), [((40, 20), ROWS), ((3, 17, 17), MAPS), ((800,), ())])
def test_top_elements_are_those_of_a_full_sort(
    monkeypatch: pytest.MonkeyPatch, limit: int, shape: tuple[int, ...], axes: tuple[Axis, ...]
) -> None:
    monkeypatch.setattr(blocks_module, "BLOCK_VALUES", 64)
    a = random(shape, 1)
    b = a + np.round(random(shape, 2)).astype(np.float32)  # whole differences: many are equal, and many are none
    b.reshape(-1)[[5, 300]] = np.nan
    stage = pair(a, b, axes)
    d = np.abs(b.astype(np.float64) - a)
    d[np.isnan(d)] = np.inf
    if stage.causal:
        d[:, np.triu_indices(shape[1], 1)[0], np.triu_indices(shape[1], 1)[1]] = 0
    order = np.argsort(-d.reshape(-1), kind="stable")
    expected = [stage.place(int(at)) for at in order if d.reshape(-1)[at] > 0][:limit]
    assert [element.place for element in top_elements(stage, limit)] == expected


def first_place(stage: StagePair, metric: Metric, bound: float) -> dict[str, int]:
    metrics = measure(stage.a, stage.b, causal=stage.causal).metrics
    return first_failing_place(stage, metrics, judge(stage.node, metrics, [Tolerance(metric, bound)]))


@pytest.mark.parametrize("metric", [Metric.REL_L2, Metric.TOKEN_REL_L2, Metric.MAX_ABS, Metric.REL_LINF])
def test_the_first_token_beyond_the_bound_is_named(metric: Metric) -> None:
    a = random((9, 30), 3)
    b = a.copy()
    b[2, 4] += 1e-5
    b[5, 11] += 1
    b[7, 0] += 50
    assert first_place(pair(a, b, ROWS), metric, 0.01) == {"token": 5, "channel": 11}


def test_a_token_of_nearly_nothing_is_held_against_the_others() -> None:
    a = random((9, 30), 4)
    a[1] = 1e-9
    b = a.copy()
    b[1, 3] += 1e-6
    b[6, 2] += 9
    assert first_place(pair(a, b, ROWS), Metric.REL_L2, 0.5) == {"token": 1, "channel": 3}
    assert first_place(pair(a, b, ROWS), Metric.TOKEN_REL_L2, 0.5) == {"token": 6, "channel": 2}


def test_of_attention_maps_the_first_query_is_named_whatever_its_head() -> None:
    a = random((3, 8, 8), 5)
    b = a.copy()
    b[0, 6, 1] += 9
    b[2, 4, 3] += 9
    b[1, 4, 7] = np.nan  # above the diagonal
    assert first_place(pair(a, b, MAPS), Metric.TOKEN_REL_L2, 0.1) == {"head": 2, "query": 4, "key": 3}
    b[1, 5, 5], b[0, 7, 7] = np.nan, np.inf
    assert first_place(pair(a, b, MAPS), Metric.TOKEN_REL_L2, 0.1) == {"head": 1, "query": 5, "key": 5}


def test_where_no_token_alone_breaks_the_bound_the_largest_difference_is_named() -> None:
    a = np.zeros((2, 3), np.float32)
    a[0, 0], a[1, 0] = 1, 1
    b = a.copy()
    b[1, 2] = 0.5
    stage = pair(a, b, ())
    assert first_place(stage, Metric.MAX_ABS, 0.1) == {"element": 5}


def test_values_of_tokens_are_those_of_each_row_alone() -> None:
    a, b = random((2, 6, 20), 6)
    b[3] = np.nan
    for metric in Metric:
        values = token_values(a, b, metric)
        for token in range(6):
            alone = measure(a[token : token + 1], b[token : token + 1]).metrics.value(metric)
            if metric is Metric.TOKEN_REL_L2 and token == 3:
                assert values[token] == np.inf
            elif alone is None:
                assert np.isnan(values[token])
            else:
                assert values[token] == pytest.approx(alone, rel=1e-12)


def test_errors_alone_are_those_of_the_whole_measurement() -> None:
    a, b = random((2, 6, 20), 7)
    zero, maps = np.zeros_like(a), np.tril(np.stack([np.stack([side[:, :6]] * 2) for side in (a, b)]))
    b[3, 2] = np.nan
    for left, right, causal in ((a, b, False), (zero, b, False), (zero, zero, False), (*maps, True)):
        whole = measure(left, right, causal=causal)
        assert rel_l2(left, right, causal=causal) == whole.metrics.rel_l2
        np.testing.assert_array_equal(token_errors(left, right, causal=causal), whole.tokens)
    nothing = np.full((2, 3), np.nan, np.float32)
    assert rel_l2(nothing, nothing) is None


def test_small_pairs_are_measured_without_numba() -> None:
    script = (
        "import sys, numpy as np\nfrom aprtui.compare.metrics.measure import measure\n"
        "import aprtui.compare.captures\nmeasure(np.ones((9, 9), np.float32), np.ones((9, 9), np.float32))\n"
        "assert 'numba' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
