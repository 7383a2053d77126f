"""Values beyond float16 that saving made Inf are set aside; an engine that overflows itself is still named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import Verdict, parse_tolerance
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.compare.synthetic import Edit, Values, write_capture

LARGE = Node(1, "post_ffn_residual")
AT = 2, 5


def _saved(values: Values) -> Values:
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


def _with(value: float, saved: bool) -> Edit:
    def edit(values: Values) -> Values:
        values = values.copy()
        values[AT] = value
        return _saved(values) if saved else values

    return edit


def _compared(folder: Path, value_a: float, value_b: float, edits: Mapping[Node, Edit] | None = None) -> Comparison:
    """A in float32 against B saved in float16, with a value of each at one place; `edits` are of B."""
    graph = Capture.open(write_capture(folder / "plain")).graph
    write_capture(folder / "a", edits={LARGE: _with(value_a, saved=False)})
    all_saved: dict[Node, Edit] = dict.fromkeys(graph.nodes, _saved)
    write_capture(folder / "b", edits={**all_saved, LARGE: _with(value_b, saved=True), **(edits or {})})
    options = DiffOptions(tolerances=(parse_tolerance("rel_l2=2e-3"),))
    return compare_captures(Capture.open(folder / "a"), Capture.open(folder / "b"), options)


def test_a_value_beyond_float16_is_set_aside_and_said(tmp_path: Path) -> None:
    result = _compared(tmp_path, 98304.0, 98304.0)
    assert result.verdict is Verdict.PASS, result.first_divergence
    assert any("65504, which saving in float16 made Inf" in statement for statement in result.statements)
    (stage,) = (stage for stage in result.stages if stage.node == LARGE)
    assert "1 value beyond float16 set aside" in stage.matched


def test_inf_where_the_other_side_is_small_or_of_the_other_sign_is_a_fault(tmp_path: Path) -> None:
    for number, (value_a, value_b) in enumerate([(40000.0, np.inf), (-98304.0, 98304.0)]):
        result = _compared(tmp_path / str(number), value_a, value_b)
        assert result.verdict is Verdict.FAIL
        assert result.first_divergence is not None and result.first_divergence.verdict.node == LARGE


def test_an_engine_that_overflowed_itself_is_named_where_it_did(tmp_path: Path) -> None:
    """Its next norm is NaN: the Inf was there before it was saved."""

    def spoilt(values: Values) -> Values:
        values = _saved(values)
        values[AT[0]] = np.nan
        return values

    result = _compared(tmp_path, 98304.0, 98304.0, {Node(2, "attn_norm"): spoilt})
    assert result.verdict is Verdict.FAIL
    assert result.first_divergence is not None and result.first_divergence.verdict.node == LARGE


def test_inf_among_values_of_more_digits_than_float16_is_a_fault(tmp_path: Path) -> None:
    result = _compared(tmp_path, 98304.0, 98304.0, {LARGE: _with(np.inf, saved=False)})
    assert result.verdict is Verdict.FAIL
