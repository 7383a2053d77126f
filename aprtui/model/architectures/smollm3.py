"""SmolLM3 (3B): as Llama, but every fourth layer does not turn queries and keys (Yang et al. 2025, arXiv:2501.18795).

GGUF does not say which layers those are; llama.cpp has the period fixed (`n_no_rope_layer_step`). Converters reorder
the rows of Q and K as those of Llama.
"""

from __future__ import annotations

from dataclasses import replace

from aprtui.model.architectures.base import Architecture, Keys
from aprtui.model.config import ModelConfig
from aprtui.trace.graph.config import RopeLayout

_PERIOD = 4


def _complete(keys: Keys, config: ModelConfig) -> ModelConfig:
    no_rope = tuple(layer % _PERIOD == _PERIOD - 1 for layer in range(config.graph.layers))
    return replace(config, graph=replace(config.graph, no_rope=no_rope if any(no_rope) else ()))


ARCHITECTURE = Architecture(
    name="smollm3",
    rope_layout=RopeLayout.INTERLEAVED,
    qk_norm=False,
    transformers_class="SmolLM3ForCausalLM",
    complete=_complete,
)
