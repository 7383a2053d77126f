"""Positions that are scaled, linearly or by YaRN, as other engines scale them: for every architecture that may have it.

What the cards of Qwen2.5 and Qwen3 recommend is YaRN of factor 4 from a context of 32,768; Gemma 3 from 4B on divides
positions by 8 in its layers of full attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from aprtui.compare.verdict import Verdict
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model.architectures.registry import ARCHITECTURES
from aprtui.model.model import Model, load_model
from aprtui.model.weight_types import WeightType
from aprtui.oracle.requests import Evaluation
from aprtui.oracle.transformers_capture import TransformersOptions, write_transformers_captures
from aprtui.progress import no_progress
from aprtui.trace.capture import Capture
from aprtui.trace.graph.ops import Op
from tests.model.gguf_files import model_file
from tests.oracle.models import TOKENS, largest_error, own_capture
from tests.oracle.test_llamacpp import captured

SCALINGS: Mapping[str, Mapping[str, Any]] = {
    "linear": {"type": "linear", "factor": 8.0},
    "yarn": {"type": "yarn", "factor": 4.0, "original_context_length": 8},
    "as the cards say": {"type": "yarn", "factor": 4.0, "original_context_length": 32768},
}
LATENT = [name for name, architecture in ARCHITECTURES.items() if architecture.latent is not None]
"""Those whose scores engines scale otherwise where positions are: linear scaling is refused, and YaRN has tests."""


def cases(kept: tuple[str, str]) -> list[Any]:
    """All architectures with each scaling; those that are not `kept` are slow."""
    return [
        pytest.param(name, kind, id=f"{name}, {kind}", marks=() if (name, kind) == kept else pytest.mark.slow)
        for name in ARCHITECTURES
        for kind in SCALINGS
        if name not in LATENT and (kind != "as the cards say" or name in ("qwen2", "qwen3"))
    ]


def scaled(folder: Path, name: str, kind: str, weight_type: WeightType) -> Model:
    layers = 4 if name == "smollm3" else 2
    file = model_file(architecture=name, layers=layers, weight_type=weight_type, tied=name == "gemma2")
    if name == "gemma3":
        file.metadata["gemma3.attention.sliding_window_pattern"] = 2  # a layer of each kind
    file.metadata = {key: value for key, value in file.metadata.items() if ".rope.scaling." not in key}
    if ARCHITECTURES[name].query_temperature:
        file.metadata[f"{name}.rope.scaling.original_context_length"] = 8  # what queries grow by
    file.metadata |= {f"{name}.rope.scaling.{key}": value for key, value in SCALINGS[kind].items()}
    return load_model(file.write(folder / "model.gguf"))


@pytest.mark.group("transformers")
@pytest.mark.parametrize(("name", "kind"), cases(("qwen3", "as the cards say")))
def test_scaled_positions_are_those_of_transformers(tmp_path: Path, name: str, kind: str) -> None:
    model = scaled(tmp_path, name, kind, WeightType.Q4_K)
    assert model.config.rope.scale == SCALINGS[kind]["factor"]
    work = {tmp_path / "theirs": Evaluation(TOKENS, None, len(TOKENS))}
    write_transformers_captures(model, work, TransformersOptions(threads=1), no_progress)
    theirs = Capture.open(tmp_path / "theirs")
    assert largest_error(own_capture(model, tmp_path / "ours"), theirs) < 1e-5


@pytest.mark.group("llama_cpp")
@pytest.mark.parametrize(("name", "kind"), cases(("gemma3", "linear")))
def test_scaled_positions_of_llama_cpp_follow_from_its_own_inputs(tmp_path: Path, name: str, kind: str) -> None:
    model = scaled(tmp_path, name, kind, WeightType.F32)
    theirs = captured(model, tmp_path / "theirs")
    with Evaluators(model) as evaluators:
        result = replay_capture(theirs, model, ReplayOptions(), evaluators)
    assert result.verdict is Verdict.PASS, result.reasons
    turned = [stage for stage in result.stages if model.graph[stage.node.stage].op is Op.ROPE]
    assert turned and max(stage.verdict.error or 0 for stage in turned) < 2e-6


@pytest.mark.slow
@pytest.mark.group("llama_cpp")
def test_another_factor_is_named(tmp_path: Path) -> None:
    """The control: what is compared here depends on it."""
    model = scaled(tmp_path, "qwen2", "linear", WeightType.F32)
    (tmp_path / "other").mkdir()
    other = scaled(tmp_path / "other", "qwen2", "yarn", WeightType.F32)
    theirs = captured(other, tmp_path / "theirs")
    with Evaluators(model) as evaluators:
        result = replay_capture(theirs, model, ReplayOptions(), evaluators)
    assert result.verdict is Verdict.FAIL and result.first_divergence is not None
    assert result.first_divergence.verdict.node.stage in ("q_post_rope", "k_post_rope")
