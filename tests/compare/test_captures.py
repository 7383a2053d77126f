"""Comparing captures: which stage diverges first, what cannot be judged, and that a capture equals itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.align.coverage import Selection
from aprtui.compare.captures import Criteria, DiffOptions, compare_captures
from aprtui.compare.comparison import Comparison, Focus, FocusKind
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.verdict import Tolerance, Verdict, parse_tolerance
from aprtui.errors import UsageError
from aprtui.trace.capture import Capture
from aprtui.trace.graph.config import RopeLayout
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import graph_for
from aprtui.trace.manifest import read_manifest, write_manifest
from tests.compare.synthetic import CONFIG, NODES, TOKENS, changed, scaled, stage_values, with_config, write_capture

OPTIONS = DiffOptions()


def tolerating(*texts: str) -> DiffOptions:
    return replace(OPTIONS, tolerances=tuple(parse_tolerance(text) for text in texts))


def compare(a: Path, b: Path, options: DiffOptions = OPTIONS) -> Comparison:
    return compare_captures(Capture.open(a), Capture.open(b), options)


@pytest.mark.parametrize("manifest", [True, False])
def test_capture_against_itself_is_exactly_zero(tmp_path: Path, manifest: bool) -> None:
    a = write_capture(tmp_path / "a", manifest=manifest)
    result = compare(a, a)
    assert (result.verdict, result.compared, result.expected) == (Verdict.PASS, NODES, NODES)
    assert result.alignment.aligned == len(TOKENS)
    assert all(stage.metrics.max_abs == 0 and stage.metrics.equal_bits == 1 for stage in result.stages)


@pytest.mark.parametrize("stage", ["qkv_bias", "ffn_gate", "post_ffn_residual"])
def test_one_changed_element_is_named_by_layer_stage_token_and_channel(tmp_path: Path, stage: str) -> None:
    a = write_capture(tmp_path / "a")
    b = write_capture(tmp_path / "b", edits={Node(1, stage): changed((3, 5), 9.0)})
    result = compare(a, b, tolerating("rel_l2=1e-6"))
    assert result.verdict is Verdict.FAIL
    assert result.first_divergence is not None
    assert result.first_divergence.verdict.node == Node(1, stage)
    assert result.first_divergence.place == {"token": 3, "channel": 5}
    assert result.first_divergence.segment == (Node(1, stage),)
    assert [element.place for element in result.elements] == [{"token": 3, "channel": 5}]


def test_changed_attention_score_is_named_by_head_query_and_key(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a")
    b = write_capture(tmp_path / "b", edits={Node(2, "attn_scores"): changed((1, 4, 2), 9.0)})
    result = compare(a, b, tolerating("rel_l2=1e-6"))
    assert result.first_divergence is not None
    assert result.first_divergence.place == {"head": 1, "query": 4, "key": 2}


def test_values_above_the_diagonal_do_not_count(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a")
    b = write_capture(tmp_path / "b", edits={Node(2, "attn_scores"): changed((1, 2, 4), 9.0)})
    assert compare(a, b).verdict is Verdict.PASS


def test_first_failing_token_is_named_not_the_largest_difference(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a")

    def edit(values: np.ndarray) -> np.ndarray:
        return changed((4, 1), 500.0)(changed((2, 6), 9.0)(values))

    b = write_capture(tmp_path / "b", edits={Node(0, "ffn_out"): edit})
    result = compare(a, b, tolerating("rel_l2=1e-3"))
    assert result.first_divergence is not None
    assert result.first_divergence.place == {"token": 2, "channel": 6}
    assert result.elements[0].place == {"token": 4, "channel": 1}


def test_first_divergence_follows_execution_order_not_size(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a")
    edits = {Node(2, "attn_norm"): scaled(3), Node(0, "ffn_norm"): scaled(1.1), Node(None, "lm_head"): scaled(9)}
    result = compare(a, write_capture(tmp_path / "b", edits=edits), tolerating("rel_l2=0.01"))
    assert result.first_divergence is not None
    assert result.first_divergence.verdict.node == Node(0, "ffn_norm")


def test_differing_values_without_tolerance_cannot_be_judged(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a")
    b = write_capture(tmp_path / "b", edits={Node(1, "ffn_up"): scaled(1.25)})
    result = compare(a, b)
    assert (result.verdict, result.first_divergence, result.focus) == (
        Verdict.UNKNOWN, None, Focus(Node(1, "ffn_up"), FocusKind.JUMP),
    )  # fmt: skip
    assert "nothing says how much" in " ".join(result.reasons)
    assert str(result.smallest) in ("rel_l2=0.25", "rel_l2=0.251")
    assert result.smallest is not None
    assert compare(a, b, tolerating(str(result.smallest))).verdict is Verdict.PASS


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_planted_nan_fails_whatever_is_tolerated(tmp_path: Path, bad: float) -> None:
    a = write_capture(tmp_path / "a")
    b = write_capture(tmp_path / "b", edits={Node(1, "attention"): changed((2, 3), bad)})
    for result in (compare(a, b), compare(a, b, tolerating("rel_l2=1000"))):
        assert result.verdict is Verdict.FAIL
        assert result.first_divergence is not None
        assert result.first_divergence.verdict.metric is Metric.NON_FINITE
        assert result.first_divergence.place == {"token": 2, "channel": 3}


def test_first_nan_of_an_attention_map_is_that_of_the_first_query(tmp_path: Path) -> None:
    def edit(values: np.ndarray) -> np.ndarray:
        return changed((1, 1, 0), np.nan)(changed((0, 4, 4), np.nan)(values))

    a = write_capture(tmp_path / "a")
    result = compare(a, write_capture(tmp_path / "b", edits={Node(0, "attn_softmax"): edit}))
    assert result.first_divergence is not None
    assert result.first_divergence.place == {"head": 1, "query": 1, "key": 0}


def test_nan_everywhere_on_both_sides_is_not_a_pass(tmp_path: Path) -> None:
    edits = {Node(1, "attention"): scaled(np.nan)}
    a = write_capture(tmp_path / "a", edits=edits)
    b = write_capture(tmp_path / "b", edits=edits)
    assert compare(a, b, tolerating("rel_l2=1")).verdict is Verdict.UNKNOWN


def test_nan_alike_on_both_sides_is_said_and_left_to_the_finite_values(tmp_path: Path) -> None:
    node = Node(1, "attention")

    def edit(values: np.ndarray) -> np.ndarray:
        return changed((4, 1), -np.inf)(np.where(np.arange(len(TOKENS))[:, None] < 4, np.float32(np.nan), values))

    a = write_capture(tmp_path / "a", edits={node: edit})
    assert compare(a, a).verdict is Verdict.PASS
    (stage,) = compare(a, a).alike
    assert (stage.node, stage.verdict.reason) == (node, "bit-equal; 32 NaN, 1 Inf on both sides")
    b = write_capture(tmp_path / "b", edits={node: lambda values: changed((4, 2), 9.0)(edit(values))})
    assert compare(a, b).verdict is Verdict.UNKNOWN
    assert compare(a, b, tolerating("rel_l2=1e-3")).verdict is Verdict.FAIL
    within = compare(a, b, tolerating("max_abs=20"))
    assert within.alike[0].verdict.reason == "within the tolerance; 32 NaN, 1 Inf on both sides"


def test_missing_promised_stage_is_unknown_unless_allowed(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a")
    b = write_capture(tmp_path / "b", without=[Node(1, "ffn_silu")])
    result = compare(a, b)
    assert (result.verdict, result.compared, result.expected) == (Verdict.UNKNOWN, NODES - 1, NODES)
    assert [(skip.node, skip.side) for skip in result.skipped] == [(Node(1, "ffn_silu"), "a")]
    for glob in ("ffn_silu", "layer-1/*", "*silu"):
        assert compare(a, b, replace(OPTIONS, allow_missing=(glob,))).verdict is Verdict.PASS
    assert compare(a, b, replace(OPTIONS, allow_missing=("layer-2/*",))).verdict is Verdict.UNKNOWN


def test_what_a_manifest_says_its_engine_has_no_tensor_of_may_be_missing(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a")
    b = write_capture(tmp_path / "b", unplanned=["ffn_silu"])
    assert compare(a, b).verdict is Verdict.UNKNOWN
    manifest = read_manifest(b)
    assert manifest is not None
    write_manifest(b, replace(manifest, unavailable={"ffn_silu": "fused into ffn_swigl"}))
    result = compare(a, b)
    assert (result.verdict, result.allowed_missing) == (Verdict.PASS, CONFIG.layers)
    assert {skip.reason for skip in result.skipped} == {"in A only; the other side's manifest: fused into ffn_swigl"}
    asked = compare(a, b, replace(OPTIONS, selection=Selection("ffn_silu,ffn_swigl")))
    assert asked.verdict is Verdict.UNKNOWN


def test_what_a_manifest_promises_is_owed_whatever_it_says_of_its_engine(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a")
    b = write_capture(tmp_path / "b", without=[Node(1, "ffn_silu")])
    manifest = read_manifest(b)
    assert manifest is not None
    write_manifest(b, replace(manifest, unavailable={"ffn_silu": "fused into ffn_swigl"}))
    assert compare(a, b).verdict is Verdict.UNKNOWN


def test_side_without_manifest_owes_what_the_other_side_has(tmp_path: Path) -> None:
    node = Node(2, "k_post_rope")
    whole, lacking = tmp_path / "whole", tmp_path / "lacking"
    write_capture(whole, manifest=False)
    write_capture(lacking, manifest=False, without=[node])
    assert compare(whole, lacking).verdict is Verdict.UNKNOWN
    assert compare(lacking, whole).verdict is Verdict.UNKNOWN


def test_files_beyond_a_manifest_are_listed_but_not_owed(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a", unplanned=["ffn_silu"])
    b = write_capture(tmp_path / "b", manifest=False)
    result = compare(a, b)
    assert (result.verdict, result.compared, result.expected) == (Verdict.PASS, NODES - 3, NODES - 3)
    assert {skip.side for skip in result.skipped} == {"b"}


def test_stages_allowed_to_be_missing_are_counted(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a")
    b = write_capture(tmp_path / "b", manifest=False, without=[n for n in graph_for(CONFIG).nodes if n.layer != 0])
    result = compare(a, b, replace(OPTIONS, allow_missing=("layer-1/*", "layer-2/*", "final_norm", "lm_head")))
    assert (result.verdict, result.compared, result.expected) == (Verdict.PASS, 18, 18)
    assert result.allowed_missing == NODES - 18


def test_extension_stages_may_be_missing(tmp_path: Path) -> None:
    config = with_config(qk_norm=True, qkv_bias=False)
    a = write_capture(tmp_path / "a", config=config)
    b = write_capture(tmp_path / "b", config=config, unplanned=["q_norm", "k_norm"])
    result = compare(a, b)
    assert result.verdict is Verdict.PASS
    assert len(result.skipped) == 6


def test_queries_and_keys_of_a_layer_without_rope_may_be_missing(tmp_path: Path) -> None:
    """They are what stands before RoPE; engines that name rotated values only have none there."""
    config = with_config(no_rope=(False, True, False))
    a = write_capture(tmp_path / "a", config=config)
    for layer, verdict in ((1, Verdict.PASS), (0, Verdict.UNKNOWN)):
        without = [Node(layer, "q_post_rope"), Node(layer, "k_post_rope")]
        b = write_capture(tmp_path / f"b{layer}", config=config, manifest=False, without=without)
        assert compare(a, b).verdict is verdict


def test_extension_stage_named_exactly_is_owed(tmp_path: Path) -> None:
    config = with_config(qk_norm=True, qkv_bias=False)
    a = write_capture(tmp_path / "a", config=config)
    b = write_capture(tmp_path / "b", config=config, unplanned=["q_norm"])
    named = replace(OPTIONS, selection=Selection("ffn_up,Q_Norm"))
    result = compare(a, b, named)
    assert (result.verdict, result.compared, result.expected) == (Verdict.UNKNOWN, 3, 6)
    assert compare(a, b, replace(OPTIONS, selection=Selection("q_*"))).verdict is Verdict.PASS
    assert compare(a, b, replace(named, allow_missing=("q_norm",))).verdict is Verdict.PASS


def test_selected_stage_that_neither_side_has_is_owed(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a", unplanned=["ffn_up"])
    options = replace(OPTIONS, selection=Selection("ffn_up,ffn_gate", "0..2"))
    result = compare(a, a, options)
    assert (result.verdict, result.compared, result.expected) == (Verdict.UNKNOWN, 2, 4)


def test_selection_narrows_what_is_compared(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a")
    b = write_capture(tmp_path / "b", edits={Node(1, "ffn_up"): scaled(2)})
    assert compare(a, b, replace(OPTIONS, selection=Selection("ffn_*", "0"))).verdict is Verdict.PASS
    assert compare(a, b, replace(OPTIONS, selection=Selection("attn_*"))).verdict is Verdict.PASS
    assert compare(a, b, replace(OPTIONS, selection=Selection(None, "1..2"))).verdict is Verdict.UNKNOWN
    for selection in (Selection("ffn_sideways"), Selection(""), Selection(None, "")):
        with pytest.raises(UsageError):
            compare(a, b, replace(OPTIONS, selection=selection))


def test_divergence_behind_uncompared_stages_names_the_whole_segment(tmp_path: Path) -> None:
    hidden = ["ffn_norm", "ffn_gate"]
    a = write_capture(tmp_path / "a", unplanned=hidden)
    b = write_capture(tmp_path / "b", unplanned=hidden, edits={Node(1, "ffn_silu"): scaled(2)})
    result = compare(a, b, tolerating("rel_l2=0.1"))
    assert result.first_divergence is not None
    assert result.first_divergence.segment == (Node(1, "ffn_norm"), Node(1, "ffn_gate"), Node(1, "ffn_silu"))


def test_stages_that_were_not_selected_are_no_segment(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a")
    b = write_capture(tmp_path / "b", unplanned=["ffn_norm"], edits={Node(1, "ffn_gate"): scaled(2)})
    options = replace(tolerating("rel_l2=0.1"), selection=Selection("ffn_gate", "1"))
    divergence = compare(a, b, options).first_divergence
    assert divergence is not None
    # B lacks ffn_norm; what stands before that is on both sides and was left out by the selection alone.
    assert divergence.segment == (Node(1, "ffn_norm"), Node(1, "ffn_gate"))
    assert divergence.not_selected == (Node(1, "post_attn_residual"),)
    whole = compare(a, b, tolerating("rel_l2=0.1")).first_divergence
    assert whole is not None
    assert whole.not_selected == ()


def test_segment_is_known_without_manifests_too(tmp_path: Path) -> None:
    missing = [Node(1, "post_attn_residual")]
    a = write_capture(tmp_path / "a", manifest=False, without=missing)
    b = write_capture(tmp_path / "b", manifest=False, without=missing, edits={Node(1, "ffn_norm"): scaled(2)})
    result = compare(a, b, tolerating("rel_l2=0.1"))
    assert result.first_divergence is not None
    assert result.first_divergence.segment == (Node(1, "post_attn_residual"), Node(1, "ffn_norm"))


def test_incomplete_capture_cannot_pass(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a")
    b = write_capture(tmp_path / "b", complete=False)
    result = compare(a, b)
    assert result.verdict is Verdict.UNKNOWN
    assert "B is incomplete" in " ".join(result.reasons)


def test_only_a_true_complete_is_complete(tmp_path: Path) -> None:
    a = Capture.open(write_capture(tmp_path / "a"))
    assert a.manifest is not None
    odd = replace(a, manifest=replace(a.manifest, complete="false"))  # type: ignore[arg-type]
    result = compare_captures(a, odd, OPTIONS)
    assert (result.verdict, result.unfinished) == (Verdict.UNKNOWN, ("B",))


def test_stages_that_an_unfinished_run_did_not_write_are_listed(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a")
    b = write_capture(tmp_path / "b", complete=False, without=[Node(0, "ffn_up")])
    lost = b / "layer-1/ffn_up.bin"
    lost.write_bytes(bytes(lost.stat().st_size))  # as the writer leaves it: at its full size, without a header
    result = compare(a, b)
    assert (result.verdict, result.compared) == (Verdict.UNKNOWN, NODES - 2)
    assert [(skip.node.layer, skip.side, skip.reason) for skip in result.skipped] == [
        (0, "a", "not written: the run did not finish (B)"), (1, "a", "not written: the run did not finish (B)"),
    ]  # fmt: skip
    c = write_capture(tmp_path / "c")
    (c / "layer-1/ffn_up.bin").write_bytes(lost.read_bytes())
    (skip,) = compare(a, c).skipped
    assert skip.damaged and "not an APRT stage file" in skip.reason, "of a run that did finish it is damage"


def test_last_logits_are_compared_with_the_last_of_all(tmp_path: Path) -> None:
    head = Node(None, "lm_head")
    a = write_capture(tmp_path / "a", all_logits=True)
    b = write_capture(tmp_path / "b")
    same, flipped = compare(a, b), compare(b, a)
    assert same.verdict is flipped.verdict is Verdict.PASS
    assert [stage.matched for stage in same.stages if stage.node == head] == ["the last of A's 5 tokens, B's only one"]
    c = write_capture(tmp_path / "c", edits={head: changed((0, 7), 99.0)})
    result = compare(a, c, tolerating("rel_l2=0.1"))
    assert result.first_divergence is not None
    assert result.first_divergence.place == {"token": len(TOKENS) - 1, "channel": 7}


def test_last_logits_without_manifest_are_recognised_by_the_other_side(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a")
    b = write_capture(tmp_path / "b", manifest=False, all_logits=True)
    result = compare(a, b)
    assert result.verdict is Verdict.PASS
    assert result.stages[-1].matched == "A's only token, the last of B's 5"


def test_interleaved_rope_rows_are_compared_in_the_order_of_a(tmp_path: Path) -> None:
    # Heads of 8 channels: with 4, going there and coming back are the same permutation.
    half = with_config(architecture="llama", head_dim=8, qkv_bias=False)
    config = replace(half, rope_layout=RopeLayout.INTERLEAVED)

    def interleave(values: np.ndarray, width: int) -> np.ndarray:
        out = values.copy()
        for head in range(0, width, 8):
            out[:, head : head + 8] = values[:, [head + channel for channel in (0, 4, 1, 5, 2, 6, 3, 7)]]
        return out

    edits = {}
    for layer in range(3):
        edits[Node(layer, "q_post_rope")] = lambda values: interleave(values, 16)
        edits[Node(layer, "k_post_rope")] = lambda values: interleave(values, 8)
        edits[Node(layer, "qkv_matmul")] = lambda values: interleave(values, 16 + 8)
    a = write_capture(tmp_path / "half", config=half)
    b = write_capture(tmp_path / "interleaved", config=config, edits=edits)
    for left, right in ((a, b), (b, a)):
        result = compare(left, right)
        assert result.verdict is Verdict.PASS
        assert [s.node.stage for s in result.stages if "RoPE" in s.matched][:3] == [
            "qkv_matmul", "q_post_rope", "k_post_rope",
        ]  # fmt: skip


def test_other_dimensions_cannot_be_judged(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a")
    b = write_capture(tmp_path / "b", config=with_config(ffn=10))
    result = compare(a, b)
    assert result.verdict is Verdict.UNKNOWN
    assert {skip.node.stage for skip in result.skipped} == {"ffn_gate", "ffn_up", "ffn_silu", "ffn_swigl"}


def test_wrong_layer_in_a_header_is_damage(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a")
    b = write_capture(tmp_path / "b")
    (b / "layer-1/ffn_up.bin").write_bytes((b / "layer-2/ffn_up.bin").read_bytes())
    (skip,) = compare(a, b).skipped
    assert skip.damaged and "layer-1/ffn_up.bin: byte 4: header says layer 2" in skip.reason


def test_compared_values_are_those_that_were_written(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a")
    b = write_capture(tmp_path / "b", edits={Node(0, "attn_out"): scaled(1.5)})
    stage = next(stage for stage in compare(a, b).stages if stage.node == Node(0, "attn_out"))
    written = stage_values(Node(0, "attn_out"), (len(TOKENS), CONFIG.hidden), TOKENS)
    assert stage.metrics.max_abs == pytest.approx(float(np.abs(written).max()) / 2, rel=1e-6)
    assert stage.metrics.rel_l2 == pytest.approx(0.5, rel=1e-6)


@pytest.mark.group("conformance")
@pytest.mark.parametrize("model", ["qwen2-q4km", "qwen2-q5km", "qwen2-q8_0", "qwen3-q4km"])
def test_honest_engines_are_not_called_equal_nor_faulty_without_a_tolerance(conformance: Path, model: str) -> None:
    a, b = conformance / model / "transformers", conformance / model / "llamacpp"
    result = compare(a, b)
    assert (result.verdict, result.compared) == (Verdict.UNKNOWN, result.expected)
    assert result.alignment.aligned == 22
    assert compare(a, b, tolerating("rel_l2=0.2")).verdict is Verdict.PASS
    assert compare(a, b, tolerating("rel_l2=1e-4")).verdict is Verdict.FAIL
    assert compare(a, a).verdict is Verdict.PASS


def test_a_floor_fails_no_stage_that_follows_from_its_inputs_on_both_sides(tmp_path: Path) -> None:
    """Noise that came in may grow beyond a measured floor; NaN and a tolerance of the user fail all the same."""
    at = Node(1, "ffn_gate")
    a = Capture.open(write_capture(tmp_path / "a"))
    b = Capture.open(write_capture(tmp_path / "b", edits={at: scaled(1.5)}))
    floor = Criteria(bounds=lambda node: (Tolerance(Metric.REL_L2, 0.3, 0.1, "3 × the floor"),))
    proven = replace(floor, proven=frozenset(a.graph.nodes))
    assert compare_captures(a, b, DiffOptions(), None, floor).verdict is Verdict.FAIL
    result = compare_captures(a, b, DiffOptions(), None, proven)
    assert result.verdict is Verdict.PASS
    (reason,) = {stage.verdict.reason for stage in result.stages if stage.node == at}
    assert reason.startswith("above 3 × the floor (0.3), yet each side's stages follow from their own inputs")
    stated = DiffOptions(tolerances=(parse_tolerance("rel_l2=0.3"),))
    assert compare_captures(a, b, stated, None, proven).verdict is Verdict.FAIL
    broken = Capture.open(write_capture(tmp_path / "c", edits={at: changed((0, 0), np.nan)}))
    assert compare_captures(a, broken, DiffOptions(), None, proven).verdict is Verdict.FAIL
