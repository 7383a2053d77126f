"""Llama (1 to 3), Mistral 7B and others that GGUF calls `llama`.

Converters reorder the rows of Q and K so that RoPE turns neighbouring channels (`permute` of convert_hf_to_gguf.py).
"""

from __future__ import annotations

from aprtui.model.architectures.base import Architecture
from aprtui.trace.graph.config import RopeLayout

ARCHITECTURE = Architecture(
    name="llama",
    rope_layout=RopeLayout.INTERLEAVED,
    qk_norm=False,
    transformers_class="LlamaForCausalLM",
    apr_names=("llama", "LlamaForCausalLM", "mistral", "MistralForCausalLM"),
)
