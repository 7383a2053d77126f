"""Qwen3: the heads of Q and K are normalised, and their size does not follow from the hidden size."""

from __future__ import annotations

from aprtui.model.architectures.base import Architecture
from aprtui.trace.graph.config import RopeLayout

ARCHITECTURE = Architecture(
    name="qwen3",
    rope_layout=RopeLayout.HALF_SPLIT,
    qk_norm=True,
    transformers_class="Qwen3ForCausalLM",
    apr_names=("qwen3", "Qwen3ForCausalLM"),
    pre_tokenizer="qwen2",
)
