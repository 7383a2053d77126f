"""GLM-4.5 and later, with experts (arXiv:2508.06471): the first layers are dense, the router takes a sigmoid, and
experts are chosen by what it gives plus a bias (arXiv:2408.15664), which their weights do not have.

Half of a head's channels are turned. Large ones normalise the heads of Q and K, which their weights say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from aprtui.model.architectures.base import Architecture, Keys
from aprtui.model.architectures.leading_dense import (
    LEADING_DENSE_KEYS,
    LEADING_DENSE_MODULES,
    with_groups,
    with_leading_dense,
)
from aprtui.model.config import ModelConfig
from aprtui.trace.graph.config import RopeLayout, Router

_KEYS = replace(
    LEADING_DENSE_KEYS, required=MappingProxyType({**LEADING_DENSE_KEYS.required, "expert_gating_func": (2, 0)})
)

_MODULES: Mapping[str, str] = MappingProxyType(
    {name: module for name, module in LEADING_DENSE_MODULES.items() if name != "ffn_norm"}
    | {"post_attention_norm": LEADING_DENSE_MODULES["ffn_norm"]}
)


def _complete(keys: Keys, config: ModelConfig) -> ModelConfig:
    config = with_leading_dense(keys, config)
    graph = replace(config.graph, router=Router.SIGMOID, router_bias=True, ffn_norm="post_attention_norm")
    return replace(config, graph=with_groups(keys, graph))


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
