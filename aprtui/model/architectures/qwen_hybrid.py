"""What the Qwen models with recurrent layers have in common (gated delta rule: arXiv:2412.06464)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from aprtui.model.architectures import base
from aprtui.model.architectures.base import DRAFTING_LAYERS, KeyRules, Keys
from aprtui.model.config import ModelConfig

_INTERVAL = "full_attention_interval"
_LAYERS = "attention.recurrent_layers"
_SECTIONS = "rope.dimension_sections"
_SHARED = "expert_shared_feed_forward_length"
_OWN_KEYS = frozenset(
    {
        "ssm.conv_kernel", "ssm.state_size", "ssm.group_count", "ssm.time_step_rank", "ssm.inner_size", _LAYERS,
        _INTERVAL, _SECTIONS, DRAFTING_LAYERS,
    }
)  # fmt: skip


def _with_own(rules: KeyRules, *more: str) -> KeyRules:
    own = _OWN_KEYS | set(more)
    required = {key: values for key, values in rules.required.items() if key not in own}
    return KeyRules(rules.read | own, rules.ignored, MappingProxyType(required))


KEYS = _with_own(base.DENSE_KEYS)
EXPERT_KEYS = _with_own(base.EXPERT_KEYS, _SHARED)

_LINEAR = "model.layers.{layer}.linear_attn"
_OWN_MODULES: Mapping[str, str] = MappingProxyType(
    {
        "post_attention_norm": "model.layers.{layer}.post_attention_layernorm",
        "attn_qkv": f"{_LINEAR}.in_proj_qkv",
        "attn_gate": f"{_LINEAR}.in_proj_z",
        "ssm_beta": f"{_LINEAR}.in_proj_b",
        "ssm_alpha": f"{_LINEAR}.in_proj_a",
        "ssm_conv1d": f"{_LINEAR}.conv1d",
        "ssm_dt": f"{_LINEAR}.dt_proj",  # `dt_bias`, a parameter, as converters call it
        "ssm_a": f"{_LINEAR}.A_log",  # a parameter as well; the file holds −exp of it
        "ssm_norm": f"{_LINEAR}.norm",
        "ssm_out": f"{_LINEAR}.out_proj",
    }
)


def _modules(modules: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType({name: path for name, path in modules.items() if name != "ffn_norm"} | dict(_OWN_MODULES))


MODULES = _modules(base.DENSE_MODULES)
EXPERT_MODULES = MappingProxyType(
    dict(_modules(base.EXPERT_MODULES))
    | {
        "ffn_gate_inp_shexp": "model.layers.{layer}.mlp.shared_expert_gate",
        "ffn_gate_shexp": "model.layers.{layer}.mlp.shared_expert.gate_proj",
        "ffn_up_shexp": "model.layers.{layer}.mlp.shared_expert.up_proj",
        "ffn_down_shexp": "model.layers.{layer}.mlp.shared_expert.down_proj",
    }
)


def complete(keys: Keys, config: ModelConfig) -> ModelConfig:
    """`config` with gated attention and the recurrence of the layers that have one."""
    _check_sections(keys, config)
    head_dim, key_heads = keys.integer("ssm.state_size"), keys.integer("ssm.group_count")
    value_heads = keys.integer("ssm.time_step_rank")
    if value_heads % key_heads:
        raise keys.refuse("ssm.time_step_rank", f"a multiple of the {key_heads} key heads")
    if keys.integer("ssm.inner_size") != value_heads * head_dim:
        raise keys.refuse(
            "ssm.inner_size", f"{value_heads * head_dim}: {value_heads} value heads as wide as those of keys"
        )
    graph = replace(
        config.graph, gated_attention=True, recurrent=_recurrent_layers(keys, config.graph.layers),
        linear_key_heads=key_heads, linear_value_heads=value_heads, linear_head_dim=head_dim,
        conv_kernel=keys.integer("ssm.conv_kernel", least=2), ffn_norm="post_attention_norm",
    )  # fmt: skip
    return replace(config, graph=graph, norm_offset=True)


def complete_experts(keys: Keys, config: ModelConfig) -> ModelConfig:
    """The same with the expert that every token uses."""
    config = complete(keys, config)
    shared = keys.integer(_SHARED, config.graph.ffn)
    return replace(config, graph=replace(config.graph, shared_expert_ffn=shared))


def _recurrent_layers(keys: Keys, layers: int) -> tuple[bool, ...]:
    """Which layers have a recurrence: as the file lists them, else all but every fourth or so."""
    listed = keys.metadata.get(keys.name(_LAYERS))
    if listed is None:
        interval = keys.integer(_INTERVAL, 4)
        return tuple((layer + 1) % interval > 0 for layer in range(layers))
    if not isinstance(listed, np.ndarray) or len(listed) < layers or listed.dtype.kind not in "biu":
        raise keys.refuse(_LAYERS, f"{layers} values, one for each layer")
    return tuple(bool(recurrent) for recurrent in listed[:layers])


def _check_sections(keys: Keys, config: ModelConfig) -> None:
    """Frequencies of a section turn by its own position, and those of none by no position; text has one for all."""
    sections = keys.metadata.get(keys.name(_SECTIONS))
    if sections is None:
        return
    pairs = config.graph.rotated // 2
    if not isinstance(sections, np.ndarray) or sections.dtype.kind not in "iu" or not 3 <= len(sections) <= 4:
        raise keys.refuse(_SECTIONS, "three or four whole numbers")
    if any(pair >= 3 * sections[pair % 3] for pair in range(pairs)):
        raise keys.refuse(_SECTIONS, f"sections that all {pairs} pairs of rotated channels belong to")
