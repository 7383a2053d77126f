"""What the metadata and tensors of gpt-oss say, and what is refused of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprtui.errors import UnreadableError
from aprtui.model.config import Yarn
from aprtui.model.model import Model, load_model
from aprtui.model.weight_types import WeightType
from aprtui.trace.graph.config import Activation
from aprtui.trace.graph.stage import Node
from tests.model.gguf_files import ModelFile, Tensor, model_file


def loaded(tmp_path: Path, changes: Mapping[str, Any] | None = None, layers: int = 2) -> Model:
    """A small model with other metadata; None takes a key out."""
    file = model_file(architecture="gpt-oss", weight_type=WeightType.MXFP4, layers=layers)
    for key, value in (changes or {}).items():
        file.metadata.pop(f"gpt-oss.{key}", None)
        if value is not None:
            file.metadata[f"gpt-oss.{key}"] = value
    return load_model(file.write(tmp_path / "model.gguf"))


def problem(tmp_path: Path, file: ModelFile) -> str:
    with pytest.raises(UnreadableError) as caught:
        load_model(file.write(tmp_path / "model.gguf"))
    return str(caught.value)


def test_every_second_layer_has_a_window_and_all_have_sinks_experts_and_biases(tmp_path: Path) -> None:
    model = loaded(tmp_path, layers=3)
    graph = model.config.graph
    assert graph.windows == (16, 0, 16)
    assert model.graph.layer_marks == ("~", " ", "~")
    assert graph.sinks and graph.attn_out_bias and graph.biased_experts and graph.qkv_bias
    assert graph.activation is Activation.SWIGLU_OAI
    assert (graph.experts, graph.experts_used, graph.expert_ffn) == (8, 2, 256)


def test_the_range_of_yarn_is_not_rounded_to_whole_pairs(tmp_path: Path) -> None:
    rope = loaded(tmp_path).config.rope
    assert rope.yarn == Yarn(64, whole_pairs=False)
    assert rope.magnitude == pytest.approx(1.3465735902799727)
    plain = loaded(tmp_path, {"rope.scaling.type": None, "rope.scaling.factor": None}).config.rope
    assert plain.yarn is None and plain.magnitude == 1


def test_parameters_are_the_tensors_that_llama_cpp_writes(tmp_path: Path) -> None:
    model = loaded(tmp_path)
    names = {stage.name: [w.name for w in model.params(Node(1, stage.name))] for stage in model.graph.stages}
    assert names["attn_softmax"] == ["blk.1.attn_sinks.weight"]
    assert names["attn_out_matmul"] == ["blk.1.attn_output.weight"]
    assert names["attn_out"] == ["blk.1.attn_output.bias"]
    assert names["ffn_norm"] == ["blk.1.post_attention_norm.weight"]
    assert names["moe_router"] == ["blk.1.ffn_gate_inp.bias"]
    assert names["ffn_moe_down_biased"] == ["blk.1.ffn_down_exps.bias"]
    (biases,) = model.params(Node(1, "ffn_moe_up_biased"))
    assert (biases.rows, biases.columns, biases.experts) == (8, 256, 1)
    (down,) = model.params(Node(1, "ffn_moe_down"))
    assert (down.type, down.experts, down.expert_rows) == (WeightType.MXFP4, 8, 256)
    assert not down.data.flags.writeable, "read in place"


@pytest.mark.parametrize(
    ("key", "value"),
    [("expert_gating_func", 3), ("expert_weights_norm", True), ("expert_weights_norm", False),
     ("expert_weights_scale", 1.0), ("attention.sliding_window_pattern", 2)],
)  # fmt: skip
def test_keys_that_say_what_is_so_are_accepted(tmp_path: Path, key: str, value: Any) -> None:
    assert loaded(tmp_path, {key: value}).config.graph.windows == (16, 0)


def test_a_list_says_which_layers_have_a_window(tmp_path: Path) -> None:
    model = loaded(tmp_path, {"attention.sliding_window_pattern": [False, True]})
    assert model.config.graph.windows == (0, 16)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("expert_gating_func", 1),
        ("expert_weights_scale", 2.5),
        ("expert_shared_count", 1),
        ("expert_group_count", 4),
        ("leading_dense_block_count", 1),
        ("attention.sliding_window_pattern", "all"),
        ("attention.scale", 0.5),
        ("final_logit_softcapping", 30.0),
        ("expert_used_count", 9),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(UnreadableError, match=rf"gpt-oss\.{key.replace('.', '[.]')} is "):
        loaded(tmp_path, {key: value})


def test_a_key_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match=r"metadata key gpt-oss\.swiglu_clamp_exp is not supported"):
        loaded(tmp_path, {"swiglu_clamp_exp": [7.0, 7.0]})


@pytest.mark.parametrize(
    "name",
    ["attn_sinks.weight", "attn_output.bias", "attn_k.bias", "post_attention_norm.weight", "ffn_gate_inp.bias",
     "ffn_up_exps.bias", "ffn_gate_exps.weight"],
)  # fmt: skip
def test_a_missing_tensor_is_named(tmp_path: Path, name: str) -> None:
    file = model_file(architecture="gpt-oss")
    del file.tensors[f"blk.1.{name}"]
    assert f"tensor blk.1.{name} is missing" in problem(tmp_path, file)


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    file = model_file(architecture="gpt-oss")
    file.tensors["blk.0.attn_sinks.weight"] = Tensor(np.zeros(5, np.float32).view(np.uint8), WeightType.F32)
    assert "tensor blk.0.attn_sinks.weight has shape [5], expected [4]" in problem(tmp_path, file)
    file = model_file(architecture="gpt-oss")
    file.tensors["blk.0.ffn_up_exps.bias"] = Tensor(np.zeros((7, 256), np.float32).view(np.uint8), WeightType.F32)
    assert "tensor blk.0.ffn_up_exps.bias has shape [7, 256], expected [8, 256]" in problem(tmp_path, file)


def test_a_file_that_ends_early_is_one_line(tmp_path: Path) -> None:
    path = model_file(architecture="gpt-oss", weight_type=WeightType.MXFP4).write(tmp_path / "model.gguf")
    whole = path.read_bytes()
    for part in (0.1, 0.5, 0.99):
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(UnreadableError) as caught:
            load_model(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
