"""Qwen3-Next: as Qwen3.5 with experts, but beta and alpha come of one product, and value heads stand by key head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from aprtui.model.architectures.base import Architecture, Keys
from aprtui.model.architectures.qwen_hybrid import EXPERT_KEYS, EXPERT_MODULES, complete_experts
from aprtui.model.config import ModelConfig
from aprtui.trace.graph.config import RopeLayout

_LINEAR = "model.layers.{layer}.linear_attn"

_MODULES: Mapping[str, str] = MappingProxyType(
    {name: module for name, module in EXPERT_MODULES.items() if name not in ("ssm_beta", "ssm_alpha")}
    | {
        # One module for both: queries, keys, values and gates, key head by key head.
        "attn_qkv": f"{_LINEAR}.in_proj_qkvz",
        "attn_gate": f"{_LINEAR}.in_proj_qkvz",
        "ssm_ba": f"{_LINEAR}.in_proj_ba",
    }
)


def _complete(keys: Keys, config: ModelConfig) -> ModelConfig:
    config = complete_experts(keys, config)
    return replace(config, graph=replace(config.graph, grouped_value_heads=True, fused_beta_alpha=True))


ARCHITECTURE = Architecture(
    name="qwen3next",
    rope_layout=RopeLayout.HALF_SPLIT,
    qk_norm=True,
    experts=True,
    partial_rope=True,
    transformers_class="Qwen3NextForCausalLM",
    keys=EXPERT_KEYS,
    complete=_complete,
    transformers_modules=_MODULES,
)
