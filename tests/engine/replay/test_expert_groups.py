"""Experts that are chosen by groups, as DeepSeek-V2 and V3 do: near ties are no fault, groups left out are named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.captures import Criteria, DiffOptions, compare_captures
from aprtui.compare.choice import judge_choice, judge_choice_of_groups
from aprtui.compare.deviations import GROUPS_BY_TWO, deviations_in
from aprtui.compare.report.headline import headline
from aprtui.compare.verdict import Verdict
from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.cpu.nodes import CpuNodes
from aprtui.engine.evaluation.cause_detection import CauseOutcome, CausePlants, cause_outcome
from aprtui.engine.evaluation.honest_pairs import judge_honest_pairs
from aprtui.engine.evaluation.planted_causes import PLANTED_CAUSES
from aprtui.engine.faults.faults import FaultInjector, parse_fault
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import KvType, Logits, Mode
from aprtui.engine.reference.ops import choose_experts
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model.model import Model, load_model
from aprtui.model.weight_types import WeightType
from aprtui.oracle.llamacpp_capture import LlamaCppOptions, write_llamacpp_captures
from aprtui.oracle.requests import Evaluation
from aprtui.oracle.transformers_capture import TransformersOptions, write_transformers_captures
from aprtui.oracle.transformers_model import DataType
from aprtui.progress import no_progress
from aprtui.trace.aprt import write_aprt
from aprtui.trace.capture import Capture
from aprtui.trace.graph.config import ExpertGroups, GroupScore
from aprtui.trace.graph.stage import ROUTER_CHOICE, Node
from tests.engine.embedded_captures import captured
from tests.engine.replay.own_captures import assert_exactly_zero, replayed
from tests.engine.replay.test_recurrence import failed
from tests.model.gguf_files import write_model
from tests.oracle.models import largest_error

TOKENS = tuple(int(token) for token in np.random.default_rng(5).integers(0, 260, 17))
CHOICE = Node(1, ROUTER_CHOICE)


@pytest.fixture(scope="module", params=["v2", "v3"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("groups") / "model.gguf"
    return load_model(
        write_model(
            path, architecture="deepseek2", weight_type=WeightType.Q8_0, hidden=64, experts=16, experts_used=4,
            sigmoid=request.param == "v3", groups=(4, 2),
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def evaluators(model: Model) -> Iterator[Evaluators]:
    with Evaluators(model) as found:
        yield found


def test_groups_change_what_is_chosen(model: Model, tmp_path: Path) -> None:
    """Else nothing here would show whether an engine has them."""
    groups = model.config.graph.expert_groups
    assert groups is not None
    capture = Capture.open(captured(model, tmp_path / "own", tokens=TOKENS))
    (source,) = model.graph.inputs(CHOICE)
    values, chosen = capture.values(source), capture.values(CHOICE)
    assert np.array_equal(chosen, choose_experts(values, 4, groups))
    others = (None, replace(groups, score=next(score for score in GroupScore if score is not groups.score)))
    for other in others:
        assert not np.array_equal(chosen, choose_experts(values, 4, other))


def test_the_reference_and_compiled_kernels_agree(model: Model, tmp_path: Path) -> None:
    own = Capture.open(captured(model, tmp_path / "own", tokens=TOKENS))
    request = CaptureRequest(TOKENS, None, frozenset(model.graph.nodes), logits=Logits.LAST)
    with closing(open_engine(model, backend="numpy", context=64)) as engine:
        write_capture(engine, model, request, tmp_path / "reference")
    assert largest_error(Capture.open(tmp_path / "reference"), own) < 2e-6


def test_replay_of_an_own_exact_capture_is_exactly_zero(model: Model, evaluators: Evaluators, tmp_path: Path) -> None:
    assert_exactly_zero(replayed(model, evaluators, captured(model, tmp_path / "own", tokens=TOKENS, prefill=4)))


@pytest.mark.group("llama_cpp")
def test_captures_of_llama_cpp_come_out_of_their_own_inputs_by_its_score_of_groups(
    model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:
    options = LlamaCppOptions(kv=KvType.F16, flash_attention=False, threads=1)
    write_llamacpp_captures(model, {tmp_path / "theirs": Evaluation(TOKENS, None, 9)}, options, no_progress)
    result = replayed(model, evaluators, tmp_path / "theirs")
    assert result.verdict is Verdict.PASS, failed(result)
    assert max(stage.verdict.error or 0 for stage in result.stages if stage.node != CHOICE) < 2e-6
    groups = model.config.graph.expert_groups
    assert groups is not None
    is_said = deviations_in(result.statements) == [GROUPS_BY_TWO.said()]
    assert is_said == (groups.score is GroupScore.LARGEST)
    assert headline(result).endswith("as llama.cpp has it; the model's own way is not") == is_said


@pytest.mark.group("transformers")
@pytest.mark.parametrize("kind", DataType)
def test_captures_of_transformers_pass(model: Model, evaluators: Evaluators, tmp_path: Path, kind: DataType) -> None:
    work = {tmp_path / "theirs": Evaluation(TOKENS, None, 9)}
    write_transformers_captures(model, work, TransformersOptions(kind, threads=1), no_progress)
    result = replay_capture(Capture.open(tmp_path / "theirs"), model, ReplayOptions(), evaluators)
    assert result.verdict is Verdict.PASS, failed(result)


@pytest.mark.parametrize("kind", ["groups-ignored", "wrong-expert"])
def test_a_planted_fault_is_named_at_its_own_stage(
    model: Model, evaluators: Evaluators, tmp_path: Path, kind: str
) -> None:
    injector = FaultInjector(model, Mode.EXACT, [parse_fault(f"layer=1,stage={ROUTER_CHOICE},kind={kind}", model)])
    request = CaptureRequest(TOKENS, None, frozenset(model.graph.nodes), logits=Logits.LAST)
    with closing(open_engine(model, mode=Mode.EXACT, kv=KvType.F32, context=64, intervention=injector)) as engine:
        write_capture(engine, model, request, tmp_path / "bad")
    assert failed(replayed(model, evaluators, tmp_path / "bad")) == [CHOICE]


CAUSES = [
    ("v2", "experts: groups ignored"),
    ("v3", "experts: groups ignored"),
    ("v3", "experts: groups chosen without the router's bias"),
    ("v3", "experts: groups by their largest alone"),
    ("v3", "experts: chosen without the router's bias"),
]


@pytest.mark.parametrize(("model", "name"), CAUSES, indirect=["model"])
def test_the_cause_of_a_wrong_choice_is_proved(model: Model, name: str, evaluators: Evaluators, tmp_path: Path) -> None:
    planted = PLANTED_CAUSES[name]
    assert planted.nodes(model) == [CHOICE]
    result = CausePlants(model, TOKENS, evaluators, tmp_path).replayed(CHOICE, planted)
    assert result is not None and cause_outcome(result, planted) is CauseOutcome.PROVED


BY_TWO, BY_LARGEST = (ExpertGroups(4, 2, score) for score in (GroupScore.TWO_LARGEST, GroupScore.LARGEST))
TIE = 1e-7
# Four groups of three experts. By their two largest: 0.8 | 0.5 | 0.5 + TIE | 0.2; by their largest alone the third and
# the fourth, 0.6 each, come before the second.
ROUTER = np.array([[0.5, 0.3, 0.0, 0.25, 0.25, 0.2, 0.6, TIE - 0.1, -0.1, 0.6, -0.4, -0.4]], np.float32)


@pytest.mark.parametrize(
    ("chosen", "verdict"),
    [
        ([6, 0, 1, 2], Verdict.PASS),  # as it is computed
        ([0, 6, 2, 1], Verdict.PASS),  # in another order
        ([0, 1, 3, 4], Verdict.PASS),  # of the group that is as good
        ([0, 1, 4, 3], Verdict.PASS),  # of two in it that are equal
        ([0, 1, 3, 5], Verdict.FAIL),  # not the best of it
        ([6, 0, 1, 7], Verdict.FAIL),  # -0.1 in place of 0
        ([6, 9, 0, 1], Verdict.FAIL),  # of three groups: groups ignored
        ([6, 9, 7, 8], Verdict.FAIL),  # of two groups that are not the best
        ([6, 3, 4, 5], Verdict.FAIL),  # without the group that is better than all
        ([0, 1, 3, 3], Verdict.FAIL),  # one expert twice
        ([0, 1, 3, 12], Verdict.FAIL),  # no expert
    ],
)
def test_another_group_that_is_as_good_is_no_fault(chosen: list[int], verdict: Verdict) -> None:
    expected, found = choose_experts(ROUTER, 4, BY_TWO), np.array([chosen], np.float32)
    assert expected.tolist() == [[6, 0, 1, 2]]
    assert judge_choice(CHOICE, expected, found, ROUTER, ROUTER, any_order=True, groups=BY_TWO).verdict is verdict


def test_groups_by_their_largest_are_as_good_where_those_are() -> None:
    expected, found = choose_experts(ROUTER, 2, BY_LARGEST), np.array([[9, 6]], np.float32)
    assert expected.tolist() == [[6, 9]]
    assert judge_choice(CHOICE, expected, found, ROUTER, ROUTER, groups=BY_LARGEST).verdict is Verdict.PASS
    first = np.array([[6, 0]], np.float32)
    assert judge_choice(CHOICE, expected, first, ROUTER, ROUTER, groups=BY_LARGEST).verdict is Verdict.FAIL


def test_a_diff_says_which_side_scores_its_groups_as_llama_cpp_does_and_passes_it() -> None:
    router = np.concatenate([ROUTER, ROUTER[:, ::-1]])
    own, other = (choose_experts(router, 4, score) for score in (BY_LARGEST, BY_TWO))
    for a, b, said in ((own, other, "in B,"), (other, own, "in A,")):
        verdict = judge_choice_of_groups(CHOICE, a, b, router, router, BY_LARGEST)
        assert verdict.verdict is Verdict.PASS and said in verdict.reason
    mixed = np.stack([own[0], other[1]])  # an engine scores all tokens alike
    for wrong in (mixed, choose_experts(router, 4), np.flip(other, axis=0)):
        assert judge_choice_of_groups(CHOICE, own, wrong, router, router, BY_LARGEST).verdict is Verdict.FAIL
    assert judge_choice_of_groups(CHOICE, own, other, router, router, BY_TWO).verdict is Verdict.FAIL
    assert judge_choice_of_groups(CHOICE, own, other, router, router, None).verdict is Verdict.FAIL


def test_the_statements_of_a_diff_say_so_once(tmp_path: Path) -> None:
    for name, score in (("A", BY_LARGEST), ("B", BY_TWO)):
        for layer in ("layer-0", "layer-1"):
            (tmp_path / name / layer).mkdir(parents=True)
            for stage, values in (("moe_router", ROUTER), (ROUTER_CHOICE, choose_experts(ROUTER, 4, score))):
                write_aprt(tmp_path / name / layer / f"{stage}.bin", 1, values)
    a, b = (Capture.open(tmp_path / name) for name in "AB")
    result = compare_captures(a, b, DiffOptions(tokens=(7,)), None, Criteria(groups=BY_LARGEST))
    assert {stage.verdict.verdict for stage in result.stages} == {Verdict.PASS}
    assert deviations_in(result.statements) == [GROUPS_BY_TWO.said(" in B")]


def test_of_two_captures_each_may_choose_by_its_own_router_alone() -> None:
    """The one takes the second group, the other the third, which are as far apart as their routers."""
    other = ROUTER.copy()
    other[0, 3] += 0.01
    a, b = choose_experts(ROUTER, 4, BY_TWO), choose_experts(other, 4, BY_TWO)
    assert not np.array_equal(np.sort(a), np.sort(b))
    assert judge_choice(CHOICE, a, b, ROUTER, other, groups=BY_TWO).verdict is Verdict.PASS
    assert judge_choice(CHOICE, b, a, ROUTER, other, groups=BY_TWO).verdict is Verdict.PASS
    ignored = choose_experts(ROUTER, 4)
    for sides in ((a, ignored), (ignored, a)):
        assert judge_choice(CHOICE, *sides, ROUTER, other, groups=BY_TWO).verdict is Verdict.FAIL


def test_captures_that_state_no_dimensions_are_judged_by_the_groups_of_the_model(tmp_path: Path) -> None:
    """As those without a manifest do not; without groups, experts of another group are a fault."""
    other = ROUTER.copy()
    other[0, 3] += 0.01
    for name, router in (("A", ROUTER), ("B", other)):
        (tmp_path / name / "layer-1").mkdir(parents=True)
        for stage, values in (("ffn_moe_probs_biased", router), (ROUTER_CHOICE, choose_experts(router, 4, BY_TWO))):
            write_aprt(tmp_path / name / "layer-1" / f"{stage}.bin", 1, values)
    a, b = (Capture.open(tmp_path / name) for name in "AB")
    for groups, verdict in ((BY_TWO, Verdict.PASS), (None, Verdict.FAIL)):
        result = compare_captures(a, b, DiffOptions(tokens=(7,)), None, Criteria(groups=groups))
        assert {stage.node: stage.verdict.verdict for stage in result.stages}[CHOICE] is verdict


@pytest.mark.slow
@pytest.mark.parametrize("model", ["v3"], indirect=True)
def test_honest_engines_that_take_other_groups_are_no_divergence(model: Model, evaluators: Evaluators) -> None:
    judged = list(judge_honest_pairs(model, TOKENS, evaluators, no_progress))
    assert len(judged) == 15 and {one.verdict for one in judged} == {Verdict.PASS}


def test_odd_numbers_are_chosen_alike_by_the_reference_and_compiled_kernels(model: Model) -> None:
    """Equal ones, NaN and infinite ones: the first of equal groups and experts, NaN last, no expert of other groups."""
    groups = model.config.graph.expert_groups
    assert groups is not None
    generator = np.random.default_rng(3)
    odd = np.array([0, 0.25, 0.25, 0.5, 1, -1, np.nan, np.inf, -np.inf], np.float32)
    rows = generator.choice(odd, (len(TOKENS), 16)).astype(np.float32)
    rows[0], rows[1] = 0.5, np.nan
    rows[2, 4:] = np.nan
    expected = choose_experts(rows, 4, groups)
    with closing(CpuNodes(model, 1)) as nodes:
        found = nodes.evaluate(CHOICE, [rows], tokens=TOKENS, position=0)
    assert np.array_equal(found, expected)
    assert expected[0].tolist() == expected[1].tolist() == [0, 1, 2, 3]
    assert all(len(set(row // 4)) <= 2 and len(set(row)) == 4 for row in expected)
