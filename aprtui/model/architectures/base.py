"""What all architectures have in common: a decoder, whose GGUF metadata become a `ModelConfig`.

Every key that could change a result is honoured or refused by name, because an engine that ignores it computes another
model. The keys of an architecture (`qwen2.…`) are read, or ignored as without effect, or must hold the value that
changes nothing; any other key is refused.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from aprtui.errors import UnreadableError
from aprtui.model.binding import rope_factors
from aprtui.model.config import ModelConfig, Rope, Yarn
from aprtui.model.gguf_file import StringArray
from aprtui.model.model_file import ModelFile
from aprtui.trace.graph.config import Activation, GraphConfig, LatentAttention, RopeLayout, Router
from aprtui.trace.graph.stage import MAX_LAYERS

WITHOUT_EFFECT = frozenset({"vocab_size", "tensor_data_layout", "pooling_type"})
"""Keys that no computation reads, whatever the architecture."""


@dataclass(frozen=True, slots=True)
class KeyRules:
    """The metadata keys that an architecture accepts, without its prefix."""

    read: frozenset[str]
    ignored: frozenset[str]
    """llama.cpp reads these only to print them, or not at all."""
    required: Mapping[str, tuple[object, ...]]
    """Keys of features that are not supported, with the values that leave a feature out."""


DENSE_KEYS = KeyRules(
    read=frozenset(
        {
            "block_count", "context_length", "embedding_length", "feed_forward_length",
            "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
            "attention.layer_norm_rms_epsilon", "attention.sliding_window",
            "rope.freq_base", "rope.dimension_count", "rope.scale_linear", "rope.scaling.type", "rope.scaling.factor",
            "rope.scaling.original_context_length", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
            "rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_log_multiplier",
        }
    ),
    ignored=WITHOUT_EFFECT
    | {"rope.scaling.finetuned", "expert_feed_forward_length", "attention.layer_norm_epsilon"},
    required=MappingProxyType(
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
    ),
)  # fmt: skip
"""The keys of a dense decoder: grouped-query attention with RoPE, RMSNorm, a gated feed-forward block."""

EXPERT_KEYS = KeyRules(
    read=DENSE_KEYS.read | {"expert_count", "expert_used_count", "expert_feed_forward_length"},
    ignored=DENSE_KEYS.ignored - {"expert_feed_forward_length"},
    required=MappingProxyType(
        {key: values for key, values in DENSE_KEYS.required.items() if not key.startswith("expert_")}
        | {
            "expert_shared_count": (0,),
            "expert_shared_feed_forward_length": (0,),
            "expert_group_count": (0, 1),
            "expert_group_used_count": (0, 1),
            "expert_weights_scale": (0.0, 1.0),
            "expert_weights_norm": (True,),
            "expert_gating_func": (1, 0),
            "leading_dense_block_count": (0,),
            "moe_every_n_layers": (0, 1),
            "interleave_moe_layer_step": (0, 1),
        }
    ),
)
"""The keys of a decoder whose layers all have experts, chosen by a softmax, with weights that add up to 1."""

DRAFTING_LAYERS = "nextn_predict_layers"
"""The key that says how many of the blocks, the last ones, only draft tokens."""

LEADING_DENSE = "leading_dense_block_count"
"""The key that says how many layers, the first ones, have no experts."""

MOST_EXPERTS = 512
"""As many as llama.cpp allows."""

_SAME_NUMBER = 1e-5
"""How far, in proportion, numbers that went through float32 may be apart."""

TIED_HEAD: Mapping[str, str] = MappingProxyType({"output.weight": "token_embd.weight"})
"""Tensors that a file may leave out, with those that are used in their place."""

DENSE_MODULES: Mapping[str, str] = MappingProxyType(
    {
        "token_embd": "model.embed_tokens",
        "attn_norm": "model.layers.{layer}.input_layernorm",
        "attn_q": "model.layers.{layer}.self_attn.q_proj",
        "attn_k": "model.layers.{layer}.self_attn.k_proj",
        "attn_v": "model.layers.{layer}.self_attn.v_proj",
        "attn_q_norm": "model.layers.{layer}.self_attn.q_norm",
        "attn_k_norm": "model.layers.{layer}.self_attn.k_norm",
        "attn_output": "model.layers.{layer}.self_attn.o_proj",
        "ffn_norm": "model.layers.{layer}.post_attention_layernorm",
        "ffn_gate": "model.layers.{layer}.mlp.gate_proj",
        "ffn_up": "model.layers.{layer}.mlp.up_proj",
        "ffn_down": "model.layers.{layer}.mlp.down_proj",
        "output_norm": "model.norm",
        "output": "lm_head",
    }
)
"""The modules of transformers that hold the parameters of a dense decoder, by their names in the stage graph."""

EXPERT_MODULES: Mapping[str, str] = MappingProxyType(
    {name: module for name, module in DENSE_MODULES.items() if ".mlp." not in module}
    | {
        "ffn_gate_inp": "model.layers.{layer}.mlp.gate",
        "ffn_gate_exps": "model.layers.{layer}.mlp.experts.gate_proj",
        "ffn_up_exps": "model.layers.{layer}.mlp.experts.up_proj",
        "ffn_down_exps": "model.layers.{layer}.mlp.experts.down_proj",
    }
)
"""The same of a decoder whose layers have experts."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The metadata of one architecture in one file, with typed access."""

    path: Path
    architecture: str
    metadata: Mapping[str, Any]
    tensors: Collection[str]
    """The names of those in the file."""

    def name(self, key: str) -> str:
        return f"{self.architecture}.{key}"

    def refuse(self, key: str, expected: str) -> UnreadableError:
        value = self.metadata.get(self.name(key))
        return UnreadableError(f"{self.path}: {self.name(key)} is {reprlib.repr(value)}, expected {expected}")

    def _value(self, key: str, default: float | None) -> Any:
        value = self.metadata.get(self.name(key), default)
        if value is None:
            raise UnreadableError(f"{self.path}: metadata key {self.name(key)} is missing; convert the model again")
        return value

    def integer(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        """A positive integer; an array of equal ones (per-layer values) counts as one."""
        value = self._value(key, default)
        if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():
            value = value[0].item()
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 1 << 31:
            raise self.refuse(key, f"one whole number ≥ {least} for all layers")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.refuse(key, "true or false")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise self.refuse(key, "a finite number")
        return float(value)


@dataclass(frozen=True, slots=True)
class Architecture:
    """What sets an architecture apart from other decoders."""

    name: str
    """As `general.architecture` and the prefix of its metadata keys have it."""
    rope_layout: RopeLayout
    qk_norm: bool | None
    """Whether the heads of Q and K are normalised before RoPE; None: where the file has the weights of it."""
    transformers_class: str
    """The class of transformers that runs such a model."""
    sigmoid_class: str = ""
    """The class that runs it where its router takes a sigmoid, if that is another one."""
    temperature_class: str = ""
    """The class that runs it where queries grow with their position, if that is the one of another architecture."""
    query_temperature: bool = False
    """Whether `transformers_class` has a number that queries grow by."""
    softmax_normalises: bool = True
    """Whether `transformers_class` has weights of experts behind a softmax add up to 1 if the model says so."""
    experts: bool = False
    """Whether the feed-forward blocks of all layers have experts."""
    partial_rope: bool = False
    """Whether RoPE may turn the first channels of a head only."""
    latent: Callable[[Keys], LatentAttention] | None = None
    """Reads the sizes of latent attention, where the architecture has it."""
    keys: KeyRules = DENSE_KEYS
    post_norms: bool = False
    """Whether what attention and feed-forward block give is normalised before it is added."""
    activation: Activation = Activation.SILU
    complete: Callable[[Keys, ModelConfig], ModelConfig] | None = None
    """Adds what the architecture has beyond that, from its own metadata keys."""
    tied: Mapping[str, str] = field(default_factory=lambda: TIED_HEAD)
    transformers_modules: Mapping[str, str] = field(default_factory=lambda: DENSE_MODULES)
    apr_names: tuple[str, ...] = ()
    """What `.apr` files call it; empty where their metadata do not describe such a model in full."""
    pre_tokenizer: str | None = None
    """That of all its models, for files that do not name theirs."""
    llama_cpp_reads_betas: bool = False
    """Whether llama.cpp (0.3.36) reads the betas of YaRN in files of the architecture; else it takes the usual ones."""

    @property
    def transformers_classes(self) -> tuple[str, ...]:
        """The classes of transformers that are of the architecture itself."""
        return tuple(filter(None, (self.transformers_class, self.sigmoid_class)))

    def class_for(self, graph: GraphConfig) -> str:
        """The class of transformers that runs a model of that graph."""
        if self.temperature_class and graph.query_temperature:
            return self.temperature_class
        return self.sigmoid_class if self.sigmoid_class and graph.router is Router.SIGMOID else self.transformers_class

    def normalises(self, graph: GraphConfig) -> bool:
        """Whether that class has weights of experts behind a softmax add up to 1 if the model says so."""
        return self.softmax_normalises or self.class_for(graph) == self.temperature_class

    def drafting_layers(self, file: ModelFile) -> range:
        """The layers of the file behind those of the model: they draft tokens, and no pass of the model uses them."""
        keys = Keys(file.path, self.name, file.metadata, file.tensors)
        return range(_layers(keys), keys.integer("block_count"))

    def read_config(self, file: ModelFile) -> ModelConfig:
        """The configuration of the model in `file`.

        Raises `UnreadableError` for a key that is missing, malformed or not supported.
        """
        factors = rope_factors(file)
        keys = Keys(file.path, self.name, file.metadata, file.tensors)
        _check_every_key(keys, self.keys)
        heads = keys.integer("attention.head_count")
        hidden = keys.integer("embedding_length")
        latent = None if self.latent is None else self.latent(keys)
        head_dim = _head_dim(keys, hidden, heads) if latent is None else latent.key_dim
        rotated = _rotated(keys, head_dim, partial=self.partial_rope)
        kv_heads = keys.integer("attention.head_count_kv", heads)
        if heads % kv_heads:
            raise keys.refuse("attention.head_count_kv", f"a divisor of the {heads} query heads")
        context = keys.integer("context_length")
        if "attention.sliding_window_pattern" not in self.keys.read:
            _check_sliding_window(keys, context)
        has_experts = self.experts and keys.integer(LEADING_DENSE, 0, least=0) != _layers(keys)
        experts, used, expert_ffn = _experts(keys) if has_experts else (0, 0, 0)
        graph = GraphConfig(
            architecture=self.name,
            layers=_layers(keys),
            hidden=hidden,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            ffn=keys.integer("feed_forward_length", expert_ffn or None),
            vocabulary=_vocabulary(file),
            # Converters write these biases where a model has them, whatever its architecture.
            qkv_bias="blk.0.attn_q.bias" in file.tensors,
            qk_norm="blk.0.attn_q_norm.weight" in file.tensors if self.qk_norm is None else self.qk_norm,
            rope_layout=file.rope_layout or self.rope_layout,
            post_norms=self.post_norms,
            activation=self.activation,
            experts=experts,
            experts_used=used,
            expert_ffn=expert_ffn,
            rope_dim=0 if rotated == head_dim else rotated,
            latent=latent,
        )
        epsilon = keys.number("attention.layer_norm_rms_epsilon")
        if epsilon < 0:
            raise keys.refuse("attention.layer_norm_rms_epsilon", "a number ≥ 0")
        rope = _rope(keys, rotated, factors, context)
        if not self.llama_cpp_reads_betas:
            rope = _without_betas(rope)
        config = ModelConfig(graph, context, epsilon, rope)
        return config if self.complete is None else self.complete(keys, config)


def _vocabulary(file: ModelFile) -> int:
    """Number of tokens: the rows of the embedding table, which every other statement of it must equal."""
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, StringArray):
        return len(tokens)
    table = file.tensors.get("token_embd.weight")
    return table.dimensions[-1] if table is not None else 1


def _check_every_key(keys: Keys, rules: KeyRules) -> None:
    prefix = f"{keys.architecture}."
    for full_name, value in keys.metadata.items():
        if not full_name.startswith(prefix):
            continue
        key = full_name.removeprefix(prefix)
        if key in rules.required:
            if not any(type(value) is not np.ndarray and value == required for required in rules.required[key]):
                raise keys.refuse(key, f"{rules.required[key][0]!r}: this feature is not supported")
        elif key not in rules.read and key not in rules.ignored:
            raise UnreadableError(
                f"{keys.path}: metadata key {full_name} is not supported, and ignoring it could change the results; "
                "convert the model without it"
            )


def _head_dim(keys: Keys, hidden: int, heads: int) -> int:
    if keys.name("attention.key_length") not in keys.metadata and hidden % heads:
        raise keys.refuse("attention.head_count", f"a divisor of the embedding length {hidden}")
    head_dim = keys.integer("attention.key_length", hidden // heads)
    if keys.integer("attention.value_length", head_dim) != head_dim:
        raise keys.refuse("attention.value_length", f"{head_dim}, the length of a key")
    if head_dim % 2:
        raise keys.refuse("attention.key_length", "an even head size, as RoPE turns channels in pairs")
    return head_dim


def _rotated(keys: Keys, head_dim: int, *, partial: bool) -> int:
    """How many channels of a head RoPE turns."""
    rotated = keys.integer("rope.dimension_count", head_dim)
    if not partial and rotated != head_dim:
        raise keys.refuse("rope.dimension_count", f"{head_dim}, the head size; partial rotation is not supported")
    if rotated % 2 or rotated > head_dim:
        raise keys.refuse("rope.dimension_count", f"an even number up to the head size {head_dim}")
    return rotated


def _layers(keys: Keys) -> int:
    """Layers of the model, without those that only draft tokens."""
    blocks = keys.integer("block_count")
    if blocks > MAX_LAYERS:
        raise keys.refuse("block_count", f"at most {MAX_LAYERS}")
    drafting = keys.integer(DRAFTING_LAYERS, 0, least=0)
    if drafting >= blocks:
        raise keys.refuse(DRAFTING_LAYERS, f"less than the {blocks} blocks that there are")
    return blocks - drafting


def _experts(keys: Keys) -> tuple[int, int, int]:
    """How many experts there are, how many a token uses, and the channels of each."""
    experts = keys.integer("expert_count")
    if experts > MOST_EXPERTS:
        raise keys.refuse("expert_count", f"at most {MOST_EXPERTS}")
    used = keys.integer("expert_used_count")
    if used > experts:
        raise keys.refuse("expert_used_count", f"at most the {experts} experts that there are")
    if keys.name("expert_feed_forward_length") in keys.metadata:
        return experts, used, keys.integer("expert_feed_forward_length")
    # As in llama.cpp: what a dense block would have is shared out.
    return experts, used, max(1, keys.integer("feed_forward_length") // used)


def _check_sliding_window(keys: Keys, context: int) -> None:
    window = keys.integer("attention.sliding_window", 0, least=0)
    if 0 < window < context:
        raise keys.refuse("attention.sliding_window", f"0, or at least the context of {context}: it is not supported")


def with_windows(keys: Keys, config: ModelConfig, period: int, default: int = 0) -> ModelConfig:
    """`config` with the window of the metadata, or `default`, in all layers but every `period`-th.

    Metadata may give another period, or say for each layer whether it has a window.
    """
    window = keys.integer("attention.sliding_window", default, least=0)
    pattern = keys.metadata.get(keys.name("attention.sliding_window_pattern"), period)
    layers = config.graph.layers
    if isinstance(pattern, np.ndarray):
        if len(pattern) != layers or pattern.dtype.kind not in "biu":
            raise keys.refuse("attention.sliding_window_pattern", f"{layers} values, one for each layer")
        chosen = [bool(has_window) for has_window in pattern]
    else:
        period = keys.integer("attention.sliding_window_pattern", period, least=0)
        chosen = [not period or layer % period < period - 1 for layer in range(layers)]
    windows = tuple(window * has_window for has_window in chosen)
    return replace(config, graph=replace(config.graph, windows=windows if any(windows) else ()))


def _rope(keys: Keys, rotated: int, factors: Sequence[float] | None, context: int) -> Rope:
    if factors is not None and len(factors) != rotated // 2:
        raise UnreadableError(
            f"{keys.path}: tensor rope_freqs.weight has {len(factors)} values, expected {rotated // 2}, one for each "
            "channel pair of a head"
        )
    theta = _positive(keys, "rope.freq_base", 10000.0)
    kind = keys.metadata.get(keys.name("rope.scaling.type"), "linear")
    if not isinstance(kind, str) or kind not in ("none", "linear", "yarn"):
        raise keys.refuse("rope.scaling.type", "'none', 'linear' or 'yarn'; other RoPE scalings are not supported")
    name = "rope.scaling.factor" if keys.name("rope.scaling.factor") in keys.metadata else "rope.scale_linear"
    scale = keys.number(name, 0.0)
    if scale < 0:
        raise keys.refuse(name, "a number ≥ 0")
    # As in llama.cpp: a factor of 0 means none, and without a type a factor is linear.
    scale = 1.0 if kind == "none" or scale == 0 else scale
    rope = Rope(theta, scale, None if factors is None else tuple(factors))
    return _with_yarn(keys, rope, context) if kind == "yarn" else _without_yarn(keys, rope)


def _with_yarn(keys: Keys, rope: Rope, context: int) -> Rope:
    """`rope` with the YaRN of the metadata and its magnitude, 1 + ln(scale) / 10, or the quotient of two such."""
    if rope.theta <= 1:
        raise keys.refuse("rope.freq_base", "a number > 1 with YaRN")
    if keys.number("rope.scaling.yarn_ext_factor", -1.0) not in (-1.0, 1.0):
        raise keys.refuse("rope.scaling.yarn_ext_factor", "1.0: YaRN in part is not supported")
    yarn = Yarn(
        keys.integer("rope.scaling.original_context_length", context),
        _positive(keys, "rope.scaling.yarn_beta_fast", 32.0),
        _positive(keys, "rope.scaling.yarn_beta_slow", 1.0),
    )
    magnitude = _magnitude(rope.scale)
    # llama.cpp overrules what converters write here, transformers does not: only what both agree on is clear.
    if abs(keys.number("rope.scaling.yarn_attn_factor", magnitude) / magnitude - 1) > _SAME_NUMBER:
        raise keys.refuse("rope.scaling.yarn_attn_factor", f"{magnitude:.6g}, which follows from the scale")
    # 0 says that there is none; else it is transformers' `mscale_all_dim`, with an `mscale` of 1.
    return replace(rope, yarn=yarn, magnitude=magnitude / _magnitude(rope.scale, _log_multiplier(keys)))


def _without_betas(rope: Rope) -> Rope:
    """`rope`, of which llama.cpp takes the usual betas, whatever the file says."""
    if rope.yarn is None:
        return rope
    usual = Yarn(rope.yarn.original_context)
    return rope if usual == rope.yarn else replace(rope, yarn_of_llama_cpp=usual)


def _magnitude(scale: float, multiplier: float = 1.0) -> float:
    return 1.0 if scale <= 1 else 1 + 0.1 * multiplier * math.log(scale)


def _log_multiplier(keys: Keys) -> float:
    multiplier = keys.number("rope.scaling.yarn_log_multiplier", 0.0)
    if multiplier < 0:
        raise keys.refuse("rope.scaling.yarn_log_multiplier", "a number ≥ 0")
    return multiplier


def _positive(keys: Keys, key: str, default: float) -> float:
    value = keys.number(key, default)
    if value <= 0:
        raise keys.refuse(key, "a number > 0")
    return value


def _without_yarn(keys: Keys, rope: Rope) -> Rope:
    """`rope`, where no key asks for a part of YaRN nevertheless."""
    if keys.number("rope.scaling.yarn_ext_factor", 0.0) > 0:
        raise keys.refuse("rope.scaling.yarn_ext_factor", "0 where rope.scaling.type is not 'yarn'")
    if keys.number("rope.scaling.yarn_attn_factor", 1.0) != 1:
        raise keys.refuse("rope.scaling.yarn_attn_factor", "1.0 where rope.scaling.type is not 'yarn'")
    return rope
