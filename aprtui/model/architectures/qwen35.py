"""Qwen3.5: layers with a gated delta rule in place of attention, and every fourth one with gated attention.

RoPE turns the first channels of a head only. Norms are trained with 1 + weight, a sum that converters write; the norm
behind the delta rule is not. Positions of text are the same in all sections of RoPE's frequencies.
"""

from __future__ import annotations

from aprtui.model.architectures.base import Architecture
from aprtui.model.architectures.qwen_hybrid import KEYS, MODULES, complete
from aprtui.trace.graph.config import RopeLayout

ARCHITECTURE = Architecture(
    name="qwen35",
    rope_layout=RopeLayout.HALF_SPLIT,
    qk_norm=True,
    partial_rope=True,
    transformers_class="Qwen3_5ForCausalLM",
    keys=KEYS,
    complete=complete,
    transformers_modules=MODULES,
)
