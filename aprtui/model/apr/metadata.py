"""The JSON metadata of `.apr` files, as the keys of GGUF that say the same.

Keys and their other spellings: `AprV2Metadata` of aprender-core (`format/v2`), `AprMetadata` of aprender-serve, and the
importer (`format/converter/write.rs`), which adds the tokenizer. What GGUF states and these files cannot (windows,
RoPE scaling, softcaps) is refused where a file has it nevertheless.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from aprtui.errors import UnreadableError
from aprtui.model.architectures.base import Architecture
from aprtui.model.architectures.registry import ARCHITECTURES
from aprtui.model.gguf_file import StringArray, TensorEntry
from aprtui.model.vocabulary import TokenType, VocabularyKind
from aprtui.trace.graph.config import RopeLayout

_ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {name: found for found in ARCHITECTURES.values() for name in found.apr_names}
)
"""By what these files call them."""

_INTEGERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "block_count": ("num_layers", "n_layers", "num_hidden_layers", "n_layer"),
        "embedding_length": ("hidden_size", "hidden_dim", "d_model", "n_embd"),
        "feed_forward_length": ("intermediate_size", "ffn_dim", "intermediate_dim", "n_inner"),
        "attention.head_count": ("num_heads", "n_heads", "num_attention_heads", "n_head"),
        "attention.head_count_kv": ("num_kv_heads", "n_kv_heads", "num_key_value_heads"),
        "context_length": ("max_position_embeddings", "max_seq_len", "context_length", "n_ctx"),
        "attention.key_length": ("head_dim",),
        "attention.value_length": ("head_dim",),
        "expert_count": ("num_experts",),
        "expert_used_count": ("num_experts_per_tok",),
        "expert_feed_forward_length": ("moe_intermediate_size",),
    }
)
"""Whole numbers of GGUF, without the prefix of the architecture, with what `.apr` calls them."""

_NUMBERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "layer_norm_eps", "norm_eps"),
        "rope.freq_base": ("rope_theta",),
    }
)

_REQUIRED = (
    "num_layers", "hidden_size", "num_heads", "max_position_embeddings", "rms_norm_eps", "rope_theta",
)  # fmt: skip
"""Without them a model would be guessed: aprender leaves out what it does not know."""

_NOT_SUPPORTED = (
    "rope_scaling", "rope_parameters", "sliding_window", "partial_rotary_factor", "attn_logit_softcapping",
    "final_logit_softcapping", "query_pre_attn_scalar", "embedding_multiplier", "residual_multiplier",
    "attention_multiplier", "logits_scaling", "linear_attn_hparams", "no_rope_layers", "layer_types",
)  # fmt: skip
"""Keys of transformers that change what a model computes."""

_LAYOUTS: Mapping[int, RopeLayout] = MappingProxyType({0: RopeLayout.INTERLEAVED, 2: RopeLayout.HALF_SPLIT})

_KINDS: Mapping[str, VocabularyKind] = MappingProxyType(
    {kind.value: kind for kind in VocabularyKind} | {"bpe": VocabularyKind.BYTE_PAIR}
)
_LARGEST = float(np.finfo(np.float32).max)
_MOST_TOKENS = 1 << 21
"""Rows of an embedding table that are given a text where the file has none: far above any real one."""

_SPECIAL = re.compile(r"<\|.+\|>|<(?=.{1,19}$)/?[a-z_]+>")
"""Texts that aprender takes for special tokens where a file has no types (`is_special_token`)."""
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def named(document: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says of its model that is not understood: architecture and name."""
    stated = {"general.architecture": document.get("architecture"), "general.name": document.get("name")}
    return {key: value for key, value in stated.items() if isinstance(value, str) and value}


def translated(path: Path, document: Mapping[str, Any], tensors: Mapping[str, TensorEntry]) -> dict[str, Any]:
    """The metadata as GGUF has them. Raises `UnreadableError` for what is not supported and would change results."""
    stated = document.get("architecture") or document.get("model_type")
    found_row = _ARCHITECTURES.get(stated) if isinstance(stated, str) else None
    if found_row is None:
        names = ", ".join(dict.fromkeys(row.name for row in _ARCHITECTURES.values()))
        raise UnreadableError(
            f"{path}: architecture is {reprlib.repr(stated)}, supported in .apr files are {names}: use the GGUF file"
        )
    _check_supported(path, document)
    _check_complete(path, document)
    architecture = found_row.name
    found: dict[str, Any] = {"general.architecture": architecture}
    name = document.get("name")
    if isinstance(name, str) and name and name != stated:
        found["general.name"] = name
    for key, spellings in _INTEGERS.items():
        value = _first(document, spellings)
        if value is not None and not (key.startswith("expert_") and value == 0):
            found[f"{architecture}.{key}"] = value
    for key, spellings in _NUMBERS.items():
        value = _first(document, spellings)
        if value is not None:
            found[f"{architecture}.{key}"] = _rounded(value)
    if document.get("norm_topk_prob") is False:
        found[f"{architecture}.expert_weights_norm"] = False
    table = tensors.get("token_embd.weight")
    found |= _tokenizer(path, document, found_row, 0 if table is None else table.dimensions[-1])
    return found


def rope_layout(path: Path, document: Mapping[str, Any], metadata: Mapping[str, Any]) -> RopeLayout | None:
    """Which channels RoPE turns together, by `rope_type`: rows of Q and K are in that order."""
    number = document.get("rope_type")
    if number is None:
        return None
    layout = _LAYOUTS.get(number) if isinstance(number, int) else None
    if layout is None:
        raise UnreadableError(f"{path}: rope_type is {reprlib.repr(number)}, expected 0 (neighbours) or 2 (half-split)")
    architecture = ARCHITECTURES[metadata["general.architecture"]]
    # Converters to GGUF reorder rows of Q and K for neighbours; only models that they do it for may have either.
    if architecture.rope_layout is RopeLayout.HALF_SPLIT and layout is not RopeLayout.HALF_SPLIT:
        raise UnreadableError(
            f"{path}: rope_type is 0, but {architecture.name} has 2 (half-split): convert the model again"
        )
    return layout


def _check_supported(path: Path, document: Mapping[str, Any]) -> None:
    sharding = document.get("sharding")
    if isinstance(sharding, dict) and sharding.get("shard_count") != 1:
        raise UnreadableError(f"{path}: the file is one of several shards: write the model as one file")
    for key in _NOT_SUPPORTED:
        if document.get(key) is not None:
            raise UnreadableError(
                f"{path}: metadata key {key} is {reprlib.repr(document[key])}, which is not supported in .apr files: "
                "use the GGUF file"
            )


def _check_complete(path: Path, document: Mapping[str, Any]) -> None:
    for spellings in (*_INTEGERS.values(), *_NUMBERS.values()):
        if spellings[0] in _REQUIRED and _first(document, spellings) is None:
            raise UnreadableError(f"{path}: metadata key {spellings[0]} is missing; convert the model again")


def _rounded(value: object) -> object:
    """A number as aprender keeps it, in float32; what is none, as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return math.inf if abs(value) > _LARGEST else float(np.float32(value))


def _first(document: Mapping[str, Any], spellings: tuple[str, ...]) -> Any:
    return next((document[key] for key in spellings if document.get(key) is not None), None)


def _tokenizer(path: Path, document: Mapping[str, Any], architecture: Architecture, rows: int) -> dict[str, Any]:
    """The tokenizer, with texts for all `rows` of the embedding table; nothing where the file has none."""
    found: dict[str, Any] = {}
    texts = _texts(path, document, "tokenizer.vocabulary")
    if not texts:
        return found
    types = _types(path, document, texts)
    padding = range(len(texts), rows if rows <= _MOST_TOKENS else 0)
    texts += [f"[PAD{token}]" for token in padding]
    types += [TokenType.UNUSED] * len(padding)
    found["tokenizer.ggml.tokens"] = StringArray.of(texts)
    found["tokenizer.ggml.token_type"] = np.array(types, np.int32)
    kind = _first(document, ("tokenizer.model_type", "tokenizer.model"))
    merges = _texts(path, document, "tokenizer.merges")
    scores = document.get("tokenizer.scores")
    if merges and not scores and kind in (None, *architecture.apr_names):
        kind = VocabularyKind.BYTE_PAIR
    found["tokenizer.ggml.model"] = str(_KINDS.get(str(kind).lower(), kind))
    if merges:
        found["tokenizer.ggml.merges"] = StringArray.of(merges)
    pre = document.get("tokenizer.pre_type") or architecture.pre_tokenizer or "not stated"
    found["tokenizer.ggml.pre"] = str(pre)
    if isinstance(scores, list):
        found["tokenizer.ggml.scores"] = _numbers(path, "tokenizer.scores", scores, len(texts))
    for name in ("bos_token_id", "eos_token_id", "add_bos_token"):
        value = document.get(f"tokenizer.{name}")
        if value is not None:
            found[f"tokenizer.ggml.{name}"] = value
    template = _first(document, ("tokenizer.chat_template", "chat_template"))
    if isinstance(template, str):
        found["tokenizer.chat_template"] = template
    return found


def _texts(path: Path, document: Mapping[str, Any], key: str) -> list[str]:
    value = document.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not set(map(type, value)) <= {str}:
        raise UnreadableError(f"{path}: metadata key {key} is no list of strings; convert the model again")
    return list(value)


def _types(path: Path, document: Mapping[str, Any], texts: list[str]) -> list[int]:
    """The types of the tokens; where the file has none, those that aprender takes them for."""
    stated = document.get("tokenizer.token_type")
    if stated is None:
        return [_type_of(text) for text in texts]
    is_whole = isinstance(stated, list) and set(map(type, stated)) <= {int} and not set(stated) - set(TokenType)
    if not is_whole or len(stated) != len(texts):
        raise UnreadableError(f"{path}: tokenizer.token_type is not one type for each of {len(texts)} tokens")
    return list(stated)


def _type_of(text: str) -> TokenType:
    if text == "<unk>":
        return TokenType.UNKNOWN
    if _BYTE.fullmatch(text):
        return TokenType.BYTE
    return TokenType.CONTROL if _SPECIAL.fullmatch(text) else TokenType.NORMAL


def _numbers(path: Path, key: str, values: list[Any], count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    if not all(isinstance(value, int | float) and not abs(value) > _LARGEST for value in values):
        raise UnreadableError(f"{path}: metadata key {key} is no list of numbers; convert the model again")
    found = np.zeros(max(count, len(values)), np.float32)
    found[: len(values)] = values
    return found
