"""What GLM-4.5 and DeepSeek-V2 have in common: leading layers without experts, experts that every token uses beside
those it chooses, and weights of the chosen ones that are normalised or scaled as the file says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from aprtui.model.architectures.base import (
    DENSE_MODULES,
    DRAFTING_LAYERS,
    EXPERT_KEYS,
    EXPERT_MODULES,
    LEADING_DENSE,
    KeyRules,
    Keys,
)
from aprtui.model.config import ModelConfig
from aprtui.trace.graph.config import ExpertGroups, GraphConfig, GroupScore

_SHARED = "expert_shared_count"
_SCALE = "expert_weights_scale"
_NORMALISED = "expert_weights_norm"
_GROUPS, _GROUPS_USED = "expert_group_count", "expert_group_used_count"
_OWN_KEYS = frozenset({LEADING_DENSE, _SHARED, _SCALE, _NORMALISED, _GROUPS, _GROUPS_USED, DRAFTING_LAYERS})

LEADING_DENSE_KEYS = KeyRules(
    EXPERT_KEYS.read | _OWN_KEYS,
    EXPERT_KEYS.ignored,
    MappingProxyType({key: values for key, values in EXPERT_KEYS.required.items() if key not in _OWN_KEYS}),
)

_MLP = "model.layers.{layer}.mlp"
LEADING_DENSE_MODULES: Mapping[str, str] = MappingProxyType(
    {
        **DENSE_MODULES,
        **EXPERT_MODULES,
        "exp_probs_b": f"{_MLP}.gate.e_score_correction",
        "ffn_gate_shexp": f"{_MLP}.shared_experts.gate_proj",
        "ffn_up_shexp": f"{_MLP}.shared_experts.up_proj",
        "ffn_down_shexp": f"{_MLP}.shared_experts.down_proj",
    }
)


def with_leading_dense(keys: Keys, config: ModelConfig) -> ModelConfig:
    """`config` with the dense layers, the shared experts and the weights of the chosen ones that the metadata say."""
    layers, dense = config.graph.layers, keys.integer(LEADING_DENSE, 0, least=0)
    if dense > layers:
        raise keys.refuse(LEADING_DENSE, f"at most the {layers} layers that there are")
    scale = keys.number(_SCALE, 0.0)
    if scale < 0:
        raise keys.refuse(_SCALE, "a number ≥ 0")
    has_experts = config.graph.experts > 0
    graph = replace(
        config.graph, dense=tuple(layer < dense for layer in range(layers)) if dense and has_experts else (),
        normalised_experts=keys.flag(_NORMALISED, False), scaled_experts=scale not in (0, 1),
        shared_expert_ffn=keys.integer(_SHARED, 0, least=0) * config.graph.expert_ffn, shared_expert_gate=False,
    )  # fmt: skip
    # As in llama.cpp: 0 means none.
    return replace(config, graph=graph, expert_weights_scale=scale or 1.0)


def with_groups(keys: Keys, graph: GraphConfig, score: GroupScore = GroupScore.TWO_LARGEST) -> GraphConfig:
    """`graph` with the groups of experts that the metadata say, of that score. All that llama.cpp knows is the sum of
    the two largest."""
    count, used = keys.integer(_GROUPS, 0, least=0), keys.integer(_GROUPS_USED, 0, least=0)
    if not graph.experts or max(count, used) <= 1:
        return graph
    groups = ExpertGroups(count, used, score)
    if not replace(groups, used=count).fits(graph.experts, graph.experts_used):
        raise keys.refuse(_GROUPS, f"a divisor of the {graph.experts} experts that leaves two or more in a group")
    if not groups.fits(graph.experts, graph.experts_used):
        least = -(-graph.experts_used * count // graph.experts)
        raise keys.refuse(_GROUPS_USED, f"{least} to {count}: groups with the {graph.experts_used} experts of a token")
    return replace(graph, expert_groups=groups if used < count else None)
