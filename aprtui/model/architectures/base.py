"""GGUF metadata → `ModelConfig`: every key that could change a result is honoured or refused by name.

Keys of the architecture (`qwen2.…`) are read here, or listed as harmless, or must hold the value that changes nothing;
a key in none of these lists is refused, because an engine that ignores it computes another model.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from aprtui.errors import UnreadableError
from aprtui.model.config import ModelConfig, Rope
from aprtui.trace.graph import GraphConfig, RopeLayout

ARCHITECTURES: Mapping[str, RopeLayout] = MappingProxyType(
    {"llama": RopeLayout.INTERLEAVED, "qwen2": RopeLayout.HALF_SPLIT, "qwen3": RopeLayout.HALF_SPLIT}
)
"""Supported architectures and which channels of theirs RoPE turns together."""

_HONOURED = frozenset(
    {
        "block_count", "context_length", "embedding_length", "feed_forward_length",
        "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
        "attention.layer_norm_rms_epsilon", "attention.sliding_window",
        "rope.freq_base", "rope.dimension_count", "rope.scale_linear", "rope.scaling.type", "rope.scaling.factor",
    }
)  # fmt: skip

# What llama.cpp reads for these architectures only to print it, or does not read at all.
_HARMLESS = frozenset(
    {
        "vocab_size", "tensor_data_layout", "pooling_type",
        "rope.scaling.original_context_length", "rope.scaling.finetuned",
        "expert_feed_forward_length", "attention.layer_norm_epsilon",
    }
)  # fmt: skip

_NEUTRAL: Mapping[str, tuple[object, ...]] = MappingProxyType(
    {
        "expert_count": (0,),
        "expert_used_count": (0,),
        "use_parallel_residual": (False,),
        "hidden_activation": ("silu",),
        "logit_scale": (0.0, 1.0),
        "residual_scale": (0.0, 1.0),
        "embedding_scale": (0.0, 1.0),
        "attn_logit_softcapping": (0.0,),
        "final_logit_softcapping": (0.0,),
        "attention.causal": (True,),
        "attention.scale": (0.0,),
        "attention.clamp_kqv": (0.0,),
        "attention.max_alibi_bias": (0.0,),
        "rope.scaling.attn_factor": (1.0,),
    }
)


@dataclass(frozen=True, slots=True)
class _Keys:
    """The metadata of one architecture in one file, with typed access."""

    path: Path
    architecture: str
    metadata: Mapping[str, Any]

    def name(self, key: str) -> str:
        return f"{self.architecture}.{key}"

    def refuse(self, key: str, expected: str) -> UnreadableError:
        value = self.metadata.get(self.name(key))
        return UnreadableError(f"{self.path}: {self.name(key)} is {reprlib.repr(value)}, expected {expected}")

    def integer(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        """A positive integer; an array of equal ones (per-layer values) counts as one."""
        value = self.metadata.get(self.name(key), default)
        if value is None:
            raise UnreadableError(f"{self.path}: metadata key {self.name(key)} is missing; convert the model again")
        if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():
            value = value[0].item()
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 1 << 31:
            raise self.refuse(key, f"one whole number ≥ {least} for all layers")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        value = self.metadata.get(self.name(key), default)
        if value is None:
            raise UnreadableError(f"{self.path}: metadata key {self.name(key)} is missing; convert the model again")
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise self.refuse(key, "a finite number")
        return float(value)


def architecture_of(path: Path, metadata: Mapping[str, Any]) -> str:
    """The file's architecture, if it is supported."""
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise UnreadableError(
            f"{path}: general.architecture is {reprlib.repr(architecture)}, supported are {', '.join(ARCHITECTURES)}"
        )
    return architecture


def read_config(
    path: Path, metadata: Mapping[str, Any], *, vocabulary: int, qkv_bias: bool, rope_factors: Sequence[float] | None
) -> ModelConfig:
    """The configuration of the model in `metadata`.

    `vocabulary` is the number of tokens, `qkv_bias` whether the file holds bias vectors for Q, K and V, `rope_factors`
    the values of `rope_freqs.weight`. Raises `UnreadableError` for a key that is missing, malformed or not supported.
    """
    architecture = architecture_of(path, metadata)
    keys = _Keys(path, architecture, metadata)
    _check_every_key(keys)
    heads = keys.integer("attention.head_count")
    hidden = keys.integer("embedding_length")
    head_dim = _head_dim(keys, hidden, heads)
    kv_heads = keys.integer("attention.head_count_kv", heads)
    if heads % kv_heads:
        raise keys.refuse("attention.head_count_kv", f"a divisor of the {heads} query heads")
    context = keys.integer("context_length")
    _check_sliding_window(keys, context)
    graph = GraphConfig(
        architecture=architecture,
        layers=keys.integer("block_count"),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=keys.integer("feed_forward_length"),
        vocabulary=vocabulary,
        qkv_bias=qkv_bias,
        qk_norm=architecture == "qwen3",
        rope_layout=ARCHITECTURES[architecture],
    )
    epsilon = keys.number("attention.layer_norm_rms_epsilon")
    if epsilon < 0:
        raise keys.refuse("attention.layer_norm_rms_epsilon", "a number ≥ 0")
    return ModelConfig(graph, context, epsilon, _rope(keys, head_dim, rope_factors))


def _check_every_key(keys: _Keys) -> None:
    prefix = f"{keys.architecture}."
    for full_name, value in keys.metadata.items():
        if not full_name.startswith(prefix):
            continue
        key = full_name.removeprefix(prefix)
        if key in _NEUTRAL:
            if not any(type(value) is not np.ndarray and value == neutral for neutral in _NEUTRAL[key]):
                raise keys.refuse(key, f"{_NEUTRAL[key][0]!r}: this feature is not supported")
        elif key not in _HONOURED and key not in _HARMLESS:
            raise UnreadableError(
                f"{keys.path}: metadata key {full_name} is not supported, and ignoring it could change the results; "
                "convert the model without it"
            )
    if str(keys.metadata.get("split.count", 0)) not in ("0", "1"):
        raise UnreadableError(f"{keys.path}: the model is split into several files; merge them (gguf-split --merge)")


def _head_dim(keys: _Keys, hidden: int, heads: int) -> int:
    if keys.name("attention.key_length") not in keys.metadata and hidden % heads:
        raise keys.refuse("attention.head_count", f"a divisor of the embedding length {hidden}")
    head_dim = keys.integer("attention.key_length", hidden // heads)
    if keys.integer("attention.value_length", head_dim) != head_dim:
        raise keys.refuse("attention.value_length", f"{head_dim}, the length of a key")
    if keys.integer("rope.dimension_count", head_dim) != head_dim:
        raise keys.refuse("rope.dimension_count", f"{head_dim}, the head size; partial rotation is not supported")
    if head_dim % 2:
        raise keys.refuse("attention.key_length", "an even head size, as RoPE turns channels in pairs")
    return head_dim


def _check_sliding_window(keys: _Keys, context: int) -> None:
    window = keys.integer("attention.sliding_window", 0, least=0)
    if 0 < window < context:
        raise keys.refuse("attention.sliding_window", f"0, or at least the context of {context}: it is not supported")


def _rope(keys: _Keys, head_dim: int, factors: Sequence[float] | None) -> Rope:
    if factors is not None and len(factors) != head_dim // 2:
        raise UnreadableError(
            f"{keys.path}: tensor rope_freqs.weight has {len(factors)} values, expected {head_dim // 2}, one for each "
            "channel pair of a head"
        )
    theta = keys.number("rope.freq_base", 10000.0)
    if theta <= 0:
        raise keys.refuse("rope.freq_base", "a number > 0")
    kind = keys.metadata.get(keys.name("rope.scaling.type"), "linear")
    if not isinstance(kind, str) or kind not in ("none", "linear"):
        raise keys.refuse("rope.scaling.type", "'none' or 'linear'; other RoPE scalings are not supported")
    name = "rope.scaling.factor" if keys.name("rope.scaling.factor") in keys.metadata else "rope.scale_linear"
    scale = keys.number(name, 0.0)
    if scale < 0:
        raise keys.refuse(name, "a number ≥ 0")
    # As in llama.cpp: a factor of 0 means none, and without a type a factor is linear.
    scale = 1.0 if kind == "none" or scale == 0 else scale
    return Rope(theta, scale, None if factors is None else tuple(factors))
