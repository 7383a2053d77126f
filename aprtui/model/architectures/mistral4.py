"""Mistral Small 4: as DeepSeek-V2, with weights of the chosen experts that add up to 1, and queries that grow with
their position as those of Ministral 3 do."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from aprtui.model.architectures.base import EXPERT_KEYS, Keys
from aprtui.model.architectures.deepseek2 import ARCHITECTURE as DEEPSEEK2
from aprtui.model.architectures.mistral3 import TEMPERATURE
from aprtui.model.config import ModelConfig, QueryTemperature

_LENGTH = "attention.temperature_length"
_MULTIPLIER, _USUAL = "rope.scaling.yarn_log_multiplier", 0.1
_OF_ROUTER = ("expert_gating_func", "expert_group_count", "expert_group_used_count")
"""What models of DeepSeek differ in; these have a softmax and no groups."""


def _complete(keys: Keys, config: ModelConfig) -> ModelConfig:
    assert DEEPSEEK2.complete is not None
    config = DEEPSEEK2.complete(keys, config)
    multiplier = keys.number(_MULTIPLIER, _USUAL)
    if config.rope.yarn is not None and config.rope.scale > 1 and abs(multiplier / _USUAL - 1) > 1e-5:
        # Of another one llama.cpp makes queries and keys larger as well, for this architecture and not for deepseek2.
        raise keys.refuse(_MULTIPLIER, f"{_USUAL}: engines differ in what they make of another one")
    scale = keys.number(TEMPERATURE, 0.0)
    if scale < 0:
        raise keys.refuse(TEMPERATURE, "a number ≥ 0")
    if not scale:
        return config
    graph = replace(config.graph, query_temperature=True)
    return replace(config, graph=graph, query_temperature=QueryTemperature(scale, keys.integer(_LENGTH)))


_DROPPED = frozenset({TEMPERATURE, _LENGTH})
ARCHITECTURE = replace(
    DEEPSEEK2,
    name="mistral4",
    transformers_class="Mistral4ForCausalLM",
    sigmoid_class="",
    softmax_normalises=True,
    keys=replace(
        DEEPSEEK2.keys,
        read=DEEPSEEK2.keys.read.difference(_OF_ROUTER) | _DROPPED,
        ignored=DEEPSEEK2.keys.ignored - _DROPPED,
        required=MappingProxyType(
            {key: values for key, values in DEEPSEEK2.keys.required.items() if key not in _DROPPED}
            | {key: EXPERT_KEYS.required[key] for key in _OF_ROUTER}
        ),
    ),
    complete=_complete,
)
