"""Where to look first, and patterns that have a common cause."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.comparison import Comparison, Focus, FocusKind
from aprtui.compare.verdict import Verdict, parse_tolerance
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.compare.synthetic import HEADS_OF_16, Edit, changed, interleaved, reordered, scaled, write_capture


def compare(a: Path, b: Path, *tolerances: str) -> Comparison:
    options = DiffOptions(tolerances=tuple(parse_tolerance(text) for text in tolerances))
    return compare_captures(Capture.open(a), Capture.open(b), options)


def focus_of(tmp_path: Path, edits: dict[Node, Edit]) -> Focus | None:
    return compare(write_capture(tmp_path / "a"), write_capture(tmp_path / "b", edits=edits)).focus


def test_first_rounding_is_not_where_to_look(tmp_path: Path) -> None:
    edits = {Node(0, "attn_norm"): scaled(1 + 7e-7), Node(1, "ffn_gate"): scaled(1.01), Node(2, "ffn_up"): scaled(1.02)}
    assert focus_of(tmp_path, edits) == Focus(Node(1, "ffn_gate"), FocusKind.JUMP)


def test_what_no_rounding_explains_goes_before_what_may_be_rounding(tmp_path: Path) -> None:
    edits = {Node(0, "qkv_matmul"): scaled(1.007), Node(1, "ffn_gate"): scaled(2)}
    assert focus_of(tmp_path, edits) == Focus(Node(1, "ffn_gate"), FocusKind.JUMP)


def test_error_that_grows_no_faster_than_its_inputs_is_looked_at_where_it_is_worst(tmp_path: Path) -> None:
    # From 8e-6 up by less than ten times a stage: nothing stands out but the largest.
    edits = {Node(0, "embedding"): scaled(1 + 8e-6)}
    edits |= {Node(0, name): scaled(1 + 6e-5) for name in ("attn_norm", "qkv_matmul", "qkv_bias", "q_post_rope")}
    edits[Node(0, "qkv_bias")] = scaled(1 + 9e-5)
    assert focus_of(tmp_path, edits) == Focus(Node(0, "qkv_bias"), FocusKind.WORST)


def test_error_is_held_against_the_nearest_compared_stage(tmp_path: Path) -> None:
    edits = {Node(1, "post_attn_residual"): scaled(1.01), Node(1, "ffn_gate"): scaled(1.05)}
    a = write_capture(tmp_path / "a", unplanned=["ffn_norm"])
    result = compare(a, write_capture(tmp_path / "b", unplanned=["ffn_norm"], edits=edits))
    assert result.focus == Focus(Node(1, "post_attn_residual"), FocusKind.JUMP)


def test_failing_stage_goes_before_a_jump(tmp_path: Path) -> None:
    edits = {Node(0, "ffn_up"): scaled(1.01), Node(1, "ffn_up"): scaled(2)}
    a, b = write_capture(tmp_path / "a"), write_capture(tmp_path / "b", edits=edits)
    assert compare(a, b, "rel_l2=0.1").focus == Focus(Node(1, "ffn_up"), FocusKind.DIVERGENCE)
    assert compare(a, a).focus is None


def test_other_rope_layout_is_named_where_both_manifests_state_the_same(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a", config=HEADS_OF_16)
    b = write_capture(tmp_path / "b", config=HEADS_OF_16, edits=reordered((1, 2)))
    for result in (compare(a, b), compare(a, b, "rel_l2=0.2")):
        (hint,) = result.hints
        assert set(hint.nodes) == set(reordered((1, 2)))
        assert "RoPE layout" in hint.text
    assert compare(a, b).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    "spoil",
    [
        lambda edits: edits | {Node(1, "attn_scores"): changed((0, 4, 0), 99.0)},  # not the same scores
        lambda edits: edits | {Node(1, "attn_norm"): scaled(2)},  # not the same input
        lambda edits: edits | {Node(1, "k_post_rope"): lambda values: 2 * interleaved(values)},  # not the same norm
        lambda edits: edits | {Node(1, "k_post_rope"): scaled(1)},  # only half of it
        lambda edits: {},
    ],
)
def test_no_rope_layout_is_blamed_where_a_neighbour_differs(
    tmp_path: Path, spoil: Callable[[dict[Node, Edit]], dict[Node, Edit]]
) -> None:
    a = write_capture(tmp_path / "a", config=HEADS_OF_16)
    b = write_capture(tmp_path / "b", config=HEADS_OF_16, edits=spoil(reordered((1,))))
    assert compare(a, b).hints == ()
