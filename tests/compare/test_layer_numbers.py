"""A capture whose engine counts layers from 1 is told so, and nothing is blamed on its layers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.align.layer_numbers import counted_from_one
from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.verdict import Verdict, parse_tolerance
from aprtui.trace.aprt import write_aprt
from aprtui.trace.capture import PROVENANCE, Capture

_TOKENS, _WIDTH = 5, 16


def _capture(folder: Path, layers: Iterable[int], *, named: int = 0, noise: float = 0.0) -> Capture:
    """Outputs of the `layers` of one model, whose folders and headers have numbers that are `named` higher."""
    folder.mkdir()
    (folder / PROVENANCE).write_text(f"tokens: {list(range(_TOKENS))}\n")
    for layer in layers:
        (folder / f"layer-{layer + named}").mkdir()
        for stage in ("attn_out", "ffn_out", "post_ffn_residual"):
            random = np.random.default_rng([layer, len(stage)])
            values = random.normal(size=(_TOKENS, _WIDTH)) + noise * random.normal(size=(_TOKENS, _WIDTH))
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


def test_the_last_layers_of_a_capture_that_differ_are_no_other_numbers(tmp_path: Path) -> None:
    a = _capture(tmp_path / "a", range(4))
    part, wrong = _capture(tmp_path / "part", range(1, 4)), _capture(tmp_path / "wrong", range(1, 4), noise=2.0)
    assert counted_from_one(a, part) is None
    assert counted_from_one(a, wrong) is None
    comparison = compare_captures(part, wrong, DiffOptions(tolerances=(parse_tolerance("rel_l2=0.5"),)))
    assert comparison.verdict is Verdict.FAIL


def test_both_sides_may_count_from_one(tmp_path: Path) -> None:
    a, b = (_capture(tmp_path / name, range(4), named=1) for name in "ab")
    assert counted_from_one(a, b) is None
    assert compare_captures(a, b, DiffOptions()).verdict is Verdict.PASS
