"""The three ways of the gate that a third capture gives: relative L2, relative L∞, and how errors are distributed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.comparison import Comparison
from aprtui.compare.floor import reference_criteria
from aprtui.compare.verdict import Verdict
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.compare.synthetic import Edit, Values, write_capture

TOKENS = tuple(int(token) for token in np.random.default_rng(3).integers(0, 20, 100))
NODE = Node(1, "ffn_up")


def noisy(size: float, seed: int, *, heavy: bool = False) -> Edit:
    """Errors of rms `size`: normal, or `heavy`, the same rms in one value of eight."""

    def edit(values: Values) -> Values:
        random = np.random.default_rng(seed)
        noise = random.standard_normal(values.shape)
        if heavy:
            noise = np.where(random.random(values.shape) < 0.125, noise * np.sqrt(8), 0)
        return (values + size * noise).astype(np.float32)

    return edit


def judged(folder: Path, candidate: Edit, reference: Edit) -> Comparison:
    a, b, ref = (
        Capture.open(write_capture(folder / name, tokens=TOKENS, edits=edits))
        for name, edits in (("a", {}), ("b", {NODE: candidate}), ("reference", {NODE: reference}))
    )
    return compare_captures(a, b, DiffOptions(), None, reference_criteria(a, ref, None, None))


def test_errors_like_the_reference_pass(tmp_path: Path) -> None:
    assert judged(tmp_path, noisy(0.01, 1), noisy(0.01, 2)).verdict is Verdict.PASS


def test_smaller_errors_pass_whatever_their_shape(tmp_path: Path) -> None:
    assert judged(tmp_path, noisy(0.005, 1, heavy=True), noisy(0.01, 2)).verdict is Verdict.PASS


@pytest.mark.parametrize(("size", "said"), [(0.1, "3 ×"), (0.02, "distributed unlike")])
def test_larger_errors_fail_by_size_or_by_distribution(tmp_path: Path, size: float, said: str) -> None:
    result = judged(tmp_path, noisy(size, 1), noisy(0.01, 2))
    assert result.verdict is Verdict.FAIL
    assert result.first_divergence is not None and said in result.first_divergence.verdict.reason


def test_one_large_error_fails_by_linf(tmp_path: Path) -> None:
    def spike(values: Values) -> Values:
        out = noisy(0.01, 1)(values)
        out[3, 2] += 0.5
        return out

    result = judged(tmp_path, spike, noisy(0.01, 2))
    assert result.verdict is Verdict.FAIL


def test_float32_rounding_passes_where_the_reference_is_bit_equal(tmp_path: Path) -> None:
    assert judged(tmp_path, noisy(1e-6, 1), lambda values: values).verdict is Verdict.PASS
