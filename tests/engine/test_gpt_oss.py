"""The ops of gpt-oss: a softmax with sinks, and the clamped SwiGLU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import KvType, Mode
from aprtui.engine.reference import ops
from aprtui.model.model import load_model
from aprtui.model.weight_types import WeightType
from aprtui.model.weights import Weight
from aprtui.trace.graph.stage import Node
from aprtui.trace.manifest import relative_path
from tests.data.gpt_oss.sampling import MODEL, TOKENS, sampled
from tests.engine.conformance import record, relative_l2
from tests.model.gguf_files import write_model

DATA = Path(__file__).parent.parent / "data" / "gpt_oss"


def sinks_of(*logits: float) -> Weight:
    values = np.array([logits], np.float32)
    return Weight("blk.0.attn_sinks.weight", WeightType.F32, 1, len(logits), values.view(np.uint8))


def test_a_sink_is_a_key_whose_probability_is_dropped() -> None:
    scores = np.tril(np.random.default_rng(0).standard_normal((2, 5, 5)).astype(np.float32))
    found = ops.softmax(scores, sinks=sinks_of(0.3, -1.2))
    for head, logit in enumerate((0.3, -1.2)):
        for query in range(5):
            powers = np.exp(np.append(scores[head, query, : query + 1], logit).astype(np.float64))
            np.testing.assert_allclose(found[head, query, : query + 1], (powers / powers.sum())[:-1], rtol=1e-6)
    assert not found[:, 0, 1:].any()


def test_a_sink_does_not_depend_on_the_window() -> None:
    scores = np.zeros((1, 4, 4), np.float32)
    np.testing.assert_allclose(ops.softmax(scores, 2, sinks_of(0.0))[0, 3], [0, 0, 1 / 3, 1 / 3], rtol=1e-6)


def test_a_sink_far_above_or_below_the_scores_overflows_nothing() -> None:
    scores = np.full((2, 2, 2), 50, np.float32)
    found = ops.softmax(scores, sinks=sinks_of(900.0, -900.0))
    assert not found[0].any()
    np.testing.assert_array_equal(found[1], [[1, 0], [0.5, 0.5]])


def test_swiglu_of_gpt_oss_is_clamped_and_adds_one() -> None:
    """Numbers by `GptOssExperts._apply_gate` of transformers 5.18."""
    gate = np.array([-9, -1, 0.5, 3, 7, 12, 12], np.float32)
    up = np.array([1, -2, 0.25, -9, 9, -1, 2], np.float32)
    limited = np.minimum(gate, 7)
    expected = (np.clip(up, -7, 7) + 1) * limited / (1 + np.exp(-1.702 * limited.astype(np.float64)))
    np.testing.assert_allclose(ops.swiglu_oai(gate, up), expected, rtol=1e-6)
    assert np.isnan(ops.swiglu_oai(np.array([np.nan, 1], np.float32), np.array([1, np.nan], np.float32))).all()


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_every_stage_is_that_of_transformers(tmp_path: Path, backend: str) -> None:
    """`tests/data/gpt_oss/make_golden.py` says how the golden values were made."""
    golden = json.loads((DATA / "golden.json").read_text())
    model = load_model(write_model(tmp_path / "model.gguf", **MODEL))
    found = record(open_engine(model, backend=backend, mode=Mode.EXACT, kv=KvType.F32, context=64), list(TOKENS))
    nodes = {relative_path(node).removesuffix(".bin"): node for node in model.graph.nodes}
    assert len(golden) == 2 * 13 + 3
    for path, values in golden.items():
        expected, ours = np.array(values), np.array(sampled(path, found.tensor(nodes[path])))
        assert np.linalg.norm(ours - expected) <= 1e-5 * np.linalg.norm(expected), path


@pytest.mark.parametrize("mode", list(Mode))
def test_clamps_and_sinks_are_at_work_in_the_test_model_and_both_engines_agree(tmp_path: Path, mode: Mode) -> None:
    model = load_model(write_model(tmp_path / "model.gguf", architecture="gpt-oss", weight_type=WeightType.MXFP4))
    tokens = [int(token) for token in np.random.default_rng(5).integers(0, 260, 24)]
    fast, plain = (record(open_engine(model, backend=name, mode=mode, context=32), tokens) for name in ("cpu", "numpy"))
    assert (fast.tensor(Node(0, "ffn_moe_gate_biased")) > ops.SWIGLU_LIMIT).any()
    assert (np.abs(fast.tensor(Node(1, "ffn_moe_up_biased"))) > ops.SWIGLU_LIMIT).any()
    assert (fast.tensor(Node(0, "attn_softmax")).sum(-1) < 0.99).all()
    for node in model.graph.nodes:
        # In q8 a difference in the last bit flips a rounding now and then.
        bound = 1e-5 if mode is Mode.EXACT else 2e-2
        assert relative_l2(fast.tensor(node), plain.tensor(node)) <= bound, node
