"""DeepSeek-V2, DeepSeek-V2-Lite and what is built like them (arXiv:2405.04434): latent attention, leading dense
layers, and experts of which some are used by every token.

A file with `attn_k_b` and `attn_v_b` is computed in the absorbed form, one with `attn_kv_b` in the expanded one, as by
llama.cpp. What the router gives is a softmax, or (DeepSeek-V3, arXiv:2412.19437) a sigmoid with a bias for the choice.
YaRN multiplies the scores in place of queries and keys. Queries may grow with their position (Mistral Large 3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from aprtui.model.architectures.base import Architecture, KeyRules, Keys
from aprtui.model.architectures.leading_dense import (
    LEADING_DENSE_KEYS,
    LEADING_DENSE_MODULES,
    with_groups,
    with_leading_dense,
)
from aprtui.model.architectures.mistral3 import TEMPERATURE, with_temperature
from aprtui.model.config import ModelConfig
from aprtui.trace.graph.config import GraphConfig, GroupScore, LatentAttention, RopeLayout, Router

_KEY, _VALUE = "attention.key_length", "attention.value_length"
_KEY_MLA, _VALUE_MLA = "attention.key_length_mla", "attention.value_length_mla"
_RANK, _QUERY_RANK = "attention.kv_lora_rank", "attention.q_lora_rank"
_KV_HEADS, _ROPE = "attention.head_count_kv", "rope.dimension_count"
_GATING, _MULTIPLIER = "expert_gating_func", "rope.scaling.yarn_log_multiplier"
_LENGTH = "attention.temperature_length"
_OWN_KEYS = frozenset({_KEY_MLA, _VALUE_MLA, _RANK, _QUERY_RANK, _GATING, TEMPERATURE, _LENGTH})

_KEYS = KeyRules(
    LEADING_DENSE_KEYS.read | _OWN_KEYS,
    LEADING_DENSE_KEYS.ignored,
    MappingProxyType({key: values for key, values in LEADING_DENSE_KEYS.required.items() if key != _GATING}),
)

_ATTENTION = "model.layers.{layer}.self_attn"
_MODULES: Mapping[str, str] = MappingProxyType(
    {
        **LEADING_DENSE_MODULES,
        "attn_q_a": f"{_ATTENTION}.q_a_proj",
        "attn_q_a_norm": f"{_ATTENTION}.q_a_layernorm",
        "attn_q_b": f"{_ATTENTION}.q_b_proj",
        "attn_kv_a_mqa": f"{_ATTENTION}.kv_a_proj_with_mqa",
        "attn_kv_a_norm": f"{_ATTENTION}.kv_a_layernorm",
        **dict.fromkeys(("attn_kv_b", "attn_k_b", "attn_v_b"), f"{_ATTENTION}.kv_b_proj"),
    }
)

_SOFTMAX, _SIGMOID = 1, 2
"""What `expert_gating_func` says."""
_SIGMOID_UNSTATED = ((47, 48), 154880)
"""Layers and vocabulary of GLM-4.7-Flash, whose first files do not state it; of all others it is the softmax."""


def _latent(keys: Keys) -> LatentAttention:
    absorbed = keys.name(_KEY_MLA) in keys.metadata
    key, value = (_KEY_MLA, _VALUE_MLA) if absorbed else (_KEY, _VALUE)
    rope, rank = keys.integer(_ROPE), keys.integer(_RANK)
    if rope % 2 or rope >= keys.integer(key):
        raise keys.refuse(_ROPE, f"an even number below the {keys.integer(key)} channels of a head")
    found = LatentAttention(
        rank, keys.integer(_QUERY_RANK, 0, least=0), keys.integer(key) - rope, rope, keys.integer(value), absorbed
    )
    expected = {_KV_HEADS: 1 if absorbed else keys.integer("attention.head_count")}
    if absorbed:
        expected |= {_KEY: found.key_dim, _VALUE: found.value_dim}
    elif keys.name(_VALUE_MLA) in keys.metadata:
        raise keys.refuse(_VALUE_MLA, f"{_KEY_MLA} beside it")
    for name, number in expected.items():
        if keys.integer(name) != number:
            raise keys.refuse(name, f"{number}, which follows from the sizes of latent attention")
    return found


def _complete(keys: Keys, config: ModelConfig) -> ModelConfig:
    config = with_leading_dense(keys, config)
    has_bias = any(name.endswith(".exp_probs_b.bias") for name in keys.tensors)
    graph = replace(config.graph, router=_router(keys, config), router_bias=has_bias)
    config = with_temperature(keys, replace(config, graph=graph), _LENGTH)
    if config.query_temperature is not None and (graph.router is Router.SIGMOID or graph.router_bias):
        raise keys.refuse(TEMPERATURE, "0 beside a sigmoid or a bias of the choice: transformers has no such class")
    return _with_scaled_scores(keys, replace(config, graph=with_groups(keys, config.graph, _group_score(config.graph))))


def _group_score(graph: GraphConfig) -> GroupScore:
    """DeepSeek-V2 was trained with groups that are as good as their best expert; of its router, a softmax without a
    bias, models of Mistral differ in queries that grow."""
    is_v2 = graph.router is Router.SOFTMAX and not graph.router_bias and not graph.query_temperature
    return GroupScore.LARGEST if is_v2 else GroupScore.TWO_LARGEST


def _router(keys: Keys, config: ModelConfig) -> Router:
    kind = keys.integer(_GATING, 0, least=0)
    if kind not in (0, _SOFTMAX, _SIGMOID):
        raise keys.refuse(_GATING, f"{_SOFTMAX} (softmax) or {_SIGMOID} (sigmoid)")
    layers, vocabulary = _SIGMOID_UNSTATED
    unstated = config.graph.layers in layers and config.graph.vocabulary == vocabulary
    return Router.SIGMOID if kind == _SIGMOID or (kind == 0 and unstated) else Router.SOFTMAX


def _with_scaled_scores(keys: Keys, config: ModelConfig) -> ModelConfig:
    """YaRN makes the scores (1 + m · ln(scale) / 10)² times as large, in place of queries and keys; m is the model's
    `mscale_all_dim`, of which files hold a tenth."""
    latent, rope = config.graph.latent, config.rope
    assert latent is not None
    head = (latent.nope + latent.rope) ** -0.5
    if rope.scale == 1:
        return replace(config, attention_scale=head)
    if rope.yarn is None:
        raise keys.refuse("rope.scaling.factor", "1 without YaRN: linear scaling is not supported here")
    multiplier = keys.number(_MULTIPLIER, 0.0)
    if multiplier <= 0:
        raise keys.refuse(_MULTIPLIER, "a number > 0 with YaRN: engines differ in what they make of a model without")
    magnitude = 1 + multiplier * math.log(rope.scale) if rope.scale > 1 else 1.0
    return replace(config, rope=replace(rope, magnitude=1.0), attention_scale=head * magnitude**2)


ARCHITECTURE = Architecture(
    name="deepseek2",
    rope_layout=RopeLayout.INTERLEAVED,
    qk_norm=False,
    experts=True,
    partial_rope=True,
    latent=_latent,
    transformers_class="DeepseekV2ForCausalLM",
    sigmoid_class="DeepseekV3ForCausalLM",
    temperature_class="Mistral4ForCausalLM",
    softmax_normalises=False,
    keys=_KEYS,
    complete=_complete,
    transformers_modules=_MODULES,
)
