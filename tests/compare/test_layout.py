"""The same values in another order are recognised, named and compared through; a fault is not explained away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.align.hadamard import hadamard
from aprtui.compare.align.layout import Layout, agreed, legal_layouts, solve_layout
from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import Verdict
from aprtui.trace.capture import Capture
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.ops import Part
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph, graph_for
from tests.compare.synthetic import TOKENS, Edit, Values, write_capture

CONFIG = GraphConfig("qwen2", 3, 64, 4, 2, 16, 48, 40, qkv_bias=True)
GRAPH: StageGraph = graph_for(CONFIG)
DIM, T = CONFIG.head_dim, len(TOKENS)


def candidates(stage: str) -> tuple[Layout, ...]:
    return legal_layouts(GRAPH[stage], GRAPH.rope_parts, CONFIG)


def random(stage: str, seed: int = 0) -> Values:
    return np.random.default_rng(seed).standard_normal(GRAPH[stage].shape(T)).astype(np.float32)


def head_major(values: Values) -> Values:
    """As Hugging Face's `[heads, tokens, dim]`, flat, in the shape of the stage."""
    return values.reshape(T, -1, DIM).swapaxes(0, 1).reshape(values.shape)


def interleaved(values: Values) -> Values:
    """Half-split RoPE pairs written side by side."""
    return values.reshape(T, -1, 2, DIM // 2).swapaxes(2, 3).reshape(values.shape)


def across_groups(values: Values) -> Values:
    heads = values.reshape(T, CONFIG.kv_heads, -1, DIM)
    return heads.swapaxes(1, 2).reshape(values.shape)


REORDERINGS = {
    "head-major": ("q_post_rope", head_major, "head-major [heads, tokens, dim]"),
    "head-major K": ("k_post_rope", head_major, "head-major [heads, tokens, dim]"),
    "interleaved": ("q_post_rope", interleaved, "RoPE pairs interleaved"),
    "both": ("q_post_rope", lambda v: head_major(interleaved(v)), "head-major [heads, tokens, dim], then RoPE"),
    "across groups": ("attention", across_groups, "across the K/V groups"),
    "transposed": ("ffn_up", lambda v: v.T.reshape(v.shape), "channel-major"),
    "key-major": ("attn_softmax", lambda v: v.swapaxes(1, 2), "key-major"),
}


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("name", REORDERINGS)
def test_a_reordering_is_found_named_and_undone(name: str, noise: float) -> None:
    stage, reorder, text = REORDERINGS[name]
    a = random(stage)
    if a.ndim == 3:
        a = np.tril(a)
    b = reorder((a + noise * random(stage, 1)).astype(np.float32))
    if a.ndim == 3:
        assert noise or np.array_equal(np.tril(b.swapaxes(1, 2)), a)
    found = solve_layout(a, np.ascontiguousarray(b), candidates(stage))
    assert found is not None and text in found.text
    back = found.apply(np.ascontiguousarray(b))
    assert np.linalg.norm(back - a) <= 0.2 * np.linalg.norm(a)
    assert noise or np.array_equal(back if a.ndim == 2 else np.tril(back), a)


@pytest.mark.parametrize("stage", ["qkv_matmul", "qkv_bias"])
def test_q_k_and_v_of_each_head_together_are_taken_apart(stage: str) -> None:
    a = random(stage)
    q, k, v = (a[:, CONFIG.part(part)].reshape(T, CONFIG.kv_heads, -1) for part in (Part.Q, Part.K, Part.V))
    b = np.concatenate([q, k, v], axis=2).reshape(a.shape)
    found = solve_layout(a, b, candidates(stage))
    assert found is not None and "of each K/V head together" in found.text
    assert np.array_equal(found.apply(b), a)


@pytest.mark.parametrize("stage", GRAPH.names)
def test_nothing_is_found_between_tensors_that_are_no_reordering(stage: str) -> None:
    """Unrelated values, honest noise, and the same values at other scales: none of them has a layout."""
    for seed in range(20):
        a = random(stage, seed)
        for b in (random(stage, seed + 1000), a + 0.3 * random(stage, seed + 2000), 2 * a, np.zeros_like(a)):
            assert solve_layout(a, b.astype(np.float32), candidates(stage)) is None


def test_attention_that_is_turned_back_later_is_turned_back() -> None:
    config = replace(CONFIG, head_dim=64, hidden=256)
    graph = graph_for(config)
    a = np.random.default_rng(0).standard_normal((T, graph["attention"].width)).astype(np.float32)
    found = solve_layout(a, hadamard(a, 64), legal_layouts(graph["attention"], graph.rope_parts, config))
    assert found is not None and "Walsh-Hadamard" in found.text
    np.testing.assert_allclose(found.apply(hadamard(a, 64)), a, atol=1e-5)
    assert not any(layout.turned for layout in candidates("attention")), "heads of 16 channels are never turned"


def test_a_wrong_rotation_is_no_reordering() -> None:
    """RoPE turned by one position too many keeps all norms and permutes nothing."""
    a = random("q_post_rope")
    angles = 10000.0 ** (-np.arange(0, DIM, 2) / DIM)
    halves = a.reshape(T, -1, 2, DIM // 2).astype(np.float64)
    turned = np.stack(
        [
            halves[:, :, 0] * np.cos(angles) - halves[:, :, 1] * np.sin(angles),
            halves[:, :, 0] * np.sin(angles) + halves[:, :, 1] * np.cos(angles),
        ],
        axis=2,
    )
    assert solve_layout(a, turned.reshape(a.shape).astype(np.float32), candidates("q_post_rope")) is None


def test_most_of_the_layers_decide() -> None:
    layout = Layout("x")
    assert agreed([layout, layout, None]) == layout
    assert agreed([layout, None, None]) is None
    assert agreed([layout, Layout("y")]) is None
    assert agreed([]) is None


def compared(folder: Path, edits: dict[Node, Edit], *, manifest: bool = False) -> Comparison:
    a = write_capture(folder / "a", config=CONFIG)
    b = write_capture(folder / "b", config=CONFIG, manifest=manifest, edits=edits)
    return compare_captures(Capture.open(a), Capture.open(b), DiffOptions(tokens=TOKENS))


def all_layers(stage: str, edit: Edit) -> dict[Node, Edit]:
    return {Node(layer, stage): edit for layer in range(CONFIG.layers)}


def test_a_head_major_capture_of_another_engine_is_compared_through(tmp_path: Path) -> None:
    """As transformers' hooks write q and k: element counts agree, and element by element they are garbage."""
    edits = all_layers("q_post_rope", head_major) | all_layers("k_post_rope", head_major)
    result = compared(tmp_path, edits)
    assert result.verdict is Verdict.PASS
    matched = {stage.node.stage: stage.matched for stage in result.stages}
    assert "B is A permuted: head-major [heads, tokens, dim]" in matched["q_post_rope"]
    assert "permuted" not in matched["ffn_up"]


def test_what_one_layer_alone_would_need_is_a_fault(tmp_path: Path) -> None:
    result = compared(tmp_path, {Node(1, "q_post_rope"): head_major})
    assert result.verdict is Verdict.UNKNOWN
    assert not any("permuted" in stage.matched for stage in result.stages)


def test_captures_that_both_state_their_layout_are_compared_as_they_are(tmp_path: Path) -> None:
    result = compared(tmp_path, all_layers("q_post_rope", head_major), manifest=True)
    assert result.verdict is Verdict.UNKNOWN
    assert not any("permuted" in stage.matched for stage in result.stages)


def test_dimensions_of_heads_are_told_by_the_shapes_where_nobody_states_them(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a", config=CONFIG, manifest=False)
    b = write_capture(tmp_path / "b", config=CONFIG, manifest=False, edits=all_layers("q_post_rope", interleaved))
    result = compare_captures(Capture.open(a), Capture.open(b), DiffOptions(tokens=TOKENS))
    matched = {stage.node.stage: stage.matched for stage in result.stages}
    assert "B is A permuted: RoPE pairs interleaved" in matched["q_post_rope"]


def test_stages_under_each_others_name_are_said_and_not_undone(tmp_path: Path) -> None:
    a = Capture.open(write_capture(tmp_path / "a", config=CONFIG))
    edits: dict[Node, Edit] = {}
    for layer in range(CONFIG.layers):
        gate, up = (np.array(a.values(Node(layer, name))) for name in ("ffn_gate", "ffn_up"))
        edits |= {Node(layer, "ffn_gate"): lambda v, x=up: x, Node(layer, "ffn_up"): lambda v, x=gate: x}  # type: ignore[misc]
    b = Capture.open(write_capture(tmp_path / "b", config=CONFIG, edits=edits))
    result = compare_captures(a, b, DiffOptions())
    assert result.verdict is Verdict.UNKNOWN
    assert any("B's ffn_gate is A's ffn_up" in statement for statement in result.statements)


def test_what_lies_above_the_diagonal_does_not_count(tmp_path: Path) -> None:
    """Some engines leave zeros there, some what they computed before the mask."""
    edits = all_layers("attn_scores", lambda values: values + np.triu(np.ones_like(values), 1))
    result = compared(tmp_path, edits)
    assert result.verdict is Verdict.PASS
