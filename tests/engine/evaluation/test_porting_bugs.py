"""Bugs written by hand: what each changes, and what replay says of some of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

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
from aprtui.engine.evaluation.porting_bugs.bug import PortingBug
from aprtui.engine.evaluation.porting_bugs.table import PORTING_BUGS
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.model.model import Model, load_model
from aprtui.model.weight_types import WeightType
from aprtui.progress import no_progress
from aprtui.trace.graph import Node, Op
from tests.engine.embedded_captures import TOKENS, evaluators, model
from tests.model.gguf_files import write_model

__all__ = ["evaluators", "model"]

OF_GPT_OSS = (
    "sinks left out", "sinks of the heads in reverse", "SwiGLU of gpt-oss: not clamped",
    "SwiGLU of gpt-oss: 1 not added", "SwiGLU of gpt-oss: sigmoid without its factor",
)  # fmt: skip
"""Bugs that the embedded model cannot have."""

INVISIBLE = frozenset({"norm: squares summed in f16"})
"""Bugs that may change less than a float32 sum does, on a model without large channels."""


def judged(case: BugCase, model: Model, evaluators: Evaluators) -> JudgedBug:
    (found,) = judge_bugs(model, TOKENS, evaluators, [case], no_progress)
    return found


def first_changed(bug: PortingBug, model: Model, evaluators: Evaluators, tokens: Sequence[int] = TOKENS) -> Node | None:
    """The first node that an engine with the bug computes otherwise than one without, beyond the last bits."""
    arithmetic = ARITHMETICS["float32"]
    honest = stage_tensors(arithmetic, model, tokens, evaluators, seed=1)
    faulty = buggy_tensors(bug, arithmetic, model, tokens, evaluators)
    for node, values in honest.items():
        causal = np.tril(np.ones(values.shape[-2:], np.bool_)) if values.ndim == 3 else True
        if not np.array_equal(np.where(causal, values, 0), np.where(causal, faulty[node], 0)):
            return node
    return None


@pytest.mark.parametrize("name", [name for name in PORTING_BUGS if name not in OF_GPT_OSS])
def test_a_bug_changes_its_own_stage_before_any_other(name: str, model: Model, evaluators: Evaluators) -> None:
    bug = PORTING_BUGS[name]
    assert first_changed(bug, model, evaluators) in bug.nodes(model)


def test_a_bug_of_gpt_oss_changes_its_own_stage_before_any_other(tmp_path: Path, model: Model) -> None:
    path = write_model(tmp_path / "model.gguf", architecture="gpt-oss", weight_type=WeightType.MXFP4, layers=3)
    gpt_oss = load_model(path)
    with Evaluators(gpt_oss) as evaluators:
        for name in OF_GPT_OSS:
            bug = PORTING_BUGS[name]
            assert not bug.nodes(model)
            assert first_changed(bug, gpt_oss, evaluators, range(20)) in bug.nodes(gpt_oss), name
        for name, bug in PORTING_BUGS.items():
            if bug.nodes(gpt_oss) and name not in INVISIBLE:
                assert first_changed(bug, gpt_oss, evaluators, range(20)) in bug.nodes(gpt_oss), name


def test_an_engine_without_a_bug_is_the_honest_one_to_the_bit(model: Model, evaluators: Evaluators) -> None:
    nothing = PortingBug(lambda call: call.honest(), tuple(Op))
    assert nothing.nodes(model) == set(model.graph.nodes)
    assert first_changed(nothing, model, evaluators) is None


@pytest.mark.parametrize(
    ("engine", "kind", "bug"),
    [
        ("float32", "complete", "groups by remainder"),
        ("llama.cpp, f16 K/V", "complete", "RoPE on the other pairs"),
        ("bfloat16", "complete", "one NaN"),
        ("llama.cpp, f16 K/V", "stored in f16", "feed-forward: residual of the normed input"),
    ],
)
def test_a_bug_is_named_at_its_stage(engine: str, kind: str, bug: str, model: Model, evaluators: Evaluators) -> None:
    assert judged(BugCase(engine, bug, kind), model, evaluators).outcome is BugOutcome.NAMED


@pytest.mark.parametrize("bug", ["rows of K and V exchanged", "heads not transposed"])
def test_a_wrong_order_that_the_engine_goes_on_with_is_a_bug_and_no_layout(
    bug: str, model: Model, evaluators: Evaluators
) -> None:
    assert judged(BugCase("float32", bug, "complete"), model, evaluators).outcome is BugOutcome.NAMED


@pytest.mark.parametrize("kind", ["layer outputs", "norms", "matrix products", "last token"])
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
