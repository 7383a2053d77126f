"""The stage graph of a model of transformers, from its configuration and its modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from aprtui.capture.module_taps import module_taps
from aprtui.errors import UsageError
from aprtui.model.architectures.base import Architecture
from aprtui.model.architectures.registry import ARCHITECTURES
from aprtui.trace.graph.config import ExpertGroups, GraphConfig, GroupScore, LatentAttention, Router
from aprtui.trace.graph.stage import MAX_LAYERS
from aprtui.trace.graph.stage_graph import StageGraph, graph_for


def architecture_of_module(model: Any) -> Architecture:
    """The architecture that is run by the class of `model`. Raises `UsageError` where none is."""
    for architecture in ARCHITECTURES.values():
        if type(model).__name__ in architecture.transformers_classes:
            return architecture
    raise UsageError(f"{type(model).__name__}: no preset is known for it: {_map_advice()}")


def named_architecture(name: str) -> Architecture:
    """The architecture called `name`. Raises `UsageError` for one that there is not."""
    if name not in ARCHITECTURES:
        raise UsageError(f"map={name!r}: no such preset: use one of {', '.join(ARCHITECTURES)}, or {_map_advice()}")
    return ARCHITECTURES[name]


def module_graph(model: Any, architecture: Architecture) -> StageGraph:
    """The graph that a GGUF file of `model` would have.

    Raises `UsageError` for a model without a configuration of transformers, and for one that lacks a module.
    """
    whole: Any = getattr(model, "config", None)
    config = whole.get_text_config() if hasattr(whole, "get_text_config") else whole
    if not hasattr(config, "num_hidden_layers"):
        raise UsageError(f"map={architecture.name!r}: {_class(model)} is not of transformers: {_map_advice()}")
    graph = graph_for(_graph_config(model, config, architecture))
    modules = dict(model.named_modules())
    for tap in module_taps(graph, architecture.transformers_modules):
        for name in tap.modules:
            if name not in modules:
                raise UsageError(f"map={architecture.name!r}: {_class(model)} has no module {name}: {_map_advice()}")
    return graph


def _graph_config(model: Any, config: Any, architecture: Architecture) -> GraphConfig:
    heads, layers = config.num_attention_heads, config.num_hidden_layers
    kinds = getattr(config, "layer_types", None) or ("full_attention",) * layers
    window = getattr(config, "sliding_window", None) or 0
    windows = tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
    turned = getattr(config, "no_rope_layers", None) or ()
    latent = _latent(config, architecture)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    own = architecture.transformers_modules
    graph = GraphConfig(
        architecture=architecture.name,
        layers=layers,
        hidden=config.hidden_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=head_dim,
        ffn=getattr(config, "intermediate_size", None) or config.moe_intermediate_size,
        vocabulary=config.vocab_size,
        qkv_bias=_has_bias(model, own["attn_q"]),
        qk_norm=bool(getattr(config, "use_qk_norm", False)) if architecture.qk_norm is None else architecture.qk_norm,
        rope_layout=architecture.rope_layout,
        post_norms=architecture.post_norms,
        activation=architecture.activation,
        attn_softcap=bool(getattr(config, "attn_logit_softcapping", None)),
        logit_softcap=bool(getattr(config, "final_logit_softcapping", None)),
        windows=windows if any(windows) else (),
        no_rope=tuple(not kept for kept in turned) if not all(turned) else (),
        query_temperature=architecture.query_temperature,
        ffn_norm="ffn_norm" if "ffn_norm" in own else "post_attention_norm",
        rope_dim=_turned_channels(config, head_dim) if architecture.partial_rope else 0,
    )
    if latent is not None:
        graph = replace(graph, latent=latent, head_dim=latent.key_dim, kv_heads=heads, rope_dim=latent.rope)
    if architecture.experts:
        graph = _with_experts(graph, model, config, own)
    if "linear_attention" in kinds:
        graph = _with_recurrence(graph, config, kinds, own)
    if "attn_sinks" in own:
        graph = replace(
            graph, sinks=True, attn_out_bias=_has_bias(model, own["attn_output"]), biased_experts=True
        )  # fmt: skip
    return graph


def _latent(config: Any, architecture: Architecture) -> LatentAttention | None:
    """The sizes of latent attention, which transformers computes in the expanded form."""
    if architecture.latent is None:
        return None
    if not getattr(config, "rope_interleave", True):
        raise UsageError(
            f"map={architecture.name!r}: rope_interleave is false, which no GGUF file has: {_map_advice()}"
        )
    return LatentAttention(
        config.kv_lora_rank, config.q_lora_rank or 0, config.qk_nope_head_dim, config.qk_rope_head_dim,
        config.v_head_dim, absorbed=False,
    )  # fmt: skip


def _turned_channels(config: Any, head_dim: int) -> int:
    """How many channels of a head RoPE turns; 0 for all."""
    turned = int(head_dim * config.rope_parameters.get("partial_rotary_factor", 1.0))
    return 0 if turned == head_dim else turned


def _has_bias(model: Any, module: str) -> bool:
    """Whether a module has a bias, in the first layer that has the module."""
    modules = dict(model.named_modules())
    found = (modules.get(module.format(layer=layer)) for layer in range(MAX_LAYERS))
    return getattr(next((module for module in found if module is not None), None), "bias", None) is not None


_EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts")
"""What configurations call the number of experts."""


def _with_experts(graph: GraphConfig, model: Any, config: Any, modules: Mapping[str, str]) -> GraphConfig:
    width = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
    graph = replace(
        graph,
        experts=next(n for name in _EXPERTS if (n := getattr(config, name, None)) is not None),
        experts_used=config.num_experts_per_tok,
        expert_ffn=width,
        shared_expert_ffn=config.shared_expert_intermediate_size if "ffn_gate_inp_shexp" in modules else 0,
    )
    return _with_leading_dense(graph, model, config) if "exp_probs_b" in modules else graph


def _with_leading_dense(graph: GraphConfig, model: Any, config: Any) -> GraphConfig:
    # Routers that take a softmax have no bias; that of DeepSeek-V2 normalises nothing whatever it is told.
    is_sigmoid = any(name.endswith(".e_score_correction_bias") for name in model.state_dict())
    dense, architecture = config.first_k_dense_replace, ARCHITECTURES[graph.architecture]
    return replace(
        graph,
        dense=tuple(layer < dense for layer in range(graph.layers)) if dense else (),
        router=Router.SIGMOID if is_sigmoid else Router.SOFTMAX,
        router_bias=is_sigmoid,
        normalised_experts=config.norm_topk_prob and (is_sigmoid or architecture.softmax_normalises),
        scaled_experts=config.routed_scaling_factor != 1,
        shared_expert_ffn=config.n_shared_experts * graph.expert_ffn,
        shared_expert_gate=False,
        expert_groups=_groups(config, is_v2=not is_sigmoid and not architecture.query_temperature),
    )


def _groups(config: Any, *, is_v2: bool) -> ExpertGroups | None:
    """The groups that experts are chosen by. DeepSeek-V2 says by a name whether it has any."""
    count, used = getattr(config, "n_group", None) or 1, getattr(config, "topk_group", None) or 1
    if used >= count or (is_v2 and config.topk_method != "group_limited_greedy"):
        return None
    return ExpertGroups(count, used, GroupScore.LARGEST if is_v2 else GroupScore.TWO_LARGEST)


def _with_recurrence(
    graph: GraphConfig, config: Any, kinds: Sequence[str], modules: Mapping[str, str]
) -> GraphConfig:  # fmt: skip
    return replace(
        graph,
        recurrent=tuple(kind == "linear_attention" for kind in kinds),
        linear_key_heads=config.linear_num_key_heads,
        linear_value_heads=config.linear_num_value_heads,
        linear_head_dim=config.linear_key_head_dim,
        conv_kernel=config.linear_conv_kernel_dim,
        grouped_value_heads="ssm_ba" in modules,
        fused_beta_alpha="ssm_ba" in modules,
        gated_attention=True,
    )


def _class(model: Any) -> str:
    return type(model).__name__


def _map_advice() -> str:
    return "give a map of its modules, as map={'layers.{layer}.attn.wo': 'attn_out'}"
