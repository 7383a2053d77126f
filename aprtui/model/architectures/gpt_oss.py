"""gpt-oss: experts with biases in MXFP4, a window in every second layer, attention sinks, YaRN, clamped SwiGLU.

The model's card (arXiv:2508.10925), and its own code for what the file does not say: YaRN's range is not rounded to
whole channel pairs, and the numbers of the SwiGLU are fixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from aprtui.model.architectures.base import EXPERT_KEYS, EXPERT_MODULES, Architecture, KeyRules, Keys, with_windows
from aprtui.model.config import ModelConfig, Rope
from aprtui.trace.graph.config import Activation, RopeLayout

_OWN_KEYS = frozenset({"attention.sliding_window_pattern"})

_KEYS = KeyRules(
    EXPERT_KEYS.read | _OWN_KEYS,
    # A softmax of the chosen ones adds up to 1 without being normalised.
    EXPERT_KEYS.ignored | {"expert_weights_norm"},
    MappingProxyType(
        {key: values for key, values in EXPERT_KEYS.required.items() if key != "expert_weights_norm"}
        | {"expert_gating_func": (3, 0)}
    ),
)

_MODULES: Mapping[str, str] = MappingProxyType(
    {name: module for name, module in EXPERT_MODULES.items() if name != "ffn_norm"}
    | {
        "post_attention_norm": "model.layers.{layer}.post_attention_layernorm",
        "attn_sinks": "model.layers.{layer}.self_attn.sinks",
        "ffn_gate_inp": "model.layers.{layer}.mlp.router",
    }
)


def _complete(keys: Keys, config: ModelConfig) -> ModelConfig:
    config = with_windows(keys, config, period=2)
    graph = replace(
        config.graph, sinks=True, attn_out_bias=True, biased_experts=True, ffn_norm="post_attention_norm"
    )  # fmt: skip
    return replace(config, graph=graph, rope=_in_broken_pairs(config.rope))


def _in_broken_pairs(rope: Rope) -> Rope:
    """`rope`, whose YaRN llama.cpp begins and ends at whole pairs all the same."""
    if rope.yarn is None:
        return rope
    return replace(
        rope, yarn=replace(rope.yarn, whole_pairs=False), yarn_of_llama_cpp=rope.yarn_of_llama_cpp or rope.yarn
    )


ARCHITECTURE = Architecture(
    name="gpt-oss",
    rope_layout=RopeLayout.HALF_SPLIT,
    qk_norm=False,
    experts=True,
    transformers_class="GptOssForCausalLM",
    keys=_KEYS,
    activation=Activation.SWIGLU_OAI,
    complete=_complete,
    transformers_modules=_MODULES,
)
