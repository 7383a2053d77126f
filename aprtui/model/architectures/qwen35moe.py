"""Qwen3.5 with experts: as Qwen3.5, but with experts that a router chooses, and one that every token uses."""

from __future__ import annotations

from aprtui.model.architectures.base import Architecture
from aprtui.model.architectures.qwen_hybrid import EXPERT_KEYS, EXPERT_MODULES, complete_experts
from aprtui.trace.graph.config import RopeLayout

ARCHITECTURE = Architecture(
    name="qwen35moe",
    rope_layout=RopeLayout.HALF_SPLIT,
    qk_norm=True,
    experts=True,
    partial_rope=True,
    transformers_class="Qwen3_5MoeForCausalLM",
    keys=EXPERT_KEYS,
    complete=complete_experts,
    transformers_modules=EXPERT_MODULES,
)
