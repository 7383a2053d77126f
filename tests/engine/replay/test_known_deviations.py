"""What llama.cpp is known to do otherwise than a file says is no fault of it, and stands in the first sentence."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.comparison import Comparison
from aprtui.compare.deviations import YARN_IN_WHOLE_PAIRS, YARN_OF_USUAL_BETAS, deviations_in
from aprtui.compare.report.headline import headline
from aprtui.compare.verdict import Verdict
from aprtui.engine.judging import judged_by_floor
from aprtui.engine.protocol import KvType
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model.config import RopeAngles, Yarn
from aprtui.model.model import Model, load_model
from aprtui.model.weight_types import WeightType
from aprtui.oracle.llamacpp_capture import LlamaCppOptions, write_llamacpp_captures
from aprtui.oracle.requests import Evaluation
from aprtui.progress import no_progress
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import ENTRY, LAYER_OUTPUT, Node
from tests.engine.embedded_captures import captured, edit
from tests.engine.replay.own_captures import assert_passes_below
from tests.model.gguf_files import model_file

TOKENS = tuple(range(7, 30))
SAID = YARN_OF_USUAL_BETAS.said(" in place of 1 and 1")


def with_betas(folder: Path, fast: float, slow: float, architecture: str = "qwen2") -> Model:
    """A model with YaRN of these betas; Kimi-K2's are 1 and 1."""
    file = model_file(architecture=architecture, weight_type=WeightType.F32, layers=1)
    stated = {"type": "yarn", "factor": 4.0, "original_context_length": 4096}
    stated |= {"yarn_beta_fast": fast, "yarn_beta_slow": slow}
    file.metadata |= {f"{architecture}.rope.scaling.{key}": value for key, value in stated.items()}
    folder.mkdir(exist_ok=True)
    return load_model(file.write(folder / "model.gguf"))


def by_llama_cpp(model: Model, folder: Path) -> Capture:
    work = {folder: Evaluation(TOKENS, None, len(TOKENS))}
    write_llamacpp_captures(model, work, LlamaCppOptions(kv=KvType.F32, threads=1), no_progress)
    return Capture.open(folder)


def replayed(capture: Capture, model: Model, **options: Any) -> Comparison:
    with Evaluators(model) as evaluators:
        return replay_capture(capture, model, ReplayOptions(**options), evaluators)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return with_betas(tmp_path_factory.mktemp("betas"), 1.0, 1.0)


@pytest.fixture(scope="module")
def theirs(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Capture:
    return by_llama_cpp(model, tmp_path_factory.mktemp("llama.cpp") / "capture")


@pytest.fixture(scope="module")
def ours(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Capture:
    return Capture.open(captured(model, tmp_path_factory.mktemp("own") / "capture", tokens=TOKENS))


@pytest.mark.group("llama_cpp")
def test_betas_that_llama_cpp_does_not_read_are_no_fault_and_are_said(
    model: Model, theirs: Capture, ours: Capture
) -> None:
    result = replayed(theirs, model)
    assert_passes_below(result, 2e-6)
    assert deviations_in(result.statements) == [SAID] and headline(result).endswith(f"; {SAID}")
    own = replayed(ours, model)
    assert own.verdict is Verdict.PASS and not deviations_in(own.statements), "which computes as the file says"


@pytest.mark.slow
@pytest.mark.group("llama_cpp")
def test_the_same_of_latent_attention_as_kimi_has_it(tmp_path: Path) -> None:
    model = with_betas(tmp_path, 1.0, 1.0, "deepseek2")
    result = replayed(by_llama_cpp(model, tmp_path / "theirs"), model)
    assert_passes_below(result, 2e-6)
    assert deviations_in(result.statements) == [SAID]


def only(capture: Capture, folder: Path, *stages: str) -> Capture:
    """Some stages of a capture, without its manifest."""
    for node, file in capture.files.items():
        if node.stage in stages:
            target = folder / file.path.relative_to(capture.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.path, target)
    return Capture.open(folder)


@pytest.mark.group("llama_cpp")
def test_layer_outputs_alone_show_it(model: Model, theirs: Capture, tmp_path: Path) -> None:
    result = replayed(only(theirs, tmp_path, ENTRY, LAYER_OUTPUT, "lm_head"), model, tokens=TOKENS)
    assert result.verdict is Verdict.PASS, result.reasons
    assert deviations_in(result.statements) == [SAID]


@pytest.mark.slow
@pytest.mark.group("llama_cpp")
def test_an_engine_that_is_stated_to_do_as_the_file_says_is_held_to_it(model: Model, theirs: Capture) -> None:
    result = replayed(theirs, model, rounding={"rope_angles": "f64"})
    assert result.verdict is Verdict.FAIL
    said = result.causes[0].words
    assert said.startswith("YaRN's beta_fast and beta_slow are 32 and 1") and said.endswith("the model says 1 and 1")


@pytest.mark.slow
@pytest.mark.group("llama_cpp")
def test_a_fault_beside_it_is_named(model: Model, theirs: Capture, tmp_path: Path) -> None:
    bad = only(theirs, tmp_path, *model.graph.names)
    edit(bad.path, Node(0, "k_post_rope"), lambda values: values * np.float32(1.01))
    result = replayed(bad, model, tokens=TOKENS)
    assert result.verdict is Verdict.FAIL and result.first_divergence is not None
    assert result.first_divergence.verdict.node == Node(0, "k_post_rope")


@pytest.mark.group("llama_cpp")
@pytest.mark.parametrize("complete", [pytest.param(True, marks=pytest.mark.slow), False], ids=["complete", "outputs"])
def test_a_diff_of_both_ways_passes_and_names_the_side(
    model: Model, theirs: Capture, ours: Capture, tmp_path: Path, complete: bool
) -> None:
    a, b = ours, theirs
    if not complete:
        a, b = (only(side, tmp_path / name, ENTRY, LAYER_OUTPUT) for name, side in (("a", ours), ("b", theirs)))
    criteria, _ = judged_by_floor(a, b, model, TOKENS, no_progress)
    result = compare_captures(a, b, DiffOptions(tokens=TOKENS), None, criteria)
    assert result.verdict is Verdict.PASS, result.reasons
    assert deviations_in(result.statements) == [f"B: {SAID}"] and headline(result).endswith(f"; B: {SAID}")


@pytest.mark.slow
def test_other_betas_are_a_fault_with_their_cause(tmp_path: Path) -> None:
    model, other = (with_betas(tmp_path / str(fast), fast, 1.0) for fast in (8.0, 16.0))
    capture = Capture.open(captured(other, tmp_path / "other", tokens=TOKENS))
    result = replayed(only(capture, tmp_path / "bare", *model.graph.names), model, tokens=TOKENS)
    assert result.verdict is Verdict.FAIL
    said = result.causes[0].words
    assert said.startswith("YaRN's beta_fast is ") and said.endswith(", the model says 8"), (
        "several make whole pairs alike"
    )


@pytest.mark.slow
def test_usual_betas_in_place_of_those_that_llama_cpp_reads_are_a_fault_with_their_cause(tmp_path: Path) -> None:
    model, usual = (with_betas(tmp_path / str(fast), fast, 1.0, "mistral3") for fast in (8.0, 32.0))
    assert model.config.rope.yarn_of_llama_cpp is None
    capture = Capture.open(captured(usual, tmp_path / "usual", tokens=TOKENS))
    result = replayed(only(capture, tmp_path / "bare", *model.graph.names), model, tokens=TOKENS)
    assert result.verdict is Verdict.FAIL
    said = result.causes[0].words
    assert said.startswith("YaRN's beta_fast and beta_slow are 32 and 1") and said.endswith("the model says 8 and 1")


@pytest.mark.slow
def test_whole_pairs_are_known_of_engines_that_compute_angles_otherwise_than_ggml(tmp_path: Path) -> None:
    """llama.cpp on a GPU: its numbers, without the recurrence in float32."""
    model = load_model(model_file(architecture="gpt-oss", weight_type=WeightType.F32).write(tmp_path / "model.gguf"))
    assert model.config.rope.yarn_of_llama_cpp == Yarn(64)
    rope = model.config.rope.as_read(RopeAngles.LLAMA_CPP)
    model.config = replace(model.config, rope=rope)
    capture = Capture.open(captured(model, tmp_path / "theirs", tokens=TOKENS))
    again = load_model(model.path)
    result = replayed(only(capture, tmp_path / "bare", *model.graph.names), again, tokens=TOKENS)
    assert result.verdict is Verdict.PASS, result.reasons
    assert deviations_in(result.statements) == [YARN_IN_WHOLE_PAIRS.said()]
