"""Qwen3 with experts: as Qwen3, but each token's feed-forward block is made of the experts that a router chooses.

The weights of the chosen experts are divided by their sum: `norm_topk_prob` of transformers, which GGUF does not state.
"""

from __future__ import annotations

from aprtui.model.architectures.base import EXPERT_KEYS, EXPERT_MODULES, Architecture
from aprtui.trace.graph.config import RopeLayout

ARCHITECTURE = Architecture(
    name="qwen3moe",
    rope_layout=RopeLayout.HALF_SPLIT,
    qk_norm=True,
    experts=True,
    transformers_class="Qwen3MoeForCausalLM",
    keys=EXPERT_KEYS,
    transformers_modules=EXPERT_MODULES,
    apr_names=("qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM"),
    pre_tokenizer="qwen2",
)
