"""What the metadata and tensors of GLM with experts say, and what is refused of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from aprtui.errors import UnreadableError
from aprtui.model.facts import described, model_facts
from aprtui.model.model import Model, load_model
from aprtui.trace.graph.config import Router
from aprtui.trace.graph.stage import BlockKind, Node
from tests.model.gguf_files import ModelFile, Tensor, model_file


def changed(changes: Mapping[str, Any] | None = None, layers: int = 3) -> ModelFile:
    """A small model with other metadata; None takes a key out."""
    file = model_file(architecture="glm4moe", layers=layers)
    for key, value in (changes or {}).items():
        file.metadata.pop(f"glm4moe.{key}", None)
        if value is not None:
            file.metadata[f"glm4moe.{key}"] = value
    return file


def opened(file: ModelFile, folder: Path) -> Model:
    return load_model(file.write(folder / "model.gguf"))


def test_the_first_layer_is_dense_and_a_sigmoid_with_a_bias_chooses_the_experts_of_the_others(tmp_path: Path) -> None:
    model = opened(changed(), tmp_path)
    graph = model.config.graph
    assert [graph.feed_forward(layer) for layer in range(3)] == [BlockKind.DENSE, *[BlockKind.EXPERTS] * 2]
    assert (graph.router, graph.router_bias, graph.normalised_experts) == (Router.SIGMOID, True, True)
    assert (graph.shared_expert_ffn, graph.shared_expert_gate) == (512, False)
    assert graph.scaled_experts and model.config.expert_weights_scale == 1.5
    assert (graph.rotated, graph.head_dim) == (32, 64)
    assert model.graph.layer_marks == (" ", "+", "+")
    names = {stage: [weight.name for weight in model.params(Node(1, stage))] for stage in model.graph.names}
    assert names["ffn_moe_probs_biased"] == ["blk.1.exp_probs_b.bias"]
    assert names["ffn_norm"] == ["blk.1.post_attention_norm.weight"]
    assert [weight.name for weight in model.params(Node(0, "ffn_gate"))] == ["blk.0.ffn_gate.weight"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"expert_weights_scale": None}, {"scaled_experts": False}),
        ({"expert_weights_scale": 1.0}, {"scaled_experts": False}),
        ({"expert_weights_norm": False}, {"normalised_experts": False}),
        ({"expert_weights_norm": None}, {"normalised_experts": False}),
        ({"expert_gating_func": None}, {"router": Router.SIGMOID}),
        ({"expert_group_count": 1, "expert_group_used_count": 1}, {"router_bias": True}),
    ],
    ids=str,
)
def test_what_is_not_stated_is_what_llama_cpp_takes(
    tmp_path: Path, changes: Mapping[str, Any], expected: Mapping[str, Any]
) -> None:
    graph = opened(changed(changes), tmp_path).config.graph
    assert {name: getattr(graph, name) for name in expected} == expected


def test_heads_are_normalised_where_the_file_has_the_weights_of_it(tmp_path: Path) -> None:
    file = changed()
    assert opened(file, tmp_path).config.graph.qk_norm
    for layer in range(3):
        for name in ("attn_q_norm", "attn_k_norm"):
            del file.tensors[f"blk.{layer}.{name}.weight"]
    assert not opened(file, tmp_path).config.graph.qk_norm


def test_layers_that_only_draft_tokens_are_left_out(tmp_path: Path) -> None:
    file = changed({"block_count": 4, "nextn_predict_layers": 1})
    file.tensors["blk.3.nextn.enorm.weight"] = Tensor(file.tensors["blk.0.attn_norm.weight"].data, 0)
    model = opened(file, tmp_path)
    assert model.graph.layers == 3 and not any(name.startswith("blk.3.") for name in model.weights)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("expert_gating_func", 1),
        ("expert_group_count", 3),
        ("leading_dense_block_count", 4),
        ("expert_weights_scale", -1.0),
        ("expert_weights_norm", 1),
        ("expert_used_count", 9),
        ("rope.dimension_count", 66),
        ("attention.scale", 0.5),
        ("attention.sliding_window", 16),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(UnreadableError, match=rf"glm4moe\.{key.replace('.', '[.]')} is "):
        opened(changed({key: value}), tmp_path)


def test_sections_of_rope_which_pictures_need_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match=r"metadata key glm4moe\.rope\.dimension_sections is not supported"):
        opened(changed({"rope.dimension_sections": [8, 12, 12, 0]}), tmp_path)


@pytest.mark.parametrize(
    "name", ["blk.0.ffn_gate.weight", "blk.1.exp_probs_b.bias", "blk.2.ffn_up_shexp.weight", "blk.1.attn_q_norm.weight"]
)
def test_a_missing_tensor_is_named(tmp_path: Path, name: str) -> None:
    file = changed()
    del file.tensors[name]
    with pytest.raises(UnreadableError, match=rf"tensor {name.replace('.', '[.]')} is missing"):
        opened(file, tmp_path)


def test_a_tensor_of_the_other_kind_of_block_has_no_place(tmp_path: Path) -> None:
    file = changed()
    file.tensors["blk.1.ffn_gate.weight"] = file.tensors["blk.0.ffn_gate.weight"]
    with pytest.raises(UnreadableError, match=r"tensor blk\.1\.ffn_gate\.weight has no place in the glm4moe graph"):
        opened(file, tmp_path)


def test_the_facts_tell_what_a_port_is_likely_to_miss(tmp_path: Path) -> None:
    facts = model_facts(opened(changed(), tmp_path))
    assert any("the first 32 channels of a head" in text for _, text in described(facts))
    for words in (
        "1 layer of 3 have no experts",
        "they do not add up to 1",
        "weighted by what it gives without",
        "multiplied by 1.5",
        "there is one that every token uses",
    ):
        assert any(words in sentence for sentence in facts.unusual), words
