"""Qwen2 and Qwen2.5: biases of Q, K and V."""

from __future__ import annotations

from aprtui.model.architectures.base import DENSE_KEYS, DENSE_MODULES, TIED_HEAD, Architecture
from aprtui.trace.graph import RopeLayout

ARCHITECTURE = Architecture(
    name="qwen2",
    keys=DENSE_KEYS,
    rope_layout=RopeLayout.HALF_SPLIT,
    qk_norm=False,
    tied=TIED_HEAD,
    transformers_class="Qwen2ForCausalLM",
    transformers_modules=DENSE_MODULES,
)
