"""What the metadata of Qwen3.5 and Qwen3-Next say about recurrent layers, RoPE, heads and experts; what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aprtui.errors import UnreadableError
from aprtui.model.facts import described, model_facts
from aprtui.model.model import Model, load_model
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node, TokenMixer
from tests.model.gguf_files import ModelFile, Tensor, model_file

SHAPE: dict[str, Any] = {"hidden": 64, "heads": 2, "kv_heads": 1, "head_dim": 32, "ffn": 64, "layers": 4}
ALL = ("qwen35", "qwen35moe", "qwen3next")


def changed(architecture: str = "qwen35", **changes: Any) -> ModelFile:
    """A small model with further metadata; None takes a key out."""
    file = model_file(architecture=architecture, **SHAPE)
    for key, value in changes.items():
        name = f"{architecture}.{key.replace('__', '.')}"
        file.metadata.pop(name, None)
        if value is not None:
            file.metadata[name] = value
    return file


def opened(file: ModelFile, folder: Path) -> Model:
    return load_model(file.write(folder / "model.gguf"))


@pytest.mark.parametrize("architecture", ALL)
def test_every_second_layer_has_attention_and_the_others_a_recurrence(architecture: str, tmp_path: Path) -> None:
    model = opened(changed(architecture), tmp_path)
    graph = model.config.graph
    assert graph.recurrent == (True, False, True, False)
    assert graph.layers_with(TokenMixer.ATTENTION) == (1, 3)
    assert (graph.linear_key_heads, graph.linear_value_heads, graph.linear_head_dim, graph.conv_kernel) == (2, 4, 32, 4)
    assert graph.gated_attention and graph.qk_norm and model.config.norm_offset
    assert graph.rope_dim == graph.rotated == 8
    assert bool(graph.shared_expert_ffn) == (architecture != "qwen35")
    assert model.graph.layer_marks == ("o", " ", "o", " ")
    for node in model.graph.nodes:
        kind = model.graph[node.stage].mixer
        assert kind is None or node.layer is None or graph.mixer(node.layer) is kind


def test_the_norm_behind_the_mixer_is_called_by_its_place_in_the_file(tmp_path: Path) -> None:
    (weight,) = opened(changed(), tmp_path).params(Node(0, "ffn_norm"))
    assert weight.name == "blk.0.post_attention_norm.weight"


def test_a_list_of_layers_goes_before_the_interval(tmp_path: Path) -> None:
    """Also where it says something of layers that only draft tokens."""
    file = changed(attention__recurrent_layers=[True, False, True, False, False], full_attention_interval=3)
    assert opened(file, tmp_path).config.graph.recurrent == (True, False, True, False)


def test_layers_that_only_draft_tokens_are_left_out(tmp_path: Path) -> None:
    file = changed(block_count=5, nextn_predict_layers=1)
    file.tensors["blk.4.nextn.enorm.weight"] = Tensor(file.tensors["blk.0.attn_norm.weight"].data, 0)
    model = opened(file, tmp_path)
    assert model.graph.layers == 4
    assert not any(name.startswith("blk.4.") for name in model.weights)


def test_an_unlisted_interval_is_four(tmp_path: Path) -> None:
    file = changed(full_attention_interval=None)
    with pytest.raises(UnreadableError, match=r"tensor blk\.1\.attn_qkv\.weight is missing"):
        opened(file, tmp_path)


def test_the_gate_stands_behind_the_query_in_each_head(tmp_path: Path) -> None:
    graph = opened(changed(), tmp_path).graph
    assert graph.config is not None
    assert graph["qkv_matmul"].width == 2 * graph.config.q_width + 2 * graph.config.kv_width
    assert graph["q_norm"].width == graph["attn_gate_sigmoid"].width == graph.config.q_width
    assert [stage.name for stage in graph.stages if stage.op is Op.HEAD_GATE] == ["attn_gate_sigmoid"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ssm.inner_size", 96),
        ("ssm.time_step_rank", 3),
        ("ssm.conv_kernel", 1),
        ("ssm.state_size", 0),
        ("rope.dimension_count", 9),
        ("rope.dimension_count", 64),
        ("rope.dimension_sections", [1, 1, 1, 0]),
        ("rope.dimension_sections", "all"),
        ("attention.recurrent_layers", [True]),
        ("attention.recurrent_layers", "all"),
        ("nextn_predict_layers", 4),
        ("attention.scale", 0.5),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(UnreadableError, match=rf"qwen35\.{key.replace('.', '[.]')} is "):
        opened(changed(**{key.replace(".", "__"): value}), tmp_path)


def test_one_product_gives_beta_and_alpha_of_qwen3next_whose_value_heads_stand_by_key_head(tmp_path: Path) -> None:
    model = opened(changed("qwen3next"), tmp_path)
    (weight,) = model.params(Node(0, "linear_attn_mixed_ba"))
    assert (weight.name, weight.rows) == ("blk.0.ssm_ba.weight", 8)
    for stage in ("linear_attn_beta", "linear_attn_alpha"):
        assert model.graph.inputs(Node(0, stage)) == (Node(0, "linear_attn_mixed_ba"),)
        assert model.graph[stage].head_size == 2 and not model.graph[stage].params
    assert model.config.graph.value_heads_by_key_head == (0, 1, 2, 3)
    assert opened(changed("qwen35moe"), tmp_path).config.graph.value_heads_by_key_head == (0, 2, 1, 3)


def test_a_file_of_qwen3next_before_queries_to_values_had_a_tensor_is_refused(tmp_path: Path) -> None:
    file = changed("qwen3next")
    del file.tensors["blk.0.attn_qkv.weight"]
    file.tensors["blk.0.ssm_in.weight"] = file.tensors.pop("blk.0.attn_gate.weight")
    with pytest.raises(UnreadableError, match=r"blk\.0\.attn_qkv\.weight is missing.*convert the model again"):
        opened(file, tmp_path)


@pytest.mark.parametrize("name", ["ssm_a", "ssm_dt.bias", "ssm_conv1d.weight", "attn_gate.weight"])
def test_a_missing_tensor_of_a_recurrence_is_named(tmp_path: Path, name: str) -> None:
    file = changed()
    del file.tensors[f"blk.2.{name}"]
    with pytest.raises(UnreadableError, match=rf"tensor blk\.2\.{name} is missing"):
        opened(file, tmp_path)


def test_the_facts_tell_what_a_port_is_likely_to_miss(tmp_path: Path) -> None:
    facts = model_facts(opened(changed("qwen35moe"), tmp_path))
    rows = [text for _, text in described(facts)]
    assert "2 heads for Q and K, 4 for V, of 32 channels, a convolution over 4 tokens" in rows
    assert "a state of 16.4 kB a layer" in rows
    assert any("the first 8 channels of a head" in text for text in rows)
    for words in ("a gate, which stands behind the query", "counted across the key heads", "one that every token uses"):
        assert any(words in sentence for sentence in facts.unusual), words
    unusual = model_facts(opened(changed("qwen3next"), tmp_path)).unusual
    for words in ("counted key head by key head, not across", "for each key head its betas, then its alphas"):
        assert any(words in sentence for sentence in unusual), words
