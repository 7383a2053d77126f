"""What a GGUF file makes our engine compute with, against what `config.json` says.

The file's side is what transformers would be configured with for it (`aprtui.oracle`), so a key that converters forget
is seen by the default that takes its place. Of `config.json` both ways of writing RoPE are read: `rope_theta` and
`rope_scaling` (transformers 4), `rope_parameters` (5).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from aprtui.compare.verdict import Verdict
from aprtui.compare.wording import counted, ranges
from aprtui.conversion.checkpoint import CONFIG, Checkpoint
from aprtui.conversion.finding import FileFinding
from aprtui.model.config import ModelConfig
from aprtui.model.model import Model
from aprtui.oracle.transformers_model import settings

_SHAPE = "the weights do not fit, or rows are cut in the wrong places: no text makes sense"
_POSITION = "right for the first tokens, worse with every position: text repeats itself or drifts away"
_SCALE = "attention is too sharp or too flat at every token: text is plausible and wrong"
_ROUTING = "other experts than in training, or other shares of them: fluent text that knows less"

_BREAKS: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "vocab_size": ("vocab_size", "embedding", "tokens without a row, or rows without a token"),
        "hidden_size": ("embedding_length", "embedding", _SHAPE),
        "num_hidden_layers": ("block_count", "attn_norm", "layers are left out: fluent at first, then nonsense"),
        "num_attention_heads": ("attention.head_count", "qkv_matmul", _SHAPE),
        "num_key_value_heads": ("attention.head_count_kv", "qkv_matmul", _SHAPE),
        "head_dim": ("attention.key_length", "qkv_matmul", _SHAPE),
        "intermediate_size": ("feed_forward_length", "ffn_gate", _SHAPE),
        "rms_norm_eps": (
            "attention.layer_norm_rms_epsilon", "attn_norm", "small activations are scaled wrong: logits are a bit off"
        ),
        "attention_bias": ("attn_q.bias", "qkv_matmul", "biases are left out: text soon makes no sense"),
        "hidden_act": ("hidden_activation", "ffn_silu", "every layer is off: text makes no sense"),
        "kv_lora_rank": ("attention.kv_lora_rank", "kv_cmpr_pe", _SHAPE),
        "q_lora_rank": ("attention.q_lora_rank", "q_a", _SHAPE),
        "qk_nope_head_dim": ("attention.key_length_mla", "q_nope", _SHAPE),
        "qk_rope_head_dim": ("rope.dimension_count", "q_pe", _SHAPE),
        "v_head_dim": ("attention.value_length_mla", "attention", _SHAPE),
        "llama_4_scaling_beta": (
            "attention.temperature_scale", "q_temp_scaled", "right for short texts; attention to long ones is off"
        ),
        "mscale_all_dim": ("rope.scaling.yarn_log_multiplier", "attn_scores", _SCALE),
        "tie_word_embeddings": ("output.weight", "lm_head", "logits by another matrix: words at random"),
        "rope_theta": ("rope.freq_base", "q_post_rope", _POSITION),
        "local rope_theta": ("rope.freq_base_swa", "q_post_rope", _POSITION),
        "rope_type": ("rope.scaling.type", "q_post_rope", _POSITION),
        "factor": ("rope.scaling.factor", "q_post_rope", _POSITION),
        "original_max_position_embeddings": ("rope.scaling.original_context_length", "q_post_rope", _POSITION),
        "beta_fast": ("rope.scaling.yarn_beta_fast", "q_post_rope", _POSITION),
        "beta_slow": ("rope.scaling.yarn_beta_slow", "q_post_rope", _POSITION),
        "attention_factor": ("rope.scaling.yarn_attn_factor", "q_post_rope", _SCALE),
        "partial_rotary_factor": ("rope.dimension_count", "q_post_rope", _POSITION),
        "frequency factors": ("rope_freqs.weight", "q_post_rope", "right for short texts, wrong for long ones"),
        "sliding_window": ("attention.sliding_window", "attn_softmax", "right up to the window, then other keys count"),
        "layer_types": ("attention.sliding_window_pattern", "attn_softmax", "layers see other keys beyond the window"),
        "query_pre_attn_scalar": ("attention.scale", "attn_scores", _SCALE),
        "attn_logit_softcapping": ("attn_logit_softcapping", "attn_softcap", _SCALE),
        "final_logit_softcapping": ("final_logit_softcapping", "logit_softcap", "the likeliest token is too likely"),
        "num_experts": ("expert_count", "moe_router", _SHAPE),
        "num_experts_per_tok": ("expert_used_count", "moe_router_indices", _ROUTING),
        "norm_topk_prob": ("expert_weights_norm", "moe_router_indices", _ROUTING),
        "routed_scaling_factor": ("expert_weights_scale", "ffn_moe_weights_scaled", _ROUTING),
        "first_k_dense_replace": ("leading_dense_block_count", "ffn_gate", _SHAPE),
        "n_shared_experts": ("expert_shared_count", "ffn_shexp_gate", _SHAPE),
        "n_group": ("expert_group_count", "moe_router_indices", _ROUTING),
        "topk_group": ("expert_group_used_count", "moe_router_indices", _ROUTING),
        "moe_intermediate_size": ("expert_feed_forward_length", "ffn_moe_gate", _SHAPE),
        "shared_expert_intermediate_size": ("expert_shared_feed_forward_length", "ffn_shexp_gate", _SHAPE),
    }
)  # fmt: skip
"""By the name in transformers: the key (or tensor) of a GGUF file, the first stage that it breaks, how that shows."""

_ALIASES = {"num_local_experts": "num_experts", "hidden_activation": "hidden_act", "n_routed_experts": "num_experts"}
_ACTIVATIONS = {"gelu_new": "gelu_pytorch_tanh", "swish": "silu"}
_RELATIVE = 1e-5
"""How far apart numbers may be that went through float32."""
_FACTORS_RELATIVE = 1e-3


def hyperparameter_findings(model: Model, checkpoint: Checkpoint) -> Iterator[FileFinding]:
    """What differs. Raises `UsageError` for a file that transformers has no configuration for."""
    ours, theirs = _of_file(model), _of_checkpoint(checkpoint.config, model.config)
    compared = 0
    for name, (key, stage, symptom) in _BREAKS.items():
        if name not in theirs or name not in ours:
            continue
        compared += 1
        if not _same(ours[name], theirs[name]):
            said = f"{_words(ours[name])} in the file{_absent(model, key)}, {_words(theirs[name])} in {CONFIG}"
            yield FileFinding(Verdict.FAIL, name, said, stage, symptom)
    yield from _factors(model, checkpoint.config)
    if not compared:
        yield FileFinding(Verdict.UNKNOWN, CONFIG, "states nothing that is compared here: is it that of a model?")


def _of_file(model: Model) -> dict[str, Any]:
    """What our engine computes with, by the names of transformers, RoPE in one level with the rest."""
    found = settings(model, two_bases=model.config.window_rope is not None)
    rope: dict[str, Any] = found.pop("rope_parameters")
    of_windows = rope.get("sliding_attention")
    rope = rope.get("full_attention", rope)
    found = {_ALIASES.get(name, name): value for name, value in found.items()}
    if of_windows is not None:
        found["local rope_theta"] = of_windows["rope_theta"]
    graph = model.config.graph
    if graph.latent is None:
        found["partial_rotary_factor"] = graph.rotated / graph.head_dim
    else:  # a checkpoint states the sizes of its parts, and may give any other for the whole
        found.pop("head_dim")
    if graph.expert_ffn and not graph.shared_expert_ffn:
        found.pop("intermediate_size", None)
    return found | rope | {"rope_type": _scaling(rope["rope_type"])}


def _of_checkpoint(config: Mapping[str, Any], ours: ModelConfig) -> dict[str, Any]:
    """The same from `config.json`; what it does not state is left out, but for what follows from the rest."""
    found = {_ALIASES.get(name, name): value for name, value in config.items()}
    if "hidden_act" in found:
        found["hidden_act"] = _ACTIVATIONS.get(found["hidden_act"], found["hidden_act"])
    rope = found.get("rope_parameters")
    if not isinstance(rope, dict):
        rope = _of_version_4(found)
    if isinstance(rope.get("full_attention"), dict):
        of_windows, rope = rope.get("sliding_attention", {}), rope["full_attention"]
        found["local rope_theta"] = of_windows.get("rope_theta")
    found |= rope | {"rope_type": _scaling(rope.get("rope_type", rope.get("type", "default")))}
    heads, hidden = found.get("num_attention_heads"), found.get("hidden_size")
    if found.get("head_dim") is None and isinstance(heads, int) and isinstance(hidden, int) and heads:
        found["head_dim"] = hidden // heads
    if found.get("num_key_value_heads") is None:
        found["num_key_value_heads"] = heads
    found.setdefault("partial_rotary_factor", 1.0)
    _set_windows(found, ours)
    return {name: value for name, value in found.items() if value is not None or name.endswith("softcapping")}


def _of_version_4(config: Mapping[str, Any]) -> dict[str, Any]:
    scaling = config.get("rope_scaling")
    rope = dict(scaling) if isinstance(scaling, dict) else {}
    rope.setdefault("rope_theta", config.get("rope_theta"))
    if config.get("rope_local_base_freq") is not None:
        return {"full_attention": rope, "sliding_attention": {"rope_theta": config["rope_local_base_freq"]}}
    return rope


def _set_windows(found: dict[str, Any], ours: ModelConfig) -> None:
    """Which layers have a window, where that is stated: one as long as the context, or switched off, is none."""
    window = found.get("sliding_window")
    if found.get("use_sliding_window") is False or (isinstance(window, int) and window >= ours.context):
        found["sliding_window"] = None
        found.pop("layer_types", None)
    pattern = found.get("sliding_window_pattern")
    if isinstance(pattern, int) and pattern > 0 and "layer_types" not in found:
        found["layer_types"] = [
            "full_attention" if (layer + 1) % pattern == 0 else "sliding_attention"
            for layer in range(ours.graph.layers)
        ]


def _scaling(name: Any) -> Any:
    """What a kind of RoPE scaling is as a GGUF file has it: factors of frequencies are a tensor, not a kind."""
    return "default" if name in ("llama3", "none", None) else name


def _factors(model: Model, config: Mapping[str, Any]) -> Iterator[FileFinding]:
    """Frequency factors of Llama 3, which converters write as a tensor."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type")) if isinstance(scaling, dict) else None
    name, (tensor, stage, symptom) = "frequency factors", _BREAKS["frequency factors"]
    ours = model.config.rope.factors
    if kind != "llama3":
        if ours is not None and kind in (None, "default"):
            yield FileFinding(
                Verdict.FAIL, name, f"{tensor} is in the file, {CONFIG} has no such scaling", stage, symptom
            )
        return
    theirs = llama3_factors(scaling, model.config.rope.theta, model.config.graph.rotated)
    if theirs is None:
        yield FileFinding(Verdict.UNKNOWN, name, f"{CONFIG} states a scaling llama3 without all of its numbers")
    elif ours is None:
        said = f"the file has no {tensor}, {CONFIG} has the scaling llama3"
        yield FileFinding(Verdict.FAIL, name, said, stage, symptom)
    else:
        wrong = [
            pair for pair, (a, b) in enumerate(zip(ours, theirs, strict=True)) if abs(a / b - 1) > _FACTORS_RELATIVE
        ]
        if wrong:
            said = f"{counted(len(wrong), 'factor')} of {len(ours)} in {tensor} are others: pairs {ranges(wrong)}"
            yield FileFinding(Verdict.FAIL, name, said, stage, symptom)


def llama3_factors(scaling: Mapping[str, Any], theta: float, rotated: int) -> list[float] | None:
    """What the frequency of each of `rotated // 2` pairs of channels is divided by; None where a number is missing.

    Waves shorter than the old context over `high_freq_factor` stay, those longer than it over `low_freq_factor` are
    divided by `factor`, those between are blended (`_compute_llama3_parameters` of transformers).
    """
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    numbers = [scaling.get(name) for name in names]
    if any(isinstance(number, bool) or not isinstance(number, int | float) or number <= 0 for number in numbers):
        return None
    factor, low, high, length = (float(number) for number in numbers if number is not None)
    if high == low:
        return None

    def of(pair: int) -> float:
        wave = 2 * math.pi * theta ** (2 * pair / rotated)
        smooth = min(max((length / wave - low) / (high - low), 0.0), 1.0)
        return float(1 / ((1 - smooth) / factor + smooth))

    return [of(pair) for pair in range(rotated // 2)]


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, bool) or isinstance(theirs, bool):
        return ours is theirs
    if isinstance(ours, int | float) and isinstance(theirs, int | float):
        return math.isclose(ours, theirs, rel_tol=_RELATIVE)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    return bool((ours or None) == (theirs or None))


def _words(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return _layer_words(value)
    # A file holds float32: 1e-05, not 9.99999974738e-06.
    return f"{float(str(np.float32(value))):.12g}" if isinstance(value, float) else str(value)


def _layer_words(kinds: list[Any]) -> str:
    of_kind = {str(kind): [layer for layer, other in enumerate(kinds) if other == kind] for kind in kinds}
    return "; ".join(f"{kind}: layers {ranges(layers)}" for kind, layers in of_kind.items())


def _absent(model: Model, key: str) -> str:
    """That a key is not in the file at all, where a default stands in for it."""
    is_tensor = key.endswith((".weight", ".bias"))
    stated = f"{model.architecture}.{key}" in model.metadata
    return "" if is_tensor or stated else f" ({model.architecture}.{key} is missing)"
