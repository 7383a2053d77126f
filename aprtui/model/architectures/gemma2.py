"""Gemma 2: every second layer has a window, scores and logits are softcapped."""

from __future__ import annotations

from dataclasses import replace

from aprtui.model.architectures import gemma
from aprtui.model.architectures.base import Architecture, Keys, with_windows
from aprtui.model.config import ModelConfig
from aprtui.trace.graph.config import Activation, RopeLayout

_LARGEST = 46
"""Layers of the 27B model."""


def _complete(keys: Keys, config: ModelConfig) -> ModelConfig:
    caps = (gemma.softcap(keys, "attn_logit_softcapping", 50.0), gemma.softcap(keys, "final_logit_softcapping", 30.0))
    config = gemma.with_softcaps(config, *caps)
    config = with_windows(keys, gemma.with_scales(config, _LARGEST), period=2, default=4096)
    return replace(config, window_rope=replace(config.rope, theta=gemma.window_base(keys, config.rope.theta)))


ARCHITECTURE = Architecture(
    name="gemma2",
    rope_layout=RopeLayout.HALF_SPLIT,
    qk_norm=False,
    transformers_class="Gemma2ForCausalLM",
    keys=gemma.key_rules("attn_logit_softcapping"),
    post_norms=True,
    activation=Activation.GELU_TANH,
    complete=_complete,
    transformers_modules=gemma.MODULES,
)
