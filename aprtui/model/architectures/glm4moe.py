"""GLM-4.5 and later, with experts (arXiv:2508.06471): the first layers are dense, the router takes a sigmoid, and
experts are chosen by what it gives plus a bias (arXiv:2408.15664), which their weights do not have.

Half of a head's channels are turned. Large ones normalise the heads of Q and K, which their weights say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from aprtui.model.architectures.base import (
    DENSE_MODULES,
    DRAFTING_LAYERS,
    EXPERT_KEYS,
    EXPERT_MODULES,
    Architecture,
    KeyRules,
    Keys,
)
from aprtui.model.config import ModelConfig
from aprtui.trace.graph import RopeLayout, Router

_DENSE = "leading_dense_block_count"
_SHARED = "expert_shared_count"
_SCALE = "expert_weights_scale"
_NORMALISED = "expert_weights_norm"
_OWN_KEYS = frozenset({_DENSE, _SHARED, _SCALE, _NORMALISED, DRAFTING_LAYERS})

_KEYS = KeyRules(
    EXPERT_KEYS.read | _OWN_KEYS,
    EXPERT_KEYS.ignored,
    MappingProxyType(
        {key: values for key, values in EXPERT_KEYS.required.items() if key not in _OWN_KEYS}
        | {"expert_gating_func": (2, 0)}
    ),
)

_MLP = "model.layers.{layer}.mlp"
_MODULES: Mapping[str, str] = MappingProxyType(
    {name: module for name, module in {**DENSE_MODULES, **EXPERT_MODULES}.items() if name != "ffn_norm"}
    | {
        "post_attention_norm": "model.layers.{layer}.post_attention_layernorm",
        "exp_probs_b": f"{_MLP}.gate.e_score_correction",
        "ffn_gate_shexp": f"{_MLP}.shared_experts.gate_proj",
        "ffn_up_shexp": f"{_MLP}.shared_experts.up_proj",
        "ffn_down_shexp": f"{_MLP}.shared_experts.down_proj",
    }
)


def _complete(keys: Keys, config: ModelConfig) -> ModelConfig:
    layers, dense = config.graph.layers, keys.integer(_DENSE, 0, least=0)
    if dense > layers:
        raise keys.refuse(_DENSE, f"at most the {layers} layers that there are")
    scale = keys.number(_SCALE, 0.0)
    if scale < 0:
        raise keys.refuse(_SCALE, "a number ≥ 0")
    graph = replace(
        config.graph, dense=tuple(layer < dense for layer in range(layers)) if dense else (), router=Router.SIGMOID,
        router_bias=True, normalised_experts=keys.flag(_NORMALISED, False), scaled_experts=scale not in (0, 1),
        shared_expert_ffn=keys.integer(_SHARED, 0, least=0) * config.graph.expert_ffn, shared_expert_gate=False,
        ffn_norm="post_attention_norm",
    )  # fmt: skip
    # As in llama.cpp: 0 means none.
    return replace(config, graph=graph, expert_weights_scale=scale or 1.0)


ARCHITECTURE = Architecture(
    name="glm4moe",
    rope_layout=RopeLayout.HALF_SPLIT,
    qk_norm=None,
    experts=True,
    partial_rope=True,
    transformers_class="Glm4MoeForCausalLM",
    keys=_KEYS,
    complete=_complete,
    transformers_modules=_MODULES,
)
