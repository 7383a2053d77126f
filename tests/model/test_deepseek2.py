"""What the metadata and tensors of DeepSeek-V2 and models like it say, and what is refused of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprtui.errors import UnreadableError
from aprtui.model.architectures.registry import ARCHITECTURES
from aprtui.model.facts import described, model_facts
from aprtui.model.model import Model, load_model
from aprtui.trace.graph.config import ExpertGroups, GroupScore, LatentAttention, Router
from aprtui.trace.graph.stage import BlockKind, Node
from tests.model.gguf_files import NOPE, OF_MISTRAL_LARGE, RANK, ROPE, VALUE, ModelFile, model_file

YARN = 1 + 0.0707 * math.log(4)
"""What the small model makes queries and keys larger by, in effect: it is squared in the scale of the scores."""


def changed(changes: Mapping[str, Any] | None = None, **options: Any) -> ModelFile:
    """A small model with other metadata; None takes a key out."""
    file = model_file(architecture="deepseek2", **options)
    for key, value in (changes or {}).items():
        file.metadata.pop(f"deepseek2.{key}", None)
        if value is not None:
            file.metadata[f"deepseek2.{key}"] = value
    return file


def opened(file: ModelFile, folder: Path) -> Model:
    return load_model(file.write(folder / "model.gguf"))


def without_yarn(file: ModelFile) -> ModelFile:
    file.metadata = {key: value for key, value in file.metadata.items() if ".rope.scaling." not in key}
    return file


@pytest.mark.parametrize(
    ("absorbed", "heads", "widths"),
    [(True, 1, (RANK + ROPE, RANK)), (False, 4, (NOPE + ROPE, VALUE))],
    ids=["absorbed", "expanded"],
)
def test_the_tensors_of_a_file_say_in_which_form_its_attention_is_computed(
    tmp_path: Path, absorbed: bool, heads: int, widths: tuple[int, int]
) -> None:
    model = opened(changed(absorbed=absorbed, query_rank=64), tmp_path)
    graph = model.config.graph
    assert graph.latent == LatentAttention(RANK, 64, NOPE, ROPE, VALUE, absorbed)
    assert (graph.heads, graph.kv_heads, graph.head_dim, graph.value_dim) == (4, heads, *widths)
    assert [graph.feed_forward(layer) for layer in range(2)] == [BlockKind.DENSE, BlockKind.EXPERTS]
    assert (graph.router, graph.router_bias, graph.normalised_experts) == (Router.SOFTMAX, False, False)
    used = {stage: [weight.name for weight in model.params(Node(1, stage))] for stage in model.graph.names}
    assert used["q_a"] == ["blk.1.attn_q_a.weight"] and used["mla_q"] == ["blk.1.attn_q_b.weight"]
    assert used["kv_cmpr"] == ["blk.1.attn_kv_a_norm.weight"]
    if absorbed:
        assert used["attention"] == ["blk.1.attn_v_b.weight"]
        assert used["q_nope_absorbed"] == ["blk.1.attn_k_b.weight"]
    else:
        assert used["mla_kv"] == ["blk.1.attn_kv_b.weight"]


def test_a_model_without_a_rank_of_queries_makes_them_of_the_hidden_state(tmp_path: Path) -> None:
    for rank in (None, 0):
        model = opened(changed({"attention.q_lora_rank": rank}), tmp_path)
        assert "q_a" not in model.graph
        assert [weight.name for weight in model.params(Node(0, "mla_q"))] == ["blk.0.attn_q.weight"]


def test_yarn_makes_scores_larger_in_place_of_queries_and_keys(tmp_path: Path) -> None:
    config = opened(changed(), tmp_path).config
    assert config.rope.magnitude == 1 and config.rope.yarn is not None
    assert config.score_scale == pytest.approx(YARN**2 / (NOPE + ROPE) ** 0.5, rel=1e-7)
    plain = opened(without_yarn(changed()), tmp_path).config
    assert plain.rope.yarn is None and plain.score_scale == (NOPE + ROPE) ** -0.5


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"expert_gating_func": 0}, {"router": Router.SOFTMAX}),
        ({"expert_gating_func": 1}, {"router": Router.SOFTMAX}),
        ({"expert_weights_scale": 2.5}, {"scaled_experts": True}),
        ({"expert_weights_norm": True}, {"normalised_experts": True}),
        ({"expert_group_count": 1, "expert_group_used_count": 1}, {"router_bias": False}),
        ({"leading_dense_block_count": None}, {"dense": ()}),
    ],
    ids=str,
)
def test_what_is_not_stated_is_what_llama_cpp_takes(
    tmp_path: Path, changes: Mapping[str, Any], expected: Mapping[str, Any]
) -> None:
    file = changed(changes)
    if "leading_dense_block_count" in changes:
        for name in [name for name in file.tensors if name.startswith("blk.1.ffn_")]:
            file.tensors[name.replace("blk.1.", "blk.0.")] = file.tensors[name]
        for name in ("gate", "up", "down"):
            del file.tensors[f"blk.0.ffn_{name}.weight"]
    graph = opened(file, tmp_path).config.graph
    assert {name: getattr(graph, name) for name in expected} == expected


def test_a_model_of_dense_layers_alone_has_no_experts(tmp_path: Path) -> None:
    file = changed({"leading_dense_block_count": 2, "expert_count": None, "expert_used_count": None})
    for name in [name for name in file.tensors if name.startswith("blk.1.ffn_") and "norm" not in name]:
        del file.tensors[name]
    for name in ("gate", "up", "down"):
        file.tensors[f"blk.1.ffn_{name}.weight"] = file.tensors[f"blk.0.ffn_{name}.weight"]
    graph = opened(file, tmp_path).config.graph
    assert (graph.experts, graph.dense) == (0, ())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention.key_length", 64),
        ("attention.value_length", 32),
        ("attention.head_count_kv", 4),
        ("attention.temperature_scale", -0.1),
        ("attention.scale", 0.5),
        ("attention.sliding_window", 16),
        ("rope.dimension_count", 31),
        ("rope.scaling.yarn_log_multiplier", -0.1),
        ("rope.scaling.yarn_log_multiplier", 0.0),
        ("expert_gating_func", 3),
        ("leading_dense_block_count", 3),
        ("expert_weights_scale", -1.0),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(UnreadableError, match=rf"deepseek2\.{key.replace('.', '[.]')} is "):
        opened(changed({key: value}), tmp_path)


def test_a_sigmoid_with_a_bias_chooses_the_experts_of_models_like_deepseek_v3(tmp_path: Path) -> None:
    model = opened(changed(sigmoid=True), tmp_path)
    graph = model.config.graph
    assert (graph.router, graph.router_bias, graph.normalised_experts) == (Router.SIGMOID, True, True)
    assert model.config.expert_weights_scale == 1.5
    used = [weight.name for weight in model.params(Node(1, "ffn_moe_probs_biased"))]
    assert used == ["blk.1.exp_probs_b.bias"]


@pytest.mark.parametrize(
    ("sigmoid", "groups", "expected"),
    [
        (False, (4, 2), ExpertGroups(4, 2, GroupScore.LARGEST)),
        (True, (4, 2), ExpertGroups(4, 2, GroupScore.TWO_LARGEST)),
        (True, (1, 1), None),
        (True, (4, 4), None),
    ],
)
def test_groups_of_experts_are_scored_as_the_authors_of_the_model_do(
    tmp_path: Path, sigmoid: bool, groups: tuple[int, int], expected: ExpertGroups | None
) -> None:
    model = opened(changed(sigmoid=sigmoid, groups=groups), tmp_path)
    assert model.config.graph.expert_groups == expected
    said = [fact for fact in model_facts(model).unusual if "groups of experts" in fact]
    assert len(said) == (expected is not None)


def test_queries_grow_with_their_position_where_the_file_says_so(tmp_path: Path) -> None:
    """As in Mistral Large 3, whose groups of experts would be as good as their best two, too."""
    file = changed(groups=(4, 2))
    file.metadata |= OF_MISTRAL_LARGE
    model = opened(file, tmp_path)
    growth = model.config.query_temperature
    assert growth is not None and growth.length == 8 and abs(growth.scale - 0.1) < 1e-7
    assert model.graph["q_temp_scaled"].inputs[0].stage == "q_latent"
    assert model.config.graph.expert_groups == ExpertGroups(4, 2, GroupScore.TWO_LARGEST)
    assert ARCHITECTURES["deepseek2"].class_for(model.config.graph) == "Mistral4ForCausalLM"
    assert "q_temp_scaled" not in opened(changed({"attention.temperature_scale": 0.0}), tmp_path).graph


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({"attention.temperature_length": None}, {}, "temperature_length is missing"),
        ({"attention.temperature_length": 0}, {}, "temperature_length is 0, expected one whole number"),
        ({}, {"sigmoid": True}, r"temperature_scale is 0\.1.*, expected 0 beside a sigmoid"),
    ],
    ids=str,
)
def test_growing_queries_that_no_engine_has_are_refused(
    tmp_path: Path, changes: Mapping[str, Any], options: Mapping[str, Any], said: str
) -> None:
    file = changed(**options)
    file.metadata |= OF_MISTRAL_LARGE | {f"deepseek2.{key}": value for key, value in changes.items()}
    file.metadata = {key: value for key, value in file.metadata.items() if value is not None}
    with pytest.raises(UnreadableError, match=rf"deepseek2\.attention\.{said}"):
        opened(file, tmp_path)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ((3, 2), "group_count is 3, expected a divisor of the 8 experts"),
        ((8, 4), "group_count is 8, expected a divisor of the 8 experts that leaves two or more in a group"),
        ((0, 2), "group_count is None, expected a divisor"),
        ((1, 2), "group_used_count is 2, expected 1 to 1"),
        ((4, 0), "group_used_count is 0, expected 2 to 4: groups with the 3 experts of a token"),
        ((4, 1), "group_used_count is 1, expected 2 to 4"),
        ((4, 5), "group_used_count is 5, expected 2 to 4"),
    ],
)
def test_groups_that_cannot_be_are_refused_by_name(tmp_path: Path, groups: tuple[int, int], said: str) -> None:
    file = changed(experts_used=3)
    file.metadata |= {"deepseek2.expert_group_used_count": groups[1]}
    if groups[0]:
        file.metadata |= {"deepseek2.expert_group_count": groups[0]}
    with pytest.raises(UnreadableError, match=rf"deepseek2\.expert_{said}"):
        opened(file, tmp_path)


def test_linear_scaling_is_refused_since_engines_differ_in_its_scores(tmp_path: Path) -> None:
    file = without_yarn(changed())
    file.metadata["deepseek2.rope.scaling.factor"] = 4.0
    with pytest.raises(UnreadableError, match=r"rope\.scaling\.factor is 4\.0, expected 1 without YaRN"):
        opened(file, tmp_path)


def test_a_value_size_without_that_of_keys_is_refused(tmp_path: Path) -> None:
    file = changed({"attention.value_length_mla": VALUE}, absorbed=False)
    with pytest.raises(UnreadableError, match=r"value_length_mla is 32, expected attention\.key_length_mla beside it"):
        opened(file, tmp_path)


@pytest.mark.parametrize(
    "name",
    ["blk.0.attn_kv_a_mqa.weight", "blk.1.attn_kv_a_norm.weight", "blk.1.attn_k_b.weight", "blk.0.attn_q.weight"],
)
def test_a_missing_tensor_is_named(tmp_path: Path, name: str) -> None:
    file = changed()
    del file.tensors[name]
    with pytest.raises(UnreadableError, match=rf"tensor {name.replace('.', '[.]')} is missing"):
        opened(file, tmp_path)


def test_a_tensor_of_the_other_form_has_no_place(tmp_path: Path) -> None:
    file = changed()
    file.tensors["blk.1.attn_kv_b.weight"] = changed(absorbed=False).tensors["blk.1.attn_kv_b.weight"]
    with pytest.raises(UnreadableError, match=r"tensor blk\.1\.attn_kv_b\.weight has no place in the deepseek2 graph"):
        opened(file, tmp_path)


def test_a_matrix_with_another_number_of_heads_is_named_with_its_shape(tmp_path: Path) -> None:
    file = changed()
    whole = file.tensors["blk.0.attn_v_b.weight"]
    file.tensors["blk.0.attn_v_b.weight"] = type(whole)(np.ascontiguousarray(whole.data[:2]), whole.type)
    with pytest.raises(UnreadableError, match=rf"attn_v_b\.weight has shape \[2, {VALUE}, {RANK}\], expected \[4, "):
        opened(file, tmp_path)


def test_the_facts_tell_what_a_port_is_likely_to_miss(tmp_path: Path) -> None:
    facts = model_facts(opened(changed(), tmp_path))
    rows = dict(described(facts))
    assert (
        rows["heads"]
        == f"4 of {NOPE} + {ROPE} channels for Q and K, {VALUE} for V, of rows of {RANK} + {ROPE} for K and V"
    )
    assert f"the last {ROPE} channels of a head" in rows["RoPE"]
    for words in (
        f"made of one row of {RANK} channels a token",
        "the absorbed form",
        f"the last {ROPE} channels of a head; of keys, all heads share them",
        f"{YARN**2:.6g} times as large",
        "there is one that every token uses",
    ):
        assert any(words in sentence for sentence in facts.unusual), words
