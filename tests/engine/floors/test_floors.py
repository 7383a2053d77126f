"""Noise floors: measured on the model itself, of the right kind, and enough for honest engines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.comparison import Comparison
from aprtui.compare.floor import reference_criteria
from aprtui.compare.metrics.measure import compare_values
from aprtui.compare.verdict import ROUNDING_REL_L2, Verdict
from aprtui.engine.floors.criteria import criteria_by_model
from aprtui.engine.floors.measure import arithmetic_floor, flip_floors, run_forward, weight_floor
from aprtui.engine.floors.perturbed import perturbed
from aprtui.engine.protocol import KvType, Mode, Rounding
from aprtui.engine.replay.arithmetic import UNROUNDED, Recomputation
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.model.model import Model, load_model
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import ENTRY, Node
from tests.engine.embedded_captures import TOKENS, captured, edit
from tests.model.gguf_files import write_model

Q8 = Rounding("q8", "f32", "f32-recurrence")
MIXED_TOKENS = tuple(int(token) for token in np.random.default_rng(3).integers(0, 256, 8))


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Floors are measured again in every test."""
    monkeypatch.setattr("aprtui.engine.floors.criteria.floor_cache", lambda: tmp_path / "floors")


def by_model(a: Path, b: Path, model: Model, evaluators: Evaluators) -> Comparison:
    left, right = Capture.open(a), Capture.open(b)
    criteria = criteria_by_model(left, right, model, TOKENS, evaluators)
    return compare_captures(left, right, DiffOptions(tokens=TOKENS), None, criteria)


def test_engines_of_float32_differ_by_float32_rounding(model: Model, evaluators: Evaluators) -> None:
    floors = arithmetic_floor(model, TOKENS, (UNROUNDED, UNROUNDED), evaluators)
    assert set(floors) == set(model.graph.nodes)
    assert 0 < max(floors.values()) < ROUNDING_REL_L2


def test_rounded_inputs_are_seen_from_the_first_matrix_product_on(model: Model, evaluators: Evaluators) -> None:
    floors = arithmetic_floor(model, TOKENS, (UNROUNDED, Q8), evaluators)
    assert floors[Node(0, "attn_norm")] < ROUNDING_REL_L2
    assert 3e-3 < floors[Node(0, "qkv_matmul")] < 3e-2
    assert floors[Node(None, "lm_head")] > floors[Node(0, "qkv_matmul")]


def test_where_roundings_may_flip_the_floor_grows_with_every_rounded_tensor(model: Model) -> None:
    floors = flip_floors(model, (Q8, Q8))
    assert floors[Node(0, "attn_norm")] == 0
    assert 0 < floors[Node(0, "qkv_matmul")] < floors[Node(0, "ffn_out")] < floors[Node(None, "lm_head")] < 0.02
    assert set(flip_floors(model, (UNROUNDED, UNROUNDED)).values()) == {0.0}


def test_between_engines_that_round_alike_flips_may_add_up_to_what_rounding_costs(
    model: Model, evaluators: Evaluators
) -> None:
    """Once a rounding has flipped, two honest engines may part as far as either is from float32."""
    alike = arithmetic_floor(model, TOKENS, (Q8, Q8), evaluators)
    cost = arithmetic_floor(model, TOKENS, (UNROUNDED, Q8), evaluators)
    for node in (Node(1, "ffn_out"), Node(3, "attn_out"), Node(None, "lm_head")):
        assert 3 * alike[node] > 1.41 * 0.9 * cost[node]


def test_where_a_token_gets_other_experts_the_floor_is_of_its_logits_too(tmp_path: Path) -> None:
    """Captures with logits of all positions: at one of them engines of two roundings choose other experts."""
    model = load_model(write_model(tmp_path / "model.gguf", architecture="qwen3moe"))
    tokens, head = MIXED_TOKENS, Node(None, "lm_head")
    with Evaluators(model) as evaluators:
        exact, rounded = (
            dict(run_forward(model, tokens, Recomputation(model, rounding, evaluators), None, range(len(tokens) - 1)))
            for rounding in (UNROUNDED, Q8)
        )
        last, all_logits = (
            arithmetic_floor(model, tokens, (UNROUNDED, Q8), evaluators, all_logits=given)[head]
            for given in (False, True)
        )
    worst = compare_values(exact[head], rounded[head]).token_rel_l2
    assert worst is not None
    assert 3 * last < worst
    assert all_logits == pytest.approx(worst, rel=1e-3)


def test_floors_are_the_same_at_every_measurement(model: Model, evaluators: Evaluators) -> None:
    pair = (UNROUNDED, Q8)
    assert arithmetic_floor(model, TOKENS, pair, evaluators) == arithmetic_floor(model, TOKENS, pair, evaluators)


@pytest.mark.parametrize(
    ("mode", "kv"), [(Mode.Q8, KvType.F32), (Mode.Q8, KvType.F16), (Mode.EXACT, KvType.F16), (Mode.Q8, KvType.Q4_0)]
)
def test_an_honest_engine_passes_against_the_exact_one(
    model: Model, evaluators: Evaluators, exact: Path, tmp_path: Path, mode: Mode, kv: KvType
) -> None:
    result = by_model(exact, captured(model, tmp_path / "b", mode, kv), model, evaluators)
    assert result.verdict is Verdict.PASS
    assert all(stage.verdict.floor is not None and stage.verdict.bound is not None for stage in result.stages)
    assert any("what differs: the arithmetic" in statement for statement in result.statements)


def test_a_fault_beyond_the_bound_is_named_between_engines_of_other_rounding(
    model: Model, evaluators: Evaluators, exact: Path, q8: Path, tmp_path: Path
) -> None:
    fault, copy = Node(2, "attn_out"), tmp_path / "b"
    captured(model, copy, Mode.Q8)
    (copy / "manifest.json").unlink()
    edit(copy, fault, lambda values: values * np.float32(1.6))
    divergence = by_model(exact, copy, model, evaluators).first_divergence
    assert divergence is not None
    assert divergence.verdict.node == fault
    assert "certain" in divergence.certainty and "injected in B" in divergence.verdict.reason


def test_a_fault_that_is_small_against_the_floor_is_named_by_its_own_inputs(
    model: Model, evaluators: Evaluators, exact: Path, tmp_path: Path
) -> None:
    """Inputs of 8 bits part two engines by more than a small fault does, which a replay of either side alone sees."""
    fault, copy = Node(2, "ffn_out"), captured(model, tmp_path / "b", Mode.Q8)
    (copy / "manifest.json").unlink()
    edit(copy, fault, lambda values: values * np.float32(1.001))
    divergence = by_model(exact, copy, model, evaluators).first_divergence
    assert divergence is not None and divergence.verdict.node == fault
    backwards = by_model(copy, exact, model, evaluators).first_divergence
    assert backwards is not None and backwards.verdict.node == fault
    assert "injected in A" in backwards.verdict.reason


def test_other_weights_get_an_estimated_floor_of_their_own_kind(
    model: Model, evaluators: Evaluators, exact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The capture of a model that differs within a quantisation step is no fault, and no arithmetic floor admits it.

    It passes only where its manifest states that it has another model: else a wide floor might hide a fault.
    """
    other = forward_capture(perturbed(model, 99), tmp_path / "other")
    result = by_model(exact, other, model, evaluators)
    assert result.verdict is Verdict.UNKNOWN
    assert "B: all 21 matrix products err alike" in result.reasons[0]
    assert {stage.verdict.verdict for stage in result.stages} == {Verdict.PASS}
    monkeypatch.setattr("aprtui.engine.floors.own_errors.states_weights", lambda capture, model: False)
    assert by_model(exact, other, model, evaluators).verdict is Verdict.PASS
    assert any("estimated" in statement for statement in result.statements)
    arithmetic = arithmetic_floor(model, TOKENS, (UNROUNDED, UNROUNDED), evaluators)
    errors = {stage.node: stage.metrics.token_rel_l2 or 0 for stage in result.stages}
    assert errors[Node(1, "ffn_out")] > 1000 * arithmetic[Node(1, "ffn_out")]
    cosines = [stage.metrics.cosine or 0 for stage in result.stages if stage.node.stage == "attn_out"]
    assert min(cosines) < 0.9966, "what a rule of cosine 0.999 calls a bug"


def test_weights_of_another_quantization_may_be_coarser_and_are_no_fault_for_it(
    model: Model, evaluators: Evaluators, exact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, other = Capture.open(exact), Capture.open(forward_capture(perturbed(model, 99), tmp_path / "other"))

    def limits(quantization: str) -> tuple[float, float | None]:
        monkeypatch.setattr("aprtui.engine.floors.criteria._quantization", lambda capture: quantization)
        criteria = criteria_by_model(reference, other, model, TOKENS, evaluators)
        assert criteria.bounds is not None
        (tolerance,) = criteria.bounds(Node(1, "ffn_out"))
        return tolerance.bound, tolerance.limit

    bound, unsettled = limits("Q2_K")
    assert unsettled == pytest.approx(4 * bound)
    assert limits(model.quantization) == limits("F16") == (bound, None)


def forward_capture(model: Model, directory: Path) -> Path:
    """Stage files of an exact run of a model that has no file of its own."""
    from aprtui.engine.reference.evaluate import NumpyNodes
    from aprtui.trace.aprt import write_aprt
    from aprtui.trace.manifest import relative_path

    evaluator = NumpyNodes(model)
    for node, values in run_forward(model, TOKENS, Recomputation(model, UNROUNDED, lambda angles: evaluator)):
        path = directory / relative_path(node)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_aprt(path, node.layer, values)
    return directory


def test_weights_within_their_step_change_values_by_what_4_bits_lose(model: Model) -> None:
    floors = weight_floor(model, TOKENS)
    assert 0.02 < floors[Node(0, ENTRY)] < 0.2


def test_two_captures_of_other_weights_than_the_model_cannot_be_judged_by_it(
    model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:
    a, b = (forward_capture(perturbed(model, seed), tmp_path / str(seed)) for seed in (7, 8))
    result = by_model(a, b, model, evaluators)
    assert result.verdict is Verdict.UNKNOWN
    assert "--model-a" in " ".join(result.reasons)


def test_a_capture_of_another_shape_cannot_be_judged_by_the_model(
    model: Model, evaluators: Evaluators, exact: Path, tmp_path: Path
) -> None:
    other = Capture.open(exact)
    assert other.manifest is not None
    graph = replace(other.manifest.graph, vocabulary=100)
    other = replace(other, manifest=replace(other.manifest, graph=graph))
    criteria = criteria_by_model(Capture.open(exact), other, model, TOKENS, evaluators)
    assert criteria.unjudgeable and "B cannot be held against MODEL" in criteria.doubts[0]


def test_a_third_capture_is_a_floor(model: Model, exact: Path, q8: Path, tmp_path: Path) -> None:
    """Another engine of the candidate's rounding errs as much as the candidate; a fault errs more."""
    reference = captured(model, tmp_path / "reference", Mode.Q8, KvType.F16)
    left = Capture.open(exact)
    criteria = reference_criteria(left, Capture.open(reference), None, None)
    assert compare_captures(left, Capture.open(q8), DiffOptions(), None, criteria).verdict is Verdict.PASS
    faulty = captured(model, tmp_path / "faulty", Mode.Q8)
    (faulty / "manifest.json").unlink()
    edit(faulty, Node(1, "ffn_up"), lambda values: values * np.float32(1.5))
    options = DiffOptions(tokens=TOKENS)
    divergence = compare_captures(left, Capture.open(faulty), options, None, criteria).first_divergence
    assert divergence is not None and divergence.verdict.node == Node(1, "ffn_up")


def test_a_reference_of_other_tokens_is_no_floor(model: Model, exact: Path, q8: Path, tmp_path: Path) -> None:
    other = captured(model, tmp_path / "other", Mode.Q8, tokens=TOKENS[::-1])
    left = Capture.open(exact)
    result = compare_captures(
        left, Capture.open(q8), DiffOptions(), None, reference_criteria(left, Capture.open(other), None, None)
    )
    assert result.verdict is Verdict.UNKNOWN
    assert "the floor's capture cannot be compared" in " ".join(result.reasons)
