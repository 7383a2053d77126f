"""Qwen2 and Qwen2.5: biases of Q, K and V."""

from __future__ import annotations

from aprtui.model.architectures.base import Architecture
from aprtui.trace.graph.config import RopeLayout

ARCHITECTURE = Architecture(
    name="qwen2",
    rope_layout=RopeLayout.HALF_SPLIT,
    qk_norm=False,
    transformers_class="Qwen2ForCausalLM",
    apr_names=("qwen2", "qwen2.5", "Qwen2ForCausalLM"),
    pre_tokenizer="qwen2",
)
