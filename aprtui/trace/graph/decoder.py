"""The stages of a whole decoder, in execution order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from aprtui.trace.graph.attention import attention_stages
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.feed_forward import DENSE, EXPERTS, SHARED_EXPERTS, FeedForwardKind
from aprtui.trace.graph.ops import Axis, Op, Scope
from aprtui.trace.graph.recurrence import recurrent_stages
from aprtui.trace.graph.stage import ENTRY, LAYER_OUTPUT, RESIDUAL_IN, Input, Stage


def blocks_of(config: GraphConfig) -> Iterator[FeedForwardKind]:
    """The kinds of feed-forward blocks that layers of the model have."""
    if not config.experts or any(config.dense):
        yield DENSE
    if config.experts:
        yield SHARED_EXPERTS if config.shared_expert_ffn else EXPERTS


def decoder_stages(config: GraphConfig, *blocks: FeedForwardKind) -> Iterator[Stage]:
    """All stages; those of more than one feed-forward block where a capture does not tell which its layers have."""
    yield Stage(ENTRY, Op.EMBED, (), config.hidden, ("token_embd",), scope=Scope.FIRST_LAYER, column="model")
    yield Stage(
        "attn_norm", Op.RMS_NORM, (RESIDUAL_IN,), config.hidden, ("attn_norm",), column="attention"
    )  # fmt: skip
    mixed = [Input("attn_post_norm" if config.post_norms else "attn_out")]
    if config.recurrent:
        yield from recurrent_stages(config)
        mixed.append(Input("linear_attn_out"))
    yield from attention_stages(config)
    yield Stage("post_attn_residual", Op.ADD, (RESIDUAL_IN, *mixed), config.hidden, column="attention")
    yield Stage("ffn_norm", Op.RMS_NORM, (Input("post_attn_residual"),), config.hidden, (config.ffn_norm,))
    for block in blocks:
        yield from (replace(stage, block=block.kind) for stage in block.stages(config))
    outputs = tuple(Input(block.output) for block in blocks)
    if config.post_norms:
        yield Stage("ffn_post_norm", Op.RMS_NORM, outputs, config.hidden, ("post_ffw_norm",), extension=True)
        outputs = (Input("ffn_post_norm"),)
    yield Stage(LAYER_OUTPUT, Op.ADD, (Input("post_attn_residual"), *outputs), config.hidden)
    yield Stage(
        "final_norm", Op.RMS_NORM, (Input(LAYER_OUTPUT),), config.hidden, ("output_norm",),
        scope=Scope.MODEL, column="model",
    )  # fmt: skip
    yield Stage(
        "lm_head", Op.MATMUL, (Input("final_norm"),), config.vocabulary, ("output",),
        scope=Scope.MODEL, axes=(Axis.TOKEN, Axis.VOCABULARY), column="model",
    )  # fmt: skip
    if config.logit_softcap:
        yield Stage(
            "logit_softcap", Op.SOFTCAP, (Input("lm_head"),), config.vocabulary,
            scope=Scope.MODEL, axes=(Axis.TOKEN, Axis.VOCABULARY), column="model", extension=True,
        )  # fmt: skip
