"""Ministral 3, and Mistral Small 3 where converted with its name: as Llama, with YaRN, and queries that grow with their
position.

Converters reorder the rows of Q and K as those of Llama.
"""

from __future__ import annotations

from dataclasses import replace

from aprtui.model.architectures.base import DENSE_KEYS, Architecture, Keys
from aprtui.model.config import ModelConfig, QueryTemperature
from aprtui.trace.graph.config import RopeLayout

TEMPERATURE = "attention.temperature_scale"


def with_temperature(keys: Keys, config: ModelConfig, key: str, default: int | None = None) -> ModelConfig:
    """`config` with queries that grow, where the metadata say so, each time that as many positions have gone by as
    `key` says."""
    scale = keys.number(TEMPERATURE, 0.0)
    if scale < 0:
        raise keys.refuse(TEMPERATURE, "a number ≥ 0")
    if not scale:
        return config
    graph = replace(config.graph, query_temperature=True)
    return replace(config, graph=graph, query_temperature=QueryTemperature(scale, keys.integer(key, default)))


def _complete(keys: Keys, config: ModelConfig) -> ModelConfig:
    return with_temperature(keys, config, "rope.scaling.original_context_length", config.context)


ARCHITECTURE = Architecture(
    name="mistral3",
    rope_layout=RopeLayout.INTERLEAVED,
    qk_norm=False,
    transformers_class="Ministral3ForCausalLM",
    query_temperature=True,
    llama_cpp_reads_betas=True,
    keys=replace(DENSE_KEYS, read=DENSE_KEYS.read | {TEMPERATURE}),
    complete=_complete,
)
