"""RoPE with YaRN: frequencies and magnitude as transformers computes them, angles as ggml does, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprtui.engine.reference.ops import rope as turned
from aprtui.errors import UnreadableError
from aprtui.model.config import ModelConfig, Rope, RopeAngles, Yarn
from aprtui.model.model import load_model
from aprtui.model.weight_types import WeightType
from aprtui.trace.graph.config import GraphConfig
from tests.model.gguf_files import Tensor, model_file

YARN: dict[str, Any] = {
    "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 1024,
    "context_length": 4096, "rope.freq_base": 10000.0,
}  # fmt: skip

# `_compute_yarn_parameters` of transformers 5.18 with the numbers of YARN: every fourth frequency of 32.
FREQUENCIES = [1.0, 3.162278e-01, 8.269231e-02, 1.885204e-02, 3.653846e-03, 7.905695e-04, 2.5e-04, 7.905695e-05]
# With beta_fast 8 and beta_slow 2.
NARROW = [1.0, 3.162278e-01, 1.0e-01, 2.371708e-02, 2.5e-03, 7.905695e-04, 2.5e-04, 7.905695e-05]
# Of gpt-oss, every third of 32: the range is not rounded to whole pairs.
GPT_OSS = Rope(150000.0, 32.0, yarn=Yarn(4096, whole_pairs=False))
GPT_OSS_FREQUENCIES = [
    1.0, 3.271459e-01, 1.070244e-01, 3.170570e-02, 6.794959e-03, 1.052602e-03, 3.830881e-05, 1.253257e-05,
    4.099978e-06, 1.341291e-06, 4.387979e-07,
]  # fmt: skip


def config_of(tmp_path: Path, changes: Mapping[str, Any], architecture: str = "llama") -> ModelConfig:
    """The configuration of a small model with 64 channels a head and other metadata; None takes a key out."""
    file = model_file(architecture=architecture)
    for key, value in changes.items():
        if value is not None:
            file.metadata[f"{architecture}.{key}"] = value
        else:
            file.metadata.pop(f"{architecture}.{key}", None)
    return load_model(file.write(tmp_path / "model.gguf")).config


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_yarn_scales_the_slow_frequencies_only(tmp_path: Path, architecture: str) -> None:
    rope = config_of(tmp_path, YARN, architecture).rope
    np.testing.assert_allclose(rope.angles(1, 1, 64)[0, ::4], FREQUENCIES, rtol=1e-6)
    assert rope.magnitude == pytest.approx(1 + 0.1 * math.log(4))


def test_the_range_between_and_the_multiplier_of_the_logarithm_are_read(tmp_path: Path) -> None:
    narrow = {"rope.scaling.yarn_beta_fast": 8.0, "rope.scaling.yarn_beta_slow": 2.0}
    rope = config_of(tmp_path, YARN | narrow | {"rope.scaling.yarn_log_multiplier": 0.5}).rope
    np.testing.assert_allclose(rope.angles(1, 1, 64)[0, ::4], NARROW, rtol=1e-6)
    assert rope.magnitude == pytest.approx(1.0648216253695715)


def test_without_an_original_context_it_is_the_context(tmp_path: Path) -> None:
    rope = config_of(tmp_path, YARN | {"rope.scaling.original_context_length": None}).rope
    assert rope.yarn == Yarn(4096)


def test_a_range_need_not_begin_at_a_whole_pair_but_does_in_the_way_of_ggml() -> None:
    np.testing.assert_allclose(GPT_OSS.angles(1, 1, 64)[0, ::3], GPT_OSS_FREQUENCIES, rtol=1e-6)
    whole = replace(GPT_OSS, yarn=Yarn(4096))
    ggml = GPT_OSS.angles(600, 1, 64, RopeAngles.F32_RECURRENCE)
    np.testing.assert_allclose(ggml, whole.angles(600, 1, 64), rtol=1e-5)
    assert np.abs(ggml / GPT_OSS.angles(600, 1, 64) - 1).max() > 0.01


def test_turned_queries_are_larger_by_the_magnitude() -> None:
    config = ModelConfig(GraphConfig("llama", 1, 64, 1, 1, 64, 64, 9), 64, 1e-6, Rope(1e4, magnitude=1.5))
    x = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    found = turned(x, 64, 3, config, 0, RopeAngles.F64)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.5 * np.linalg.norm(x, axis=1), rtol=1e-6)


@pytest.mark.parametrize("magnitude", [None, 1 + 0.1 * math.log(4)])
def test_a_magnitude_that_follows_from_the_scale_may_be_stated(tmp_path: Path, magnitude: float | None) -> None:
    stated = {"rope.scaling.yarn_attn_factor": magnitude, "rope.scaling.yarn_ext_factor": 1.0}
    assert config_of(tmp_path, YARN | stated).rope.magnitude == pytest.approx(1.138629)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("rope.scaling.yarn_ext_factor", 0.5, r"expected 1\.0: YaRN in part"),
        ("rope.scaling.yarn_attn_factor", 1.0, r"expected 1\.13863, which follows from the scale"),
        ("rope.scaling.yarn_beta_fast", 0.0, "expected a number > 0"),
        ("rope.scaling.yarn_beta_slow", -1.0, "expected a number > 0"),
        ("rope.scaling.yarn_log_multiplier", -1.0, "expected a number ≥ 0"),
        ("rope.scaling.original_context_length", 0, "expected one whole number ≥ 1"),
        ("rope.freq_base", 1.0, "expected a number > 1 with YaRN"),
    ],
)
def test_what_yarn_cannot_be_is_refused_by_name(tmp_path: Path, key: str, value: Any, expected: str) -> None:
    with pytest.raises(UnreadableError, match=rf"llama\.{key.replace('.', '[.]')} is .*{expected}"):
        config_of(tmp_path, YARN | {key: value})


@pytest.mark.parametrize(("key", "value"), [("yarn_ext_factor", 1.0), ("yarn_attn_factor", 1.5)])
def test_parts_of_yarn_without_it_are_refused(tmp_path: Path, key: str, value: float) -> None:
    with pytest.raises(UnreadableError, match=r"where rope\.scaling\.type is not 'yarn'"):
        config_of(tmp_path, {f"rope.scaling.{key}": value})


@pytest.mark.parametrize("length", ["long", "short"])
def test_factors_that_depend_on_the_context_are_refused(tmp_path: Path, length: str) -> None:
    """LongRoPE: which of two lists counts depends on how much context an engine was opened with."""
    file = model_file(architecture="llama")
    file.tensors[f"rope_factors_{length}.weight"] = Tensor(np.ones(32, np.float32).view(np.uint8), WeightType.F32)
    with pytest.raises(UnreadableError, match=rf"tensor rope_factors_{length}\.weight has no place in the llama graph"):
        load_model(file.write(tmp_path / "model.gguf"))
