"""Bugs written by hand: what each changes, and what replay says of some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.compare.verdict import Verdict
from aprtui.engine.evaluation.arithmetics import ARITHMETICS, stage_tensors
from aprtui.engine.evaluation.bug_detection import (
    FOUND,
    BugCase,
    BugOutcome,
    JudgedBug,
    bug_cases,
    buggy_tensors,
    judge_bugs,
)
from aprtui.engine.evaluation.capture_kinds import CAPTURE_KINDS, write_kind
from aprtui.engine.evaluation.porting_bugs.bug import PortingBug
from aprtui.engine.evaluation.porting_bugs.table import PORTING_BUGS
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model.model import Model, load_model
from aprtui.model.weight_types import WeightType
from aprtui.progress import no_progress
from aprtui.resources import embedded_model
from aprtui.trace.graph.ops import Op, Part
from aprtui.trace.graph.stage import Node
from tests.engine.embedded_captures import TOKENS, evaluators, model
from tests.model.gguf_files import write_model
from tests.thinning import often

__all__ = ["evaluators", "model"]

OF_OTHERS: Mapping[str, Mapping[str, object]] = {
    "gpt-oss": {"weight_type": WeightType.MXFP4, "layers": 3}, "qwen35moe": {"layers": 4}, "qwen3next": {}, "qwen3": {},
    "glm4moe": {"experts": 16, "experts_used": 4, "groups": (4, 2)}, "deepseek2": {}, "gemma2": {},
    "gemma3": {"layers": 6}, "smollm3": {"layers": 4}, "mistral3": {},
}  # fmt: skip
"""Small models with what the embedded one lacks, by architecture, and the options that they are written with."""

OF_EMBEDDED = [name for name, bug in PORTING_BUGS.items() if bug.nodes(load_model(embedded_model()))]

INVISIBLE = frozenset({"norm: squares summed in f16"})
"""Bugs that may change less than a float32 sum does, on a model without large channels."""


def judged(case: BugCase, model: Model, evaluators: Evaluators) -> JudgedBug:
    (found,) = judge_bugs(model, TOKENS, evaluators, [case], no_progress)
    return found


Tensors = Mapping[Node, NDArray[np.float32]]


def honest_tensors(model: Model, evaluators: Evaluators, tokens: Sequence[int]) -> Tensors:
    return stage_tensors(ARITHMETICS["float32"], model, tokens, evaluators, seed=1)


def first_changed(
    bug: PortingBug, model: Model, evaluators: Evaluators, honest: Tensors, tokens: Sequence[int] = TOKENS
) -> Node | None:
    """The first node that an engine with the bug computes otherwise than one without, beyond the last bits."""
    faulty = buggy_tensors(bug, ARITHMETICS["float32"], model, tokens, evaluators)
    for node, values in honest.items():
        causal = np.tril(np.ones(values.shape[-2:], np.bool_)) if values.ndim == 3 else True
        if not np.array_equal(np.where(causal, values, 0), np.where(causal, faulty[node], 0)):
            return node
    return None


@pytest.fixture(scope="module")
def honest(model: Model, evaluators: Evaluators) -> Tensors:
    """What the embedded model computes without a bug."""
    return honest_tensors(model, evaluators, TOKENS)


@pytest.mark.parametrize("name", OF_EMBEDDED)
def test_a_bug_changes_its_own_stage_before_any_other(
    name: str, model: Model, evaluators: Evaluators, honest: Tensors
) -> None:
    bug = PORTING_BUGS[name]
    assert first_changed(bug, model, evaluators, honest) in bug.nodes(model)


@pytest.mark.parametrize("architecture", OF_OTHERS)
def test_a_bug_of_another_architecture_changes_its_own_stage_before_any_other(
    tmp_path: Path, architecture: str
) -> None:
    """Those that the embedded model cannot have; of gpt-oss, whose stages differ the most, all."""
    path = write_model(tmp_path / "model.gguf", architecture=architecture, **OF_OTHERS[architecture])
    model = load_model(path)
    names = [name for name, bug in PORTING_BUGS.items() if bug.nodes(model) and name not in INVISIBLE]
    names = names if architecture == "gpt-oss" else [name for name in names if name not in OF_EMBEDDED]
    assert names
    with Evaluators(model) as evaluators:
        honest = honest_tensors(model, evaluators, range(20))
        for name in names:
            bug = PORTING_BUGS[name]
            assert first_changed(bug, model, evaluators, honest, range(20)) in bug.nodes(model), name


def test_every_bug_is_one_that_some_model_can_have(tmp_path: Path) -> None:
    paths = [write_model(tmp_path / name, architecture=name, **options) for name, options in OF_OTHERS.items()]
    models = [load_model(path) for path in paths]
    others = [name for name in PORTING_BUGS if name not in OF_EMBEDDED]
    assert [name for name in others if not any(map(PORTING_BUGS[name].nodes, models))] == []


def test_bugs_of_a_hybrid_with_experts_are_named_at_their_stages(tmp_path: Path) -> None:
    model = load_model(write_model(tmp_path / "model.gguf", architecture="qwen35moe", **OF_OTHERS["qwen35moe"]))
    bugs = ("recurrence: linear attention", "experts: weights not normalised")
    cases = [BugCase("float32", bug, "complete") for bug in bugs]
    with Evaluators(model) as evaluators:
        found = judge_bugs(model, range(8), evaluators, cases, no_progress)
        assert [judged.outcome for judged in found] == [BugOutcome.NAMED] * 2


def test_an_engine_without_a_bug_is_the_honest_one_to_the_bit(
    model: Model, evaluators: Evaluators, honest: Tensors
) -> None:
    nothing = PortingBug(lambda call: call.honest(), tuple(Op))
    assert nothing.nodes(model) == set(model.graph.nodes)
    assert first_changed(nothing, model, evaluators, honest) is None


@pytest.mark.parametrize(
    ("engine", "kind", "bug"),
    [
        ("float32", "complete", "groups by remainder"),
        pytest.param("llama.cpp, f16 K/V", "complete", "RoPE on the other pairs", marks=pytest.mark.slow),
        ("bfloat16", "complete", "one NaN"),
        ("llama.cpp, f16 K/V", "stored in f16", "feed-forward: residual of the normed input"),
    ],
)
def test_a_bug_is_named_at_its_stage(engine: str, kind: str, bug: str, model: Model, evaluators: Evaluators) -> None:
    assert judged(BugCase(engine, bug, kind), model, evaluators).outcome is BugOutcome.NAMED


@pytest.mark.parametrize("bug", often(["rows of K and V exchanged", "heads not transposed"], {"heads not transposed"}))
def test_a_wrong_order_that_the_engine_goes_on_with_is_a_bug_and_no_layout(
    bug: str, model: Model, evaluators: Evaluators
) -> None:
    assert judged(BugCase("float32", bug, "complete"), model, evaluators).outcome is BugOutcome.NAMED


@pytest.mark.parametrize("architecture", often(["qwen3", "llama"], {"llama"}))
def test_exchanged_keys_and_values_are_told_from_another_order_by_what_is_made_of_them(
    architecture: str, tmp_path: Path
) -> None:
    """Without a bias, norms or RoPE of the keys say whether the engine takes what stands in the place of the keys."""
    model = load_model(write_model(tmp_path / "model.gguf", architecture=architecture))
    graph, tokens = model.config.graph, range(8)
    with Evaluators(model) as evaluators:
        case = BugCase("float32", "rows of K and V exchanged", "complete")
        assert [found.outcome for found in judge_bugs(model, tokens, evaluators, [case], no_progress)] == [
            BugOutcome.NAMED
        ]
        tensors = dict(honest_tensors(model, evaluators, tokens))
        for node, values in tensors.items():
            if node.stage == "qkv_matmul":
                parts = [values[:, graph.part(part)] for part in (Part.Q, Part.V, Part.K)]
                tensors[node] = np.ascontiguousarray(np.concatenate(parts, axis=1))
        capture = write_kind(CAPTURE_KINDS["complete"], tensors, model.graph, tokens, tmp_path / "capture")
        replayed = replay_capture(capture, model, ReplayOptions(), evaluators)
    assert replayed.verdict is Verdict.PASS and any("Q‖V‖K" in said for said in replayed.statements)


@pytest.mark.parametrize(
    "kind", often(["layer outputs", "norms", "matrix products", "last token"], {"matrix products", "last token"})
)
def test_a_bug_is_found_in_a_part_of_a_capture(kind: str, model: Model, evaluators: Evaluators) -> None:
    assert judged(BugCase("float32", "sigmoid for SiLU", kind), model, evaluators).outcome in FOUND


def test_a_bug_that_honest_engines_hide_is_beneath_the_noise(model: Model, evaluators: Evaluators) -> None:
    """Positions that all start at 1 leave the attention as it is: the outputs of layers do not show it."""
    case = BugCase("llama.cpp, f16 K/V", "RoPE positions start at 1", "layer outputs")
    assert judged(case, model, evaluators).outcome is BugOutcome.BENEATH


def test_what_logits_alone_leave_open_is_found_once_the_arithmetic_is_stated(
    model: Model, evaluators: Evaluators
) -> None:
    found = judged(BugCase("float32", "mask: own key unseen", "logits"), model, evaluators)
    assert (found.outcome, found.when_stated) == (BugOutcome.UNKNOWN, BugOutcome.IN_SEGMENT)


def test_what_runs_of_16_bits_do_not_need_is_not_passed_by_the_length_of_a_segment(
    model: Model, evaluators: Evaluators
) -> None:
    """Seventy roundings to bfloat16 in a row may err by ten times what they do."""
    found = judged(BugCase("bfloat16", "norm: mean taken off", "logits"), model, evaluators)
    assert (found.outcome, found.when_stated) == (BugOutcome.UNKNOWN, BugOutcome.UNKNOWN)


def test_a_capture_that_holds_nothing_of_a_bug_is_left_out(model: Model, evaluators: Evaluators) -> None:
    case = BugCase("float32", "logits a row late", "norms")
    (found,) = judge_bugs(model, TOKENS, evaluators, [case], no_progress)
    assert found.outcome is BugOutcome.NAMED, "norms come with the logits"
    only_layers = BugCase("float32", "logits a row late", "two layers")
    assert list(judge_bugs(model, TOKENS, evaluators, [only_layers], no_progress)) == []


def test_cases_are_taken_at_random_and_alike_at_every_call(model: Model) -> None:
    """Every thirteenth would be one kind of capture only."""
    everything, some = bug_cases(model), bug_cases(model, 50)
    assert some == bug_cases(model, 50)
    assert len(some) == -(-len(everything) // 50)
    assert {case.kind for case in bug_cases(model, 13)} == {case.kind for case in everything}
