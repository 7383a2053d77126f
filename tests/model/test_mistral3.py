"""Queries that grow with their position, and what the metadata say of it; the words of its vocabulary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aprtui.engine.reference.evaluate import NumpyNodes
from aprtui.errors import UnreadableError
from aprtui.model.config import QueryTemperature
from aprtui.model.model import load_model
from aprtui.trace.graph.stage import Node
from tests.model.gguf_files import ModelFile, model_file

YARN = {
    "rope.scaling.type": "yarn", "rope.scaling.factor": 16.0, "rope.scaling.original_context_length": 8,
    "rope.scaling.yarn_log_multiplier": 1.0, "attention.temperature_scale": 0.25,
}  # fmt: skip


def mistral3(**changes: object) -> ModelFile:
    file = model_file(architecture="mistral3", layers=1, ffn=256)
    for name, value in (YARN | {name.replace("__", "."): value for name, value in changes.items()}).items():
        file.metadata.pop(f"mistral3.{name}", None)
        if value is not None:
            file.metadata[f"mistral3.{name}"] = value
    return file


def test_queries_grow_by_the_logarithm_of_whole_lengths_of_the_context_before_them(tmp_path: Path) -> None:
    model = load_model(mistral3().write(tmp_path / "model.gguf"))
    assert model.config.query_temperature == QueryTemperature(0.25, 8)
    x = np.random.default_rng(0).standard_normal((20, model.config.graph.q_width), np.float32)
    found = NumpyNodes(model).evaluate(Node(0, "q_temp_scaled"), [x], tokens=[1] * 20, position=3)
    factors = [1 + 0.25 * np.log(1 + position // 8) for position in range(3, 23)]
    np.testing.assert_array_equal(found, x * np.array(factors, np.float32)[:, None])
    np.testing.assert_array_equal(found[:5], x[:5])


def test_the_magnitude_of_yarn_cancels_out_with_its_multiplier(tmp_path: Path) -> None:
    rope = load_model(mistral3().write(tmp_path / "model.gguf")).config.rope
    assert rope.yarn is not None and (rope.scale, rope.magnitude) == (16.0, 1.0)


def test_the_stage_is_there_with_a_temperature_only(tmp_path: Path) -> None:
    plain = load_model(mistral3(attention__temperature_scale=0.0).write(tmp_path / "model.gguf"))
    assert "q_temp_scaled" not in plain.graph
    assert plain.config.query_temperature is None


def test_without_a_context_before_yarn_the_models_own_counts(tmp_path: Path) -> None:
    file = mistral3(rope__scaling__original_context_length=None, rope__scaling__type="none")
    assert load_model(file.write(tmp_path / "model.gguf")).config.query_temperature == QueryTemperature(0.25, 512)


def test_a_temperature_below_zero_and_experts_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match=r"mistral3\.attention\.temperature_scale is -1\.0, expected a"):
        load_model(mistral3(attention__temperature_scale=-1.0).write(tmp_path / "model.gguf"))
    with pytest.raises(UnreadableError, match=r"mistral3\.expert_count is 4"):
        load_model(mistral3(expert_count=4).write(tmp_path / "model.gguf"))


def test_a_temperature_of_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    file = model_file(architecture="llama", layers=1, ffn=256)
    file.metadata["llama.attention.temperature_scale"] = 0.1
    with pytest.raises(UnreadableError, match=r"llama\.attention\.temperature_scale is not supported"):
        load_model(file.write(tmp_path / "model.gguf"))
