"""Gemma 3: five layers with a window and their own RoPE base, then one of full attention; Q and K are normalised."""

from __future__ import annotations

from dataclasses import replace

from aprtui.model.architectures import gemma
from aprtui.model.architectures.base import Architecture, Keys, with_windows
from aprtui.model.config import ModelConfig, Rope
from aprtui.trace.graph.config import Activation, RopeLayout

_LARGEST = 62
"""Layers of the 27B model."""


def _complete(keys: Keys, config: ModelConfig) -> ModelConfig:
    config = gemma.with_softcaps(config, 0.0, gemma.softcap(keys, "final_logit_softcapping", 0.0))
    config = with_windows(keys, gemma.with_scales(config, _LARGEST), period=6)
    # Only layers of full attention scale positions.
    return replace(config, window_rope=Rope(gemma.window_base(keys, 10000.0)))


ARCHITECTURE = Architecture(
    name="gemma3",
    rope_layout=RopeLayout.HALF_SPLIT,
    qk_norm=True,
    transformers_class="Gemma3ForCausalLM",
    keys=gemma.key_rules(),
    post_norms=True,
    activation=Activation.GELU_TANH,
    complete=_complete,
    transformers_modules=gemma.MODULES,
)
