"""Mistakes that cost others weeks, replayed: what a cosine or a ratio of spreads suggested, and what is said here."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from aprtui.compare.captures import Criteria, DiffOptions, compare_captures
from aprtui.compare.comparison import Comparison, StageComparison
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.verdict import Tolerance, Verdict
from aprtui.trace.aprt import read_aprt, write_aprt
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.compare.synthetic import CONFIG, TOKENS, Values, write_capture


def stage_of(result: Comparison, node: Node) -> StageComparison:
    return next(stage for stage in result.stages if stage.node == node)


def last_token_only(folder: Path) -> Path:
    """A capture whose stages hold the last position only, as statistics of a decode step would."""
    for path in folder.glob("layer-*/*.bin"):
        file = read_aprt(path)
        if not path.stem.startswith("attn_s"):
            write_aprt(path, file.layer, np.array(file.values).reshape(len(TOKENS), -1)[-1].copy())
        else:
            path.unlink()
    return folder


def spread(values: Values) -> Values:
    """The first token far out, as attention sinks are: spreads over all tokens and of the last one differ."""
    out = values.copy()
    out.reshape(len(TOKENS), -1)[0] *= 100
    return out


def test_all_tokens_against_the_last_one_are_not_compared_where_nothing_proves_positions(tmp_path: Path) -> None:
    """An 18-fold ratio of spreads was all tokens against the last one; like for like it was 1.2."""
    edits = {Node(layer, "ffn_up"): spread for layer in range(CONFIG.layers)}
    a = Capture.open(write_capture(tmp_path / "a", edits=edits))
    b = Capture.open(last_token_only(write_capture(tmp_path / "b", manifest=False, edits=edits)))
    result = compare_captures(a, b, DiffOptions())
    assert (result.verdict, result.compared) == (Verdict.UNKNOWN, 0)
    assert "token ids are not recorded" in result.reasons[0]


def test_the_last_token_is_compared_with_the_last_token_where_the_ids_are_known(tmp_path: Path) -> None:
    edits = {Node(layer, "ffn_up"): spread for layer in range(CONFIG.layers)}
    a = Capture.open(write_capture(tmp_path / "a", edits=edits))
    b = Capture.open(last_token_only(write_capture(tmp_path / "b", manifest=False, edits=edits)))
    result = compare_captures(a, b, DiffOptions(tokens=TOKENS, allow_missing=("attn_s*",)))
    found = stage_of(result, Node(1, "ffn_up"))
    assert found.metrics.sigma_ratio == 1
    assert "the last of A's 5 tokens" in found.matched
    a_spread, b_spread = (float(np.std(np.array(side.values(Node(1, "ffn_up"))))) for side in (a, b))
    assert a_spread > 5 * b_spread, "the ratio that the mistake was made on"


def test_a_large_shared_bias_raises_the_cosine_and_hides_no_drift(tmp_path: Path) -> None:
    """The cosine of the stage behind the bias is better than before it; the error that came in is still there."""
    random = np.random.default_rng(4)
    shape = (len(TOKENS), CONFIG.qkv_width)
    drift = (0.1 * random.standard_normal(shape)).astype(np.float32)
    bias = (50 * random.standard_normal(CONFIG.qkv_width)).astype(np.float32)
    before, after = Node(0, "qkv_matmul"), Node(0, "qkv_bias")
    a = write_capture(tmp_path / "a", edits={after: lambda values: values + bias})
    edits = {before: lambda values: values + drift, after: lambda values: values + bias + drift}
    b = write_capture(tmp_path / "b", edits=edits)
    bounds = Criteria(bounds=lambda node: (Tolerance(Metric.TOKEN_REL_L2, 0.02, 0.01, "3 × the floor"),))
    result = compare_captures(Capture.open(a), Capture.open(b), DiffOptions(), None, bounds)
    cosines = [stage_of(result, node).metrics.cosine or 0 for node in (before, after)]
    assert cosines[0] < 0.999 and cosines[1] > 0.9999
    assert result.verdict is Verdict.FAIL
    assert result.first_divergence is not None and result.first_divergence.verdict.node == before


def test_a_stage_that_one_engine_lacks_is_listed_and_never_scored(tmp_path: Path) -> None:
    """Hugging Face hooks see no sum of the attention and its residual."""
    a = write_capture(tmp_path / "a")
    b = write_capture(tmp_path / "b", manifest=False)
    for layer in range(CONFIG.layers):
        (b / f"layer-{layer}" / "post_attn_residual.bin").unlink()
    result = compare_captures(Capture.open(a), Capture.open(b), DiffOptions(tokens=TOKENS))
    assert {(skip.node.stage, skip.side) for skip in result.skipped} == {("post_attn_residual", "a")}
    assert result.verdict is Verdict.UNKNOWN, "A promised it, and nobody allowed it to be missing"
    allowed = DiffOptions(tokens=TOKENS, allow_missing=("post_attn_residual",))
    assert compare_captures(Capture.open(a), Capture.open(b), allowed).verdict is Verdict.PASS


def test_a_capture_copied_to_another_place_is_the_same_capture(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a")
    shutil.copytree(a, tmp_path / "copy")
    result = compare_captures(Capture.open(a), Capture.open(tmp_path / "copy"), DiffOptions())
    assert result.verdict is Verdict.PASS
    assert all(stage.metrics.equal_bits == 1 for stage in result.stages)
