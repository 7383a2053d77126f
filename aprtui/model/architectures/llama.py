"""Llama (1 to 3), Mistral 7B and others that GGUF calls `llama`.

Converters reorder the rows of Q and K so that RoPE turns neighbouring channels (`permute` of convert_hf_to_gguf.py).
"""

from __future__ import annotations

from aprtui.model.architectures.base import DENSE_KEYS, DENSE_MODULES, TIED_HEAD, Architecture
from aprtui.trace.graph import RopeLayout

ARCHITECTURE = Architecture(
    name="llama",
    keys=DENSE_KEYS,
    rope_layout=RopeLayout.INTERLEAVED,
    qk_norm=False,
    tied=TIED_HEAD,
    transformers_class="LlamaForCausalLM",
    transformers_modules=DENSE_MODULES,
)
