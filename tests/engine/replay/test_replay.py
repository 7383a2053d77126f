"""Replay names the stage that injects error, and no other, with one capture and its model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.align.coverage import Selection
from aprtui.compare.comparison import Comparison, ErrorState
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.verdict import Verdict
from aprtui.engine.floors.perturbed import perturbed
from aprtui.engine.protocol import KvType, Mode
from aprtui.engine.reference.evaluate import NumpyNodes
from aprtui.engine.replay.arithmetic import matmul_rounding
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model.model import Model
from aprtui.model.weight_types import WeightType
from aprtui.trace.capture import Capture
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import ENTRY, Node
from aprtui.trace.manifest import relative_path
from tests.engine.embedded_captures import TOKENS, captured, edit
from tests.engine.tiny_model import random_weight

Replay = Callable[..., Comparison]
HIDDEN = 256


def test_replay_of_an_own_exact_capture_is_exactly_zero(replay: Replay, exact: Path) -> None:
    result = replay(exact)
    assert result.verdict is Verdict.PASS
    assert result.compared == result.expected == len(result.stages)
    assert all(stage.metrics.equal_bits == 1 for stage in result.stages)


def test_replay_of_a_decoded_capture_is_exactly_zero(replay: Replay, model: Model, tmp_path: Path) -> None:
    directory = captured(model, tmp_path / "decoded", prefill=4)
    assert all(stage.metrics.equal_bits == 1 for stage in replay(directory).stages)


@pytest.mark.parametrize("kv", list(KvType))
def test_an_honest_q8_capture_passes_far_below_its_bound(
    replay: Replay, model: Model, tmp_path: Path, kv: KvType
) -> None:
    result = replay(captured(model, tmp_path / "q8", Mode.Q8, kv))
    assert result.verdict is Verdict.PASS
    assert max(stage.verdict.error or 0 for stage in result.stages) < 1e-6
    assert all(stage.verdict.floor is not None for stage in result.stages)


def test_rounding_is_found_where_no_manifest_states_it(replay: Replay, model: Model, tmp_path: Path) -> None:
    directory = captured(model, tmp_path / "q8", Mode.Q8, KvType.F16)
    (directory / "manifest.json").unlink()
    result = replay(directory)
    assert result.verdict is Verdict.PASS
    (statement,) = result.statements
    assert "found by trying" in statement
    assert "matmul_input=q8, kv_cache=f16" in statement


def test_stated_rounding_is_taken_at_its_word(replay: Replay, q8: Path) -> None:
    result = replay(q8, rounding={"matmul_input": "none"})
    assert result.verdict is Verdict.UNKNOWN, "every matrix product is off: that is no fault of one stage"
    assert "--rounding" in result.statements[0]


def test_tokens_are_found_in_the_table_where_nobody_records_them(replay: Replay, without_manifest: Path) -> None:
    result = replay(without_manifest)
    assert result.verdict is Verdict.PASS
    assert result.alignment.aligned == len(TOKENS)
    assert "table" in str(result.alignment.sources[0])


def test_without_tokens_nothing_is_judged(replay: Replay, without_manifest: Path) -> None:
    (without_manifest / relative_path(Node(0, ENTRY))).unlink()
    result = replay(without_manifest)
    assert (result.verdict, result.compared) == (Verdict.UNKNOWN, 0)
    assert "--tokens" in result.reasons[0]


@pytest.mark.parametrize(
    "node", [Node(0, "attn_norm"), Node(1, "attn_softmax"), Node(3, "ffn_up"), Node(None, "lm_head")]
)
def test_a_stage_changed_by_more_than_its_bound_is_named_with_its_token(
    replay: Replay, without_manifest: Path, node: Node
) -> None:
    def change(values: np.ndarray) -> None:
        values[:] *= np.float32(1 + 1e-5)

    edit(without_manifest, node, change)
    result = replay(without_manifest)
    assert result.verdict is Verdict.FAIL
    divergence = result.first_divergence
    assert divergence is not None and divergence.verdict.node == node
    assert (divergence.state, divergence.segment) == (ErrorState.INJECTED, (node,))
    assert divergence.certainty.startswith("certain")


def test_the_first_wrong_token_and_channel_are_named(replay: Replay, without_manifest: Path) -> None:
    def change(values: np.ndarray) -> None:
        rows = values.reshape(len(TOKENS), -1)
        rows[5, 17] += 1
        rows[9, 3] += 2

    edit(without_manifest, Node(2, "ffn_gate"), change)
    divergence = replay(without_manifest).first_divergence
    assert divergence is not None
    assert divergence.place == {"token": 5, "channel": 17}


def test_a_stage_behind_the_fault_is_innocent(replay: Replay, model: Model, without_manifest: Path) -> None:
    """What reads the changed stage gives other values than were captured; everything else passes."""
    edit(without_manifest, Node(2, "ffn_gate"), lambda values: values * np.float32(1.5))
    failed = {s.node for s in replay(without_manifest).stages if s.verdict.verdict is Verdict.FAIL}
    assert failed == {Node(2, "ffn_gate"), Node(2, "ffn_silu")}


def test_nan_is_named_where_it_appears_first(replay: Replay, without_manifest: Path) -> None:
    def change(values: np.ndarray) -> None:
        values[-1] = np.nan

    edit(without_manifest, Node(1, "attention"), change)
    divergence = replay(without_manifest).first_divergence
    assert divergence is not None
    assert divergence.verdict.node == Node(1, "attention")
    assert divergence.verdict.metric is Metric.NON_FINITE


def test_a_capture_of_nothing_but_nan_does_not_pass(replay: Replay, model: Model, without_manifest: Path) -> None:
    for node in model.graph.nodes:
        if node.stage != ENTRY:
            edit(without_manifest, node, lambda values: np.full_like(values, np.nan))
    assert replay(without_manifest).verdict is not Verdict.PASS


def test_an_uncaptured_stage_is_evaluated_through_and_the_segment_named(replay: Replay, without_manifest: Path) -> None:
    (without_manifest / relative_path(Node(2, "ffn_norm"))).unlink()
    edit(without_manifest, Node(2, "ffn_gate"), lambda values: values * np.float32(1.5))
    result = replay(without_manifest)
    divergence = result.first_divergence
    assert divergence is not None
    assert divergence.segment == (Node(2, "ffn_norm"), Node(2, "ffn_gate"))
    assert "segment" in divergence.certainty


def test_a_capture_of_few_stages_is_replayed_from_the_tokens(replay: Replay, model: Model, tmp_path: Path) -> None:
    nodes = frozenset({Node(1, "ffn_out"), Node(None, "lm_head")})
    result = replay(captured(model, tmp_path / "few", nodes=nodes))
    assert (result.verdict, result.compared, result.expected) == (Verdict.PASS, 2, 2)
    assert all(stage.metrics.equal_bits == 1 for stage in result.stages)


def test_a_selection_is_all_that_is_replayed(replay: Replay, exact: Path) -> None:
    result = replay(exact, selection=Selection("ffn_*", "1..3"))
    assert {stage.node.layer for stage in result.stages} == {1, 2}
    assert all(stage.node.stage.startswith("ffn_") for stage in result.stages)


def test_weights_of_another_model_are_not_called_a_fault(model: Model, exact: Path) -> None:
    other = perturbed(model, seed=1)
    evaluator = NumpyNodes(other)
    result = replay_capture(Capture.open(exact), other, ReplayOptions(), lambda angles: evaluator)
    assert result.verdict is Verdict.UNKNOWN
    assert "weights are not those of MODEL" in " ".join(result.reasons)
    wrong = {stage.node for stage in result.stages if stage.verdict.verdict is not Verdict.PASS}
    assert {node for node in model.graph.nodes if model.graph[node.stage].op is Op.MATMUL} <= wrong


def test_a_file_of_another_size_is_listed_and_never_scored(replay: Replay, without_manifest: Path) -> None:
    edit(without_manifest, Node(1, "ffn_up"), lambda values: values[:-1])
    result = replay(without_manifest)
    assert [(skip.node, "holds" in skip.reason) for skip in result.skipped] == [(Node(1, "ffn_up"), True)]
    assert result.verdict is Verdict.UNKNOWN


def test_a_stage_of_the_last_position_only_is_replayed_there(replay: Replay, without_manifest: Path) -> None:
    node = Node(3, "ffn_out")
    edit(without_manifest, node, lambda values: values[-HIDDEN:])
    assert replay(without_manifest).verdict is Verdict.PASS
    edit(without_manifest, node, lambda values: values * np.float32(1.1))
    divergence = replay(without_manifest).first_divergence
    assert divergence is not None
    assert (divergence.verdict.node, divergence.place["token"]) == (node, len(TOKENS) - 1)


@pytest.mark.parametrize(
    ("stated", "kind", "rounds"),
    [
        ("q8_0+q8_k", WeightType.Q4_K, "q8_k"),
        ("q8_0+q8_k", WeightType.Q8_0, "q8_0"),
        ("q8", WeightType.F16, "f16"),
        ("none+q8_1", WeightType.Q4_K, "q8_1"),
        ("none+q8_1", WeightType.F16, "none"),
        ("none+q8_1", WeightType.F32, "none"),
        ("q8_1", WeightType.Q6_K, "q8_1"),
        ("bf16", WeightType.Q4_K, "bf16"),
    ],
)
def test_of_several_stated_roundings_a_weight_takes_the_one_of_its_type(
    stated: str, kind: WeightType, rounds: str
) -> None:
    weight = random_weight(np.random.default_rng(1), "w", kind, 1, 256)
    assert matmul_rounding(stated, weight) == rounds
