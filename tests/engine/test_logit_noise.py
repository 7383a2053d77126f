from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aprtui.engine.logit_noise import FEWEST_TOKENS, LogitNoise, logit_deviation, measure_logit_noise
from aprtui.errors import UsageError
from aprtui.model.model import load_model
from aprtui.resources import embedded_model

Steps = list[tuple[str, int, int]]


def logits(rows: int = 400) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 3, (rows, 50)).astype(np.float32)


def test_deviation_of_independent_errors_is_found() -> None:
    exact = logits()
    errors = np.random.default_rng(2).normal(0, 0.25, exact.shape).astype(np.float32)
    assert logit_deviation(exact, exact + errors) == pytest.approx(0.25, rel=0.05)


def test_shift_that_all_logits_share_is_no_noise() -> None:
    exact = logits()
    assert logit_deviation(exact, exact + np.float32(4)) == pytest.approx(0, abs=1e-6)
    assert logit_deviation(exact, exact) == 0


def test_errors_of_unlikely_tokens_do_not_count() -> None:
    exact = logits()
    rounded = exact.copy()
    np.put_along_axis(rounded, exact.argmin(1)[:, None], 1e3, 1)
    assert logit_deviation(exact, rounded) == 0


def test_logits_that_are_not_finite_give_no_figure() -> None:
    exact = logits(4)
    rounded = exact.copy()
    rounded[2, exact[2].argmax()] = np.nan
    assert np.isnan(logit_deviation(exact, rounded))


def test_noise_is_measured_once_and_then_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aprtui.engine.logit_noise.floor_cache", lambda: tmp_path / "floors")
    model, steps = load_model(embedded_model()), Steps()

    def measure(tokens: range) -> LogitNoise:
        return measure_logit_noise(model, tokens, "numpy", 1, lambda *step: steps.append(step))

    with pytest.raises(UsageError, match="there are 7"):
        measure(range(FEWEST_TOKENS - 1))
    first = measure(range(12))
    # 8-bit activations err by a per cent or so of what logits vary by.
    assert 1e-3 < first.deviation < 1
    assert first.tokens == 12
    assert [done for _, done, _ in steps] == [0, 4, 8, 12, 16, 20]
    assert {total for *_, total in steps} == {24}
    assert measure(range(1)) == first
    assert len(steps) == 6
