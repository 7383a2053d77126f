"""Qwen3: the heads of Q and K are normalised, and their size does not follow from the hidden size."""

from __future__ import annotations

from aprtui.model.architectures.base import DENSE_KEYS, DENSE_MODULES, TIED_HEAD, Architecture
from aprtui.trace.graph import RopeLayout

ARCHITECTURE = Architecture(
    name="qwen3",
    keys=DENSE_KEYS,
    rope_layout=RopeLayout.HALF_SPLIT,
    qk_norm=True,
    tied=TIED_HEAD,
    transformers_class="Qwen3ForCausalLM",
    transformers_modules=DENSE_MODULES,
)
