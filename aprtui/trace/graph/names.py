"""Graphs of captures that say nothing but the names of their stages, and all names that there are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from types import MappingProxyType

from aprtui.trace.graph.attention import EXPANDED_STAGES, LATENT_STAGES, attention_stages
from aprtui.trace.graph.config import Activation, GraphConfig, LatentAttention
from aprtui.trace.graph.decoder import decoder_stages
from aprtui.trace.graph.feed_forward import (
    DENSE,
    EXPERTS,
    GATES,
    SHARED_EXPERTS,
    FeedForwardKind,
    dense_stages,
    expert_stages,
    stages_with_shared_expert,
)
from aprtui.trace.graph.ops import Op, Part
from aprtui.trace.graph.recurrence import recurrent_stages
from aprtui.trace.graph.stage import Input, Stage
from aprtui.trace.graph.stage_graph import StageGraph


def with_stages_of_its_kind(graph: StageGraph) -> StageGraph:
    """A graph from names with the stages that every model of that kind has, also those that were not captured."""
    names = set(graph.names)
    unknown = _guessed(names, graph.layers)
    blocks = _blocks_named(names, unknown)
    plain = replace(
        unknown, qkv_bias=False, qk_norm=False, post_norms=False, attn_softcap=False, logit_softcap=False,
        router_bias=False, scaled_experts=False,
    )  # fmt: skip
    return graph_from_names({*names, *(stage.name for stage in decoder_stages(plain, *blocks))}, graph.layers)


def graph_from_names(names: Iterable[str], layers: int) -> StageGraph:
    """A graph for a capture that says nothing but its file names: order and edges, but widths of 0.

    Keeps the stages that occur in `names` (canonical names); the edges skip the stages that are missing.
    Unknown names are left out: the caller lists them.
    """
    present = set(names)
    unknown = _guessed(present, layers)
    blocks = _blocks_named(present, unknown)
    full = {stage.name: stage for stage in _both_forms(unknown, present, *blocks)}

    def nearest(entry: Input, crossed: bool = False, part: Part = Part.WHOLE) -> tuple[Input, ...]:
        crossed = crossed or entry.previous_layer
        part = part if entry.part is Part.WHOLE else entry.part
        if entry.stage in present:
            return (Input(entry.stage, part, crossed),)
        # What a bias is added to has its columns; a matrix product makes them from all of its input.
        inner_part = part if full[entry.stage].op is Op.BIAS else Part.WHOLE
        # A path ends before a second layer boundary: without a captured residual stage, nothing is known beyond.
        return tuple(
            found
            for inner in full[entry.stage].inputs
            if not (crossed and inner.previous_layer)
            for found in nearest(inner, crossed, inner_part)
        )

    def thinned(stage: Stage) -> Stage:
        inputs = tuple(dict.fromkeys(found for entry in stage.inputs for found in nearest(entry)))
        return replace(stage, inputs=inputs, width=0, params=())

    return StageGraph([thinned(stage) for stage in full.values() if stage.name in present], layers, None)


def _both_forms(config: GraphConfig, names: Collection[str], *blocks: FeedForwardKind) -> Iterator[Stage]:
    """All stages; of latent attention that makes keys and values for each head also those of the other form, as where
    captures of both are compared: what only one form has is then no stage that both must have."""
    if config.latent is None or config.latent.absorbed:
        yield from decoder_stages(config, *blocks)
        return
    absorbed = replace(config, latent=replace(config.latent, absorbed=True))
    missing = _own_names(attention_stages, absorbed) - _own_names(attention_stages, config)
    is_mixed = not missing.isdisjoint(names)
    others = [stage for stage in attention_stages(absorbed) if stage.name in missing]
    for stage in decoder_stages(config, *blocks):
        if stage.op in (Op.SCORES, Op.ATTEND):
            yield from (other for other in others if (other.op is Op.ATTEND) == (stage.op is Op.ATTEND))
        yield replace(stage, extension=True) if is_mixed and stage.op is Op.HEAD_JOIN else stage


@cache
def known_stages() -> Mapping[str, Stage]:
    """Every stage that a file can have, by its name, in execution order, extensions included; widths are 0."""
    kinds = [_with_all_stages(activation, biased) for activation in Activation for biased in (False, True)]
    kinds += [replace(kinds[0], latent=_any_latent(absorbed=absorbed)) for absorbed in (False, True)]
    found: dict[str, Stage] = {}
    for kind in kinds:
        for stage in decoder_stages(kind, DENSE, SHARED_EXPERTS):
            found.setdefault(stage.name, stage)
    return MappingProxyType(found)


@cache
def known_names() -> tuple[str, ...]:
    """The names of `known_stages`."""
    return tuple(known_stages())


def _with_all_stages(activation: Activation, biased: bool, layers: int = 1) -> GraphConfig:
    """What stands in for the dimensions of a model where names only are known.

    `biased`: what comes out of the attention has a bias, and so have experts.
    """
    return GraphConfig(
        "unknown", layers, 0, 0, 0, 0, 0, 0, qkv_bias=True, qk_norm=True, post_norms=True, activation=activation,
        query_temperature=True,
        attn_softcap=True, logit_softcap=True, attn_out_bias=biased, experts=1, experts_used=1, biased_experts=biased,
        router_bias=True, scaled_experts=True, shared_expert_ffn=1, recurrent=(True,) * layers, fused_beta_alpha=True,
        gated_attention=True,
    )  # fmt: skip


def _any_latent(*, absorbed: bool) -> LatentAttention:
    return LatentAttention(0, 1, 0, 0, 0, absorbed)


def _guessed(names: Collection[str], layers: int) -> GraphConfig:
    """What `names` of stages say of their model.

    A recurrence, and a gate behind the attention, which would change what others are made from, are there only where a
    name speaks of them.
    """
    of_gates = {kind: {name for name, _ in gates.dense + gates.experts} for kind, gates in GATES.items()}
    activation = next((kind for kind, found in of_gates.items() if not found.isdisjoint(names)), Activation.SILU)
    full = _with_all_stages(activation, not _OF_BIASES.isdisjoint(names), layers)
    full = replace(full, shared_expert_gate=not _OF_SHARED_GATES.isdisjoint(names))
    if not LATENT_STAGES.isdisjoint(names):
        full = replace(full, latent=_any_latent(absorbed=EXPANDED_STAGES.isdisjoint(names)))
    of_hybrids = _own_names(recurrent_stages, full) | {"attn_gate_sigmoid", "attn_gated"}
    if of_hybrids.isdisjoint(names):
        return replace(full, recurrent=(), gated_attention=False)
    return replace(full, fused_beta_alpha="linear_attn_mixed_ba" in names)


def _blocks_named(names: Collection[str], unknown: GraphConfig) -> tuple[FeedForwardKind, ...]:
    """The kinds of feed-forward blocks that `names` of stages speak of; the dense one where they speak of none."""
    present = set(names)
    of_shared = _own_names(stages_with_shared_expert, unknown) - _own_names(expert_stages, unknown)
    experts = SHARED_EXPERTS if present & of_shared else EXPERTS
    dense = present & _own_names(dense_stages, unknown)
    return (*((DENSE,) if dense else ()), *((experts,) if present & _own_names(expert_stages, unknown) else ())) or (
        DENSE,
    )


_OF_BIASES = frozenset(
    {"attn_out_matmul", "ffn_moe_gate_biased", "ffn_moe_up_biased", "ffn_moe_down_biased", "ffn_moe_weights_softmax"}
)
"""Stages that a model has only where what comes out of its attention and its experts have biases."""

_OF_SHARED_GATES = frozenset({"shared_expert_gate", "shared_expert_gate_sigmoid", "ffn_shexp_gated"})
"""Stages that a model has only where the expert that every token uses has a gate."""


def _own_names(stages: Callable[[GraphConfig], Iterator[Stage]], config: GraphConfig) -> frozenset[str]:
    """The names of stages in a model like `config`."""
    return frozenset(stage.name for stage in stages(config))
