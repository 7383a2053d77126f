"""Replay of captures of a model with experts: honest ones pass, planted faults are named at their own stage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.choice import judge_choice
from aprtui.compare.verdict import Verdict
from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.evaluation.cause_detection import CauseOutcome, CausePlants, cause_outcome
from aprtui.engine.evaluation.planted_causes import PLANTED_CAUSES
from aprtui.engine.faults.faults import FaultInjector, parse_fault
from aprtui.engine.faults.kinds import kinds_at
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import KvType, Logits, Mode
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model.model import Model, load_model
from aprtui.model.weight_types import WeightType
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import ROUTER_CHOICE, Node
from tests.engine.embedded_captures import captured, edit
from tests.engine.replay.own_captures import assert_exactly_zero, assert_passes_below, replayed
from tests.model.gguf_files import write_model
from tests.thinning import crossed

CHOICE = Node(0, ROUTER_CHOICE)


@pytest.fixture(scope="module", params=[WeightType.Q4_K, WeightType.Q8_0, WeightType.Q5_1], ids=lambda kind: kind.name)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("experts") / "model.gguf"
    return load_model(write_model(path, architecture="qwen3moe", weight_type=request.param, experts=10, experts_used=3))


@pytest.fixture(scope="module")
def evaluators(model: Model) -> Iterator[Evaluators]:
    with Evaluators(model) as found:
        yield found


TOKENS = tuple(int(token) for token in np.random.default_rng(3).integers(0, 260, 13))


def with_fault(model: Model, directory: Path, fault: str, mode: Mode) -> Path:
    injector = FaultInjector(model, mode, [parse_fault(fault, model)])
    engine = open_engine(model, mode=mode, kv=KvType.F32, context=64, intervention=injector)
    try:
        write_capture(
            engine, model, CaptureRequest(TOKENS, None, frozenset(model.graph.nodes), logits=Logits.LAST), directory
        )
    finally:
        engine.close()
    return directory


def test_replay_of_an_own_exact_capture_is_exactly_zero(model: Model, evaluators: Evaluators, tmp_path: Path) -> None:
    assert_exactly_zero(replayed(model, evaluators, captured(model, tmp_path / "own", tokens=TOKENS)))


@pytest.mark.parametrize("kv", list(KvType))
def test_an_honest_q8_capture_passes_far_below_its_bound(
    model: Model, evaluators: Evaluators, tmp_path: Path, kv: KvType
) -> None:
    assert_passes_below(replayed(model, evaluators, captured(model, tmp_path / "q8", Mode.Q8, kv, tokens=TOKENS)), 1e-6)


def test_a_capture_states_the_rows_of_experts_one_by_one(model: Model, tmp_path: Path) -> None:
    manifest = Capture.open(captured(model, tmp_path / "own", tokens=TOKENS)).manifest
    assert manifest is not None
    info = manifest.files["layer-1/ffn_moe_down.bin"]
    assert (info.shape, info.axes) == ((13, 3, 256), ("token", "expert", "channel"))
    assert info.row_shape == (13, 768)


FAULTS = [
    ("moe_router_indices", "wrong-expert"),
    ("ffn_moe_weights_norm", "router-unnormalised"),
    ("ffn_moe_gate", "gate-up-swap"),
    ("ffn_moe_down", "noise,magnitude=0.001"),
    ("moe_ffn_out", "scale,magnitude=0.001"),
    ("ffn_moe_up", "stale-token"),
]


@pytest.mark.parametrize(("fault", "mode"), crossed(FAULTS, Mode))
def test_a_planted_fault_is_named_at_its_own_stage(
    model: Model, evaluators: Evaluators, tmp_path: Path, fault: tuple[str, str], mode: Mode
) -> None:
    stage, kind = fault
    directory = with_fault(model, tmp_path / "bad", f"layer=1,stage={stage},kind={kind}", mode)
    result = replayed(model, evaluators, directory)
    failed = [found.node for found in result.stages if found.verdict.verdict is Verdict.FAIL]
    assert failed == [Node(1, stage)]


def test_no_fault_makes_numbers_of_indices(model: Model) -> None:
    assert kinds_at(model, CHOICE) == ("wrong-expert",)


def test_an_index_that_is_no_expert_is_a_misfit(model: Model, evaluators: Evaluators, tmp_path: Path) -> None:
    directory = captured(model, tmp_path / "odd", tokens=TOKENS)
    (directory / "manifest.json").unlink()

    def change(values: np.ndarray) -> None:
        values[2] = 10

    edit(directory, CHOICE, change)
    result = replay_capture(Capture.open(directory), model, ReplayOptions(tokens=TOKENS), evaluators)
    reasons = {skipped.node: skipped.reason for skipped in result.skipped}
    assert reasons[CHOICE] == "holds what is no expert: the model has 10"
    assert result.verdict is not Verdict.PASS


ROUTER = np.array([[0.4, 0.3, 0.3 * (1 - 1e-7), 0.1]], np.float32)


@pytest.mark.parametrize(
    ("chosen", "verdict"),
    [([0, 1], Verdict.PASS), ([0, 2], Verdict.PASS), ([0, 3], Verdict.FAIL), ([1, 0], Verdict.FAIL),
     ([0, 0], Verdict.FAIL)],
)  # fmt: skip
def test_a_choice_between_equally_probable_experts_is_no_fault(chosen: list[int], verdict: Verdict) -> None:
    expected, found = np.array([[0, 1]], np.float32), np.array([chosen], np.float32)
    assert judge_choice(CHOICE, expected, found, ROUTER, ROUTER).verdict is verdict


def test_an_expert_that_is_chosen_twice_is_a_fault_however_close_the_router() -> None:
    router = np.full((1, 4), 0.25, np.float32)
    expected, twice = np.array([[0, 1]], np.float32), np.array([[1, 1]], np.float32)
    assert judge_choice(CHOICE, expected, twice, router, router).verdict is Verdict.FAIL


def test_a_choice_that_follows_from_another_router_is_no_fault_of_its_own() -> None:
    a, b = np.array([[0.4, 0.31, 0.29]], np.float32), np.array([[0.4, 0.29, 0.31]], np.float32)
    of_a, of_b = np.array([[0, 1]], np.float32), np.array([[0, 2]], np.float32)
    assert judge_choice(CHOICE, of_a, of_b, a, b).verdict is Verdict.PASS
    assert judge_choice(CHOICE, of_a, of_b, a, a).verdict is Verdict.FAIL
    assert judge_choice(CHOICE, of_a, np.array([[0, 7]], np.float32), a, b).verdict is Verdict.FAIL


def test_an_honest_pair_whose_choices_differ_passes_and_a_wrong_expert_fails(model: Model, tmp_path: Path) -> None:
    a = Capture.open(captured(model, tmp_path / "exact", tokens=TOKENS))
    b = Capture.open(captured(model, tmp_path / "q8", Mode.Q8, tokens=TOKENS))
    bad = Capture.open(
        with_fault(model, tmp_path / "bad", "layer=1,stage=moe_router_indices,kind=wrong-expert", Mode.Q8)
    )

    def verdicts(other: Capture) -> dict[Node, Verdict]:
        found = compare_captures(a, other, DiffOptions())
        return {stage.node: stage.verdict.verdict for stage in found.stages if stage.node.stage == ROUTER_CHOICE}

    assert verdicts(b) == {Node(0, ROUTER_CHOICE): Verdict.PASS, Node(1, ROUTER_CHOICE): Verdict.PASS}
    assert verdicts(bad) == {Node(0, ROUTER_CHOICE): Verdict.PASS, Node(1, ROUTER_CHOICE): Verdict.FAIL}


@pytest.mark.parametrize("decoding", [{"prefill": 4}, {"generate": 3}], ids=str)
def test_a_decoded_capture_holds_what_experts_computed_token_by_token(
    model: Model, evaluators: Evaluators, tmp_path: Path, decoding: dict[str, Any]
) -> None:
    assert_exactly_zero(replayed(model, evaluators, captured(model, tmp_path / "own", tokens=TOKENS, **decoding)))


@pytest.mark.parametrize("name", ["experts: added up without weights", "experts: matrices of the next one"])
def test_the_cause_of_a_planted_fault_is_proved(
    name: str, model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:
    planted = PLANTED_CAUSES[name]
    node = planted.nodes(model)[0]
    result = CausePlants(model, TOKENS, evaluators, tmp_path).replayed(node, planted)
    assert result is not None and cause_outcome(result, planted) is CauseOutcome.PROVED
