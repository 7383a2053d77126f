"""What the Gemma models have in common (Gemma 2: arXiv:2408.00118, Gemma 3: arXiv:2503.19786).

Embeddings are scaled by the root of the hidden size, what attention and feed-forward block give is normalised before it
is added, the feed-forward block has GELU, and norms multiply by 1 + weight, a sum that converters write.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from aprtui.model.architectures.base import DENSE_KEYS, DENSE_MODULES, KeyRules, Keys
from aprtui.model.config import ModelConfig

_OWN_KEYS = frozenset({"attention.sliding_window_pattern", "rope.freq_base_swa", "final_logit_softcapping"})

MODULES: Mapping[str, str] = MappingProxyType(
    {
        **DENSE_MODULES,
        "post_attention_norm": "model.layers.{layer}.post_attention_layernorm",
        "ffn_norm": "model.layers.{layer}.pre_feedforward_layernorm",
        "post_ffw_norm": "model.layers.{layer}.post_feedforward_layernorm",
    }
)
"""The modules of transformers by their names in the stage graph."""


def key_rules(*more: str) -> KeyRules:
    """The rules of dense decoders, but that Gemma's own keys are read, and `more`."""
    read = _OWN_KEYS | set(more)
    required = {key: values for key, values in DENSE_KEYS.required.items() if key not in read}
    required["hidden_activation"] = ("gelu_pytorch_tanh",)
    return KeyRules(DENSE_KEYS.read | read, DENSE_KEYS.ignored, MappingProxyType(required))


def with_scales(config: ModelConfig, largest: int) -> ModelConfig:
    """`config` with the scales of embeddings and scores, and what norms are trained with.

    The model of `largest` layers alone scales scores by the hidden size over the heads, which its metadata do not say.
    """
    graph = config.graph
    scale = (graph.hidden // graph.heads) ** -0.5 if graph.layers == largest else None
    return replace(config, embedding_scale=math.sqrt(graph.hidden), attention_scale=scale, norm_offset=True)


def with_softcaps(config: ModelConfig, attention: float, logits: float) -> ModelConfig:
    """`config` with softcaps of the scores and of the logits; 0 for none."""
    graph = replace(config.graph, attn_softcap=attention > 0, logit_softcap=logits > 0)
    return replace(config, graph=graph, attn_softcap=attention, logit_softcap=logits)


def softcap(keys: Keys, key: str, default: float) -> float:
    """The softcap under `key`. Raises `UnreadableError` for one below 0."""
    cap = keys.number(key, default)
    if cap < 0:
        raise keys.refuse(key, "a number ≥ 0")
    return cap


def window_base(keys: Keys, default: float) -> float:
    """The RoPE base of layers with a window. Raises `UnreadableError` for one that is not positive."""
    theta = keys.number("rope.freq_base_swa", default)
    if theta <= 0:
        raise keys.refuse("rope.freq_base_swa", "a number > 0")
    return theta
