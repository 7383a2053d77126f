"""A capture whose engine counts layers from 1 is told so, and nothing is blamed on its layers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.align.layer_numbers import counted_from_one
from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.conclusion import judge_by_bound
from aprtui.compare.report.records import comparison_records, read_comparison
from aprtui.compare.verdict import Verdict, parse_tolerance
from aprtui.trace.aprt import write_aprt
from aprtui.trace.capture import PROVENANCE, Capture

_TOKENS, _WIDTH = 5, 16


def _capture(
    folder: Path, layers: Iterable[int], *, named: int = 0, noise: float = 0.0, scale: float = 1.0
) -> Capture:  # fmt: skip
    """Outputs of the `layers` of one model, whose folders and headers have numbers that are `named` higher."""
    folder.mkdir()
    (folder / PROVENANCE).write_text(f"tokens: {list(range(_TOKENS))}\n")
    for layer in layers:
        (folder / f"layer-{layer + named}").mkdir()
        for stage in ("attn_out", "ffn_out", "post_ffn_residual"):
            random = np.random.default_rng([layer, len(stage)])
            values = scale * random.normal(size=(_TOKENS, _WIDTH)) + noise * random.normal(size=(_TOKENS, _WIDTH))
            write_aprt(folder / f"layer-{layer + named}/{stage}.bin", layer + named, values.astype(np.float32))
    return Capture.open(folder)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_side_that_counts_from_one_is_named_and_cannot_fail(tmp_path: Path, noise: float) -> None:
    a = _capture(tmp_path / "a", range(4))
    b = _capture(tmp_path / "b", range(4), named=1, noise=noise)
    for left, right, side in ((a, b, "B"), (b, a, "A")):
        comparison = compare_captures(left, right, DiffOptions(tolerances=(parse_tolerance("rel_l2=0.5"),)))
        assert comparison.verdict is Verdict.UNKNOWN
        assert comparison.reasons[0].startswith(f"{side} counts layers from 1: ")
        assert (comparison.focus, comparison.smallest) == (None, None)
        read = read_comparison(comparison_records("a", "b", None, comparison))
        assert judge_by_bound(read, parse_tolerance("rel_l2=0.5")).verdict is Verdict.UNKNOWN


def test_the_last_layers_of_a_capture_that_differ_are_no_other_numbers(tmp_path: Path) -> None:
    a = _capture(tmp_path / "a", range(4))
    part, wrong = _capture(tmp_path / "part", range(1, 4)), _capture(tmp_path / "wrong", range(1, 4), noise=2.0)
    assert counted_from_one(a, part) is None
    assert counted_from_one(a, wrong) is None
    comparison = compare_captures(part, wrong, DiffOptions(tolerances=(parse_tolerance("rel_l2=0.5"),)))
    assert comparison.verdict is Verdict.FAIL


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("scale", [0.0, 1e-3])
def test_layers_of_nearly_nothing_are_a_fault_and_no_other_numbers(tmp_path: Path, layers: int, scale: float) -> None:
    a = _capture(tmp_path / "a", range(layers + 1))
    b = _capture(tmp_path / "b", range(1, layers + 1), scale=scale)
    for left, right in ((a, b), (b, a)):
        assert counted_from_one(left, right) is None


def test_a_layer_that_holds_what_the_one_before_left_is_a_fault(tmp_path: Path) -> None:
    a, stale = _capture(tmp_path / "a", range(3)), _capture(tmp_path / "stale", [0], named=1)
    assert counted_from_one(a, stale) is None
    _capture(tmp_path / "more", [2])
    (tmp_path / "more/layer-2").rename(tmp_path / "stale/layer-2")
    assert counted_from_one(a, Capture.open(tmp_path / "stale")) is None


def test_both_sides_may_count_from_one(tmp_path: Path) -> None:
    a, b = (_capture(tmp_path / name, range(4), named=1) for name in "ab")
    assert counted_from_one(a, b) is None
    assert compare_captures(a, b, DiffOptions()).verdict is Verdict.PASS
