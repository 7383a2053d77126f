"""The benchmark of the metrics runs, and judges what it says it judges."""

from __future__ import annotations

from pathlib import Path

import pytest

from aprtui.bench.metrics import MetricsOptions, run_metrics


def test_metrics_are_measured_against_the_sum_and_within_memory(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    total, metrics, memory = run_metrics(MetricsOptions(8 << 20, 3, 2, tmp_path), lambda *_: None)
    assert total.value > 0 and metrics.value > 0
    assert metrics.ratio is not None and 0 < metrics.ratio < 10
    # Both rates are of one run, so their ratio can be no other than that of some rounds.
    assert metrics.spread[0] / total.spread[1] <= metrics.ratio <= metrics.spread[1] / total.spread[0]
    assert memory.ratio is not None and 0.1 < memory.ratio < 1
    assert not list(tmp_path.iterdir())
