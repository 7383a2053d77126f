"""Every metadata key that llama.cpp reads is honoured or refused: none that could change a result is passed over.

The keys are those that `llama_model_base::load_hparams` and `load_arch_hparams` of each architecture ask for in
llama.cpp as llama-cpp-python 0.3.36 has it, without the prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from aprtui.errors import UnreadableError
from aprtui.model.architectures.base import Architecture
from aprtui.model.architectures.registry import ARCHITECTURES
from aprtui.model.config import ModelConfig
from aprtui.model.gguf_file import TensorEntry
from aprtui.model.model_file import ModelFile
from aprtui.model.open_file import open_model_file
from aprtui.trace.graph.config import RopeLayout
from tests.model.gguf_files import model_file

OF_ALL = (
    "context_length", "embedding_length", "embedding_length_out", "attention.causal", "pooling_type",
    "classifier.pooling_type", "block_count", "nextn_predict_layers", "expert_count", "expert_used_count",
    "expert_group_count", "expert_group_used_count", "feed_forward_length", "attention.head_count",
    "attention.head_count_kv", "rope.scaling.finetuned", "rope.scaling.original_context_length", "rope.freq_base",
    "rope.scaling.type", "rope.scaling.factor", "rope.scale_linear", "rope.scaling.attn_factor", "rope.scaling.alpha",
    "attention.key_length", "attention.value_length", "rope.dimension_count", "attention.key_length_swa",
    "attention.value_length_swa", "rope.dimension_count_swa", "classifier.output_labels",
    "attention.layer_norm_rms_epsilon",
)  # fmt: skip
_WINDOW = ("attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa")
_EXPERTS = ("expert_feed_forward_length",)
_HYBRID = (
    "rope.dimension_sections", "ssm.conv_kernel", "ssm.inner_size", "ssm.state_size", "ssm.time_step_rank",
    "ssm.group_count", "attention.recurrent_layers", "full_attention_interval",
)  # fmt: skip
_LEADING = (
    *_EXPERTS, "expert_shared_count", "leading_dense_block_count", "expert_weights_scale", "expert_weights_norm",
    "expert_gating_func",
)  # fmt: skip
_LATENT = (
    *_LEADING, "attention.q_lora_rank", "attention.kv_lora_rank", "attention.key_length_mla",
    "attention.value_length_mla", "rope.scaling.yarn_log_multiplier", "attention.temperature_scale",
    "attention.temperature_length",
)  # fmt: skip
_SHARED = "expert_shared_feed_forward_length"
OWN: Mapping[str, tuple[str, ...]] = {
    "llama": ("vocab_size",),
    "mistral3": (
        "attention.temperature_scale", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
        "rope.scaling.yarn_log_multiplier",
    ),
    "qwen2": (), "qwen3": (), "smollm3": (), "qwen3moe": _EXPERTS, "gpt-oss": (*_EXPERTS, *_WINDOW),
    "gemma2": (*_WINDOW, "attn_logit_softcapping", "final_logit_softcapping"),
    "gemma3": (*_WINDOW, "final_logit_softcapping"),
    "qwen35": _HYBRID, "qwen35moe": (*_HYBRID, *_EXPERTS, _SHARED), "qwen3next": (*_HYBRID, *_EXPERTS, _SHARED),
    "glm4moe": (*_LEADING, "rope.dimension_sections"), "deepseek2": ("vocab_size", *_LATENT), "mistral4": _LATENT,
}  # fmt: skip

HARMLESS: Mapping[str, str] = {
    "pooling_type": "of embeddings of texts, no part of the pass",
    "rope.scaling.finetuned": "printed and no more",
    "vocab_size": "the rows of the embedding table count",
}
"""What may be passed over, and why."""

ODD: Mapping[str, Any] = {
    "context_length": 300, "embedding_length": 512, "embedding_length_out": 128, "attention.causal": False,
    "pooling_type": 1, "classifier.pooling_type": 1, "block_count": 1, "nextn_predict_layers": 1, "expert_count": 4,
    "expert_used_count": 1, "expert_group_count": 2, "expert_group_used_count": 1, "feed_forward_length": 128,
    "attention.head_count": 2, "attention.head_count_kv": 3, "rope.scaling.finetuned": True,
    "rope.scaling.original_context_length": 77, "rope.freq_base": 12345.0, "rope.scaling.type": "longrope",
    "rope.scaling.factor": 3.0, "rope.scale_linear": 3.0, "rope.scaling.attn_factor": 1.5, "rope.scaling.alpha": 10.0,
    "attention.key_length": 30, "attention.value_length": 30, "rope.dimension_count": 10,
    "attention.key_length_swa": 30, "attention.value_length_swa": 30, "rope.dimension_count_swa": 10,
    "classifier.output_labels": ["a", "b"], "attention.layer_norm_rms_epsilon": 0.125, "attention.sliding_window": 5,
    "attention.sliding_window_pattern": 1, "rope.freq_base_swa": 777.0, "expert_feed_forward_length": 64,
    "rope.dimension_sections": [1, 1, 1, 0], "ssm.conv_kernel": 3, "ssm.inner_size": 64, "ssm.state_size": 16,
    "ssm.time_step_rank": 2, "ssm.group_count": 1, "attention.recurrent_layers": [False, True],
    "full_attention_interval": 1, "expert_shared_count": 1, "leading_dense_block_count": 0,
    "expert_weights_scale": 0.75, "expert_weights_norm": False, "expert_gating_func": 3, "attention.q_lora_rank": 48,
    "attention.kv_lora_rank": 64, "attention.key_length_mla": 66, "attention.value_length_mla": 64,
    "rope.scaling.yarn_log_multiplier": 0.625, "rope.scaling.yarn_beta_fast": 9.0, "rope.scaling.yarn_beta_slow": 2.0,
    "rope.scaling.yarn_ext_factor": 0.5, "rope.scaling.yarn_attn_factor": 1.75, "attention.temperature_scale": 0.375,
    "attention.temperature_length": 13, "attn_logit_softcapping": 12.0, "final_logit_softcapping": 12.0,
    _SHARED: 64, "vocab_size": 7,
}  # fmt: skip
"""Values that no model here has."""

_YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 8}
UNDER: Mapping[str, Mapping[str, Any]] = {
    "rope.scaling.original_context_length": _YARN,
    **{f"rope.scaling.yarn_{key}": _YARN for key in ("beta_fast", "beta_slow", "ext_factor", "attn_factor")},
    "rope.scaling.yarn_log_multiplier": _YARN,
    "rope.scale_linear": {"rope.scaling.factor": None, "rope.scaling.type": None},
    "expert_group_used_count": {"expert_group_count": 4, "expert_group_used_count": 2},
    "attention.temperature_length": {"attention.temperature_scale": 0.25, "attention.temperature_length": 8},
    "expert_weights_norm": {"expert_weights_norm": True},
}  # fmt: skip
"""What else a file must say, or not say (None), where a key alone means nothing."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a configuration is read from: tensors of a file, and metadata that may be others."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorEntry]
    rope_layout: RopeLayout | None = None


def config_of(header: Header, architecture: Architecture, changes: Mapping[str, Any]) -> ModelConfig | None:
    """The configuration with other metadata, without what is None; None where it is refused."""
    arrays = {key: np.array(value) if isinstance(value, list) else value for key, value in changes.items()}
    changed = {**header.metadata, **{f"{architecture.name}.{key}": value for key, value in arrays.items()}}
    metadata = {key: value for key, value in changed.items() if value is not None}
    try:
        return architecture.read_config(cast(ModelFile, replace(header, metadata=metadata)))
    except UnreadableError:
        return None


def test_the_keys_of_every_architecture_are_listed() -> None:
    assert OWN.keys() == ARCHITECTURES.keys()
    keys = {key for architecture in ARCHITECTURES.values() for key in architecture.keys.read}
    assert keys <= ODD.keys(), "a key that is read needs a value here that shows it"


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=lambda architecture: architecture.name)
def test_no_key_is_passed_over(tmp_path: Path, architecture: Architecture) -> None:
    file = open_model_file(model_file(architecture=architecture.name).write(tmp_path / "model.gguf"))
    header, passed_over = Header(file.path, file.metadata, file.tensors), []
    assert config_of(header, architecture, {}) is not None
    for key in dict.fromkeys((*OF_ALL, *OWN[architecture.name], *sorted(architecture.keys.read))):
        under = UNDER.get(key, {})
        found = config_of(header, architecture, {**under, key: ODD[key]})
        if found is not None and found == config_of(header, architecture, under):
            passed_over.append(key)
    assert set(passed_over) <= HARMLESS.keys()
