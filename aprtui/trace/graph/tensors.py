"""The graph of a model whose architecture is not known, from the names of its tensors."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

from aprtui.trace.graph.config import Activation, GraphConfig
from aprtui.trace.graph.decoder import decoder_stages
from aprtui.trace.graph.feed_forward import DENSE, EXPERTS, SHARED_EXPERTS
from aprtui.trace.graph.stage import MAX_LAYERS
from aprtui.trace.graph.stage_graph import StageGraph


def graph_from_tensors(
    tensors: Collection[str], activation: Activation, *, gated_attention: bool, at_least: int
) -> StageGraph:
    """A graph for a model of an architecture that is not known: the stages that a model with `tensors` may have.

    Those are names as GGUF has them. Dimensions and widths are 0. A stage of the graph whose parameters are not among
    `tensors` has no place in the model: `Stage.params` tells. There are `at_least` so many layers.
    """
    by_layer: dict[int, set[str]] = {}
    for name in tensors:
        match = _LAYER_TENSOR.fullmatch(name)
        if match is not None and int(match[1]) < MAX_LAYERS:
            by_layer.setdefault(int(match[1]), set()).add(match[2])
    layers = max(at_least, 1 + max(by_layer, default=-1))
    every = set().union(*by_layer.values())
    # Some give the name of the first to what is normalised before the feed-forward block.
    post_norms = "post_attention_norm.weight" in every and not {"ffn_norm.weight", "post_ffw_norm.weight"}.isdisjoint(
        every
    )
    separate = "attn_q.bias" in every or "attn_qkv.bias" in every
    config = GraphConfig(
        "unknown", layers, 0, 0, 0, 0, 0, 0, qkv_bias=separate, qk_norm="attn_q_norm.weight" in every,
        post_norms=post_norms, activation=activation, query_temperature=True, attn_softcap=True,
        sinks="attn_sinks.weight" in every, attn_out_bias="attn_output.bias" in every,
        ffn_norm="ffn_norm" if post_norms or "ffn_norm.weight" in every else "post_attention_norm",
        experts=1, experts_used=1, biased_experts="ffn_gate_exps.bias" in every,
        router_bias="exp_probs_b.bias" in every, scaled_experts=True, shared_expert_ffn=1,
        shared_expert_gate="ffn_gate_inp_shexp.weight" in every,
        gated_attention=gated_attention, grouped_value_heads="ssm_ba.weight" in every,
        fused_beta_alpha="ssm_ba.weight" in every,
        recurrent=tuple({"attn_qkv.weight", "ssm_a"} <= by_layer.get(layer, set()) for layer in range(layers)),
    )  # fmt: skip
    experts = SHARED_EXPERTS if "ffn_up_shexp.weight" in every else EXPERTS
    routed = (experts,) if "ffn_gate_inp.weight" in every else ()
    dense = (DENSE,) if "ffn_down.weight" in every or not routed else ()
    # Some have a dense block and experts in one layer.
    stages = [replace(stage, width=0, block=None) for stage in decoder_stages(config, *routed, *dense)]
    return StageGraph(stages, layers, config)


_LAYER_TENSOR = re.compile(r"blk\.([0-9]{1,9})\.(.+)")
