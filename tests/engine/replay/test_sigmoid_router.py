"""Replay of layers whose router takes a sigmoid and has a bias, behind a leading layer without experts (glm4moe)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.choice import judge_choice
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
from aprtui.trace.graph.stage import ROUTER_CHOICE, Node
from tests.engine.embedded_captures import captured
from tests.engine.replay.own_captures import assert_exactly_zero, assert_passes_below, replayed
from tests.engine.replay.test_recurrence import failed
from tests.model.gguf_files import write_model

TOKENS = tuple(int(token) for token in np.random.default_rng(5).integers(0, 260, 9))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("sigmoid") / "model.gguf"
    return load_model(
        write_model(
            path, architecture="glm4moe", weight_type=WeightType.Q8_0, hidden=64, heads=2, kv_heads=1, experts=10,
            experts_used=4,
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def evaluators(model: Model) -> Iterator[Evaluators]:
    with Evaluators(model) as found:
        yield found


def test_replay_of_an_own_exact_capture_is_exactly_zero(model: Model, evaluators: Evaluators, tmp_path: Path) -> None:
    assert_exactly_zero(replayed(model, evaluators, captured(model, tmp_path / "own", tokens=TOKENS, prefill=4)))


def test_an_honest_q8_capture_passes_far_below_its_bound(
    model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:  # fmt: skip
    directory = captured(model, tmp_path / "q8", Mode.Q8, KvType.F16, tokens=TOKENS)
    assert_passes_below(replayed(model, evaluators, directory), 1.5e-6)


@pytest.mark.parametrize(
    ("layer", "stage", "kind"),
    [
        (0, "ffn_out", "scale,magnitude=0.001"),
        (1, "moe_router", "stale-token"),
        (1, "ffn_moe_probs_biased", "bias-dropped"),
        (1, "moe_router_indices", "wrong-expert"),
        (1, "ffn_moe_weights_norm", "router-unnormalised"),
        (1, "ffn_moe_weights_scaled", "experts-unscaled"),
        (1, "ffn_shexp_sum", "residual-dropped"),
    ],
)
def test_a_planted_fault_is_named_at_its_own_stage(
    model: Model, evaluators: Evaluators, tmp_path: Path, layer: int, stage: str, kind: str
) -> None:
    injector = FaultInjector(model, Mode.EXACT, [parse_fault(f"layer={layer},stage={stage},kind={kind}", model)])
    request = CaptureRequest(TOKENS, None, frozenset(model.graph.nodes), logits=Logits.LAST)
    with closing(open_engine(model, mode=Mode.EXACT, kv=KvType.F32, context=64, intervention=injector)) as engine:
        write_capture(engine, model, request, tmp_path / "bad")
    assert failed(replayed(model, evaluators, tmp_path / "bad")) == [Node(layer, stage)]


@pytest.mark.parametrize(
    "name",
    [
        "experts: the router's bias in their weights",
        "experts: weights not scaled",
        "router: softmax for the sigmoid",
    ],
)
def test_the_cause_of_a_planted_fault_is_proved(
    name: str, model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:
    planted = PLANTED_CAUSES[name]
    (node,) = planted.nodes(model)
    result = CausePlants(model, TOKENS, evaluators, tmp_path).replayed(node, planted)
    assert result is not None and cause_outcome(result, planted) is CauseOutcome.PROVED


@pytest.mark.parametrize(
    ("chosen", "verdict"),
    [([0, 1], Verdict.PASS), ([1, 0], Verdict.PASS), ([2, 0], Verdict.PASS), ([0, 3], Verdict.FAIL),
     ([1, 1], Verdict.FAIL)],
)  # fmt: skip
def test_the_order_of_the_chosen_ones_is_no_fault_where_what_follows_is_judged_by_it(
    chosen: list[int], verdict: Verdict
) -> None:
    router = np.array([[0.4, 0.3, 0.3 * (1 - 1e-7), 0.1]], np.float32)
    expected, found = np.array([[0, 1]], np.float32), np.array([chosen], np.float32)
    node = Node(1, ROUTER_CHOICE)
    assert judge_choice(node, expected, found, router, router, any_order=True).verdict is verdict
