"""The stage graph of a model of transformers, from its configuration and its modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aprtui.capture.module_taps import module_name
from aprtui.errors import UsageError
from aprtui.model.architectures.base import Architecture
from aprtui.model.architectures.mistral3 import TEMPERATURE
from aprtui.model.architectures.registry import ARCHITECTURES
from aprtui.trace.graph import GraphConfig, Node, StageGraph, graph_for


def architecture_of_module(model: Any) -> Architecture:
    """The architecture that is run by the class of `model`. Raises `UsageError` where none is."""
    for architecture in ARCHITECTURES.values():
        if type(model).__name__ == architecture.transformers_class:
            return architecture
    raise UsageError(f"{type(model).__name__}: no preset is known for it: {_map_advice()}")


def named_architecture(name: str) -> Architecture:
    """The architecture called `name`. Raises `UsageError` for one that there is not."""
    if name not in ARCHITECTURES:
        raise UsageError(f"map={name!r}: no such preset: use one of {', '.join(ARCHITECTURES)}, or {_map_advice()}")
    return ARCHITECTURES[name]


def module_graph(model: Any, architecture: Architecture) -> StageGraph:
    """The graph that a GGUF file of `model` would have.

    Raises `UsageError` where the configuration does not tell it: for recurrent layers, and for experts with biases or
    with one that all tokens share.
    """
    whole: Any = getattr(model, "config", None)
    config = whole.get_text_config() if hasattr(whole, "get_text_config") else whole
    if not hasattr(config, "num_hidden_layers"):
        raise UsageError(f"map={architecture.name!r}: {_class(model)} is not of transformers: {_map_advice()}")
    kinds = getattr(config, "layer_types", None) or ()
    if "linear_attention" in kinds or (architecture.experts and architecture.complete is not None):
        raise UsageError(f"map={architecture.name!r}: no preset for its layers yet: {_map_advice()}")
    graph = graph_for(_graph_config(model, config, architecture, kinds))
    modules = dict(model.named_modules())
    for node in graph.nodes:
        for parameter in graph[node.stage].params:
            name = module_name(architecture.transformers_modules, node, parameter)
            if name not in modules and ".experts." not in name:
                raise UsageError(f"map={architecture.name!r}: {_class(model)} has no module {name}: {_map_advice()}")
    return graph


def _graph_config(model: Any, config: Any, architecture: Architecture, kinds: Sequence[str]) -> GraphConfig:
    heads, layers = config.num_attention_heads, config.num_hidden_layers
    query = model.get_submodule(module_name(architecture.transformers_modules, Node(0, "qkv_matmul"), "attn_q"))
    window = getattr(config, "sliding_window", None) or 0
    windows = tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
    turned = getattr(config, "no_rope_layers", None) or ()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    of_experts = {
        "experts": config.num_experts, "experts_used": config.num_experts_per_tok,
        "expert_ffn": config.moe_intermediate_size,
    } if architecture.experts else {}  # fmt: skip
    return GraphConfig(
        architecture=architecture.name,
        layers=layers,
        hidden=config.hidden_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=head_dim,
        ffn=config.intermediate_size,
        vocabulary=config.vocab_size,
        qkv_bias=query.bias is not None,
        qk_norm=architecture.qk_norm,
        rope_layout=architecture.rope_layout,
        post_norms=architecture.post_norms,
        activation=architecture.activation,
        attn_softcap=bool(getattr(config, "attn_logit_softcapping", None)),
        logit_softcap=bool(getattr(config, "final_logit_softcapping", None)),
        windows=windows if any(windows) else (),
        no_rope=tuple(not kept for kept in turned) if not all(turned) else (),
        query_temperature=TEMPERATURE in architecture.keys.read,
        **of_experts,
    )


def _class(model: Any) -> str:
    return type(model).__name__


def _map_advice() -> str:
    return "give a map of its modules, as map={'layers.{layer}.attn.wo': 'attn_out'}"
