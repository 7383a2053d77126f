"""Replay of recurrent layers like those of Qwen3-Next: beta and alpha of one product, value heads by key head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.verdict import Verdict
from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.evaluation.cause_detection import CauseOutcome, CausePlants, cause_outcome
from aprtui.engine.evaluation.planted_causes import PLANTED_CAUSES
from aprtui.engine.faults.faults import FaultInjector, parse_fault
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import KvType, Logits, Mode
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.model.model import Model, load_model
from aprtui.model.weight_types import WeightType
from aprtui.trace.graph.stage import Node
from tests.engine.embedded_captures import captured
from tests.engine.replay.own_captures import assert_exactly_zero, assert_passes_below, replayed
from tests.engine.replay.test_recurrence import failed, without_manifest
from tests.model.gguf_files import write_model

TOKENS = tuple(int(token) for token in np.random.default_rng(5).integers(0, 260, 9))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("grouped") / "model.gguf"
    return load_model(
        write_model(path, architecture="qwen3next", weight_type=WeightType.Q8_0, hidden=64, heads=2, kv_heads=1)
    )


@pytest.fixture(scope="module")
def evaluators(model: Model) -> Iterator[Evaluators]:
    with Evaluators(model) as found:
        yield found


@pytest.fixture(scope="module")
def own(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return captured(model, tmp_path_factory.mktemp("own") / "own", tokens=TOKENS, prefill=4)


def test_replay_of_an_own_exact_capture_is_exactly_zero(model: Model, evaluators: Evaluators, own: Path) -> None:
    assert_exactly_zero(replayed(model, evaluators, own))


def test_an_honest_q8_capture_passes_far_below_its_bound(
    model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:  # fmt: skip
    directory = captured(model, tmp_path / "q8", Mode.Q8, KvType.F16, tokens=TOKENS)
    assert_passes_below(replayed(model, evaluators, directory), 1.5e-6)


@pytest.mark.parametrize(
    ("stage", "kind"),
    [
        ("linear_attn_mixed_ba", "scale,magnitude=0.001"),
        ("linear_attn_beta", "head-swap"),
        ("linear_attn_alpha", "stale-token"),
    ],
)
def test_a_planted_fault_is_named_at_its_own_stage(
    model: Model, evaluators: Evaluators, tmp_path: Path, stage: str, kind: str
) -> None:
    injector = FaultInjector(model, Mode.EXACT, [parse_fault(f"layer=0,stage={stage},kind={kind}", model)])
    request = CaptureRequest(TOKENS, None, frozenset(model.graph.nodes), logits=Logits.LAST)
    with closing(open_engine(model, mode=Mode.EXACT, kv=KvType.F32, context=64, intervention=injector)) as engine:
        write_capture(engine, model, request, tmp_path / "bad")
    assert failed(replayed(model, evaluators, tmp_path / "bad")) == [Node(0, stage)]


@pytest.mark.parametrize(
    "name",
    [
        "recurrence: beta and alpha exchanged",
        "recurrence: all betas before all alphas",
        "recurrence: key heads in the other order",
    ],
)
def test_the_cause_of_a_planted_fault_is_proved(
    name: str, model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:
    planted = PLANTED_CAUSES[name]
    plants = CausePlants(model, TOKENS, evaluators, tmp_path)
    for node in planted.nodes(model):
        result = plants.replayed(node, planted)
        assert result is not None and cause_outcome(result, planted) is CauseOutcome.PROVED, node


def test_an_engine_that_counts_value_heads_across_the_key_heads_is_recognised(
    model: Model, evaluators: Evaluators, own: Path, tmp_path: Path
) -> None:
    config = replace(model.config.graph, grouped_value_heads=False)
    halves = {"linear_attn_mixed_ba", "linear_attn_beta", "linear_attn_alpha"}
    kept = tuple(node for node in model.graph.nodes if node.stage not in halves)
    foreign = without_manifest(own, tmp_path / "foreign", kept=kept, as_transformers=config)
    result = replayed(model, evaluators, foreign)
    assert result.verdict is Verdict.PASS, (failed(result), result.statements)
    assert any("across the key heads" in said for said in result.statements)
