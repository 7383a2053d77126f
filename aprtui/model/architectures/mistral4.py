"""Mistral Small 4: as DeepSeek-V2, with weights of the chosen experts that add up to 1, groups of experts as good as
their best two, and queries that may grow with their position."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from aprtui.model.architectures.base import EXPERT_KEYS, Keys
from aprtui.model.architectures.deepseek2 import ARCHITECTURE as DEEPSEEK2
from aprtui.model.config import ModelConfig
from aprtui.trace.graph.config import GroupScore

_MULTIPLIER, _USUAL = "rope.scaling.yarn_log_multiplier", 0.1
_GATING = "expert_gating_func"


def _complete(keys: Keys, config: ModelConfig) -> ModelConfig:
    assert DEEPSEEK2.complete is not None
    config = DEEPSEEK2.complete(keys, config)
    multiplier = keys.number(_MULTIPLIER, _USUAL)
    if config.rope.yarn is not None and config.rope.scale > 1 and abs(multiplier / _USUAL - 1) > 1e-5:
        # Of another one llama.cpp makes queries and keys larger as well, for this architecture and not for deepseek2.
        raise keys.refuse(_MULTIPLIER, f"{_USUAL}: engines differ in what they make of another one")
    groups = config.graph.expert_groups
    if groups is not None:
        groups = replace(groups, score=GroupScore.TWO_LARGEST)
    return replace(config, graph=replace(config.graph, expert_groups=groups))


ARCHITECTURE = replace(
    DEEPSEEK2,
    name="mistral4",
    transformers_class="Mistral4ForCausalLM",
    sigmoid_class="",
    temperature_class="",
    query_temperature=True,
    softmax_normalises=True,
    keys=replace(
        DEEPSEEK2.keys,
        read=DEEPSEEK2.keys.read - {_GATING},
        required=MappingProxyType({**DEEPSEEK2.keys.required, _GATING: EXPERT_KEYS.required[_GATING]}),
    ),
    complete=_complete,
)
