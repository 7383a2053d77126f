"""The stages of a recurrent layer, which has a state in place of attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.ops import Op, Part
from aprtui.trace.graph.stage import Input, Stage, TokenMixer


def recurrent_stages(config: GraphConfig) -> Iterator[Stage]:
    """The gated delta rule (Yang et al. 2024, arXiv:2412.06464), in place of attention."""
    keys, values, heads = config.linear_key_width, config.linear_value_width, config.linear_value_heads
    stage = partial(Stage, column="attention", mixer=TokenMixer.RECURRENCE, extension=True)
    of_heads = partial(stage, head_size=config.linear_head_dim)
    fused, norm = config.linear_qkv_width, Input("attn_norm")
    yield stage("linear_attn_qkv_mixed", Op.MATMUL, (norm,), fused, ("attn_qkv",))
    yield stage("linear_attn_z", Op.MATMUL, (norm,), values, ("attn_gate",))
    yield from _beta_and_alpha(config, stage)
    yield stage("conv_output_raw", Op.CONVOLUTION, (Input("linear_attn_qkv_mixed"),), fused, ("ssm_conv1d",))
    yield stage("conv_output_silu", Op.SILU, (Input("conv_output_raw"),), fused)
    for name, part in (("q_conv_predelta", Part.LINEAR_Q), ("k_conv_predelta", Part.LINEAR_K)):
        yield of_heads(name, Op.HEAD_L2_NORM, (Input("conv_output_silu", part),), keys)
    yield stage("beta_sigmoid", Op.SIGMOID, (Input("linear_attn_beta"),), heads)
    yield stage("a_softplus", Op.SOFTPLUS, (Input("linear_attn_alpha"),), heads, ("ssm_dt",))
    yield stage("linear_attn_gate", Op.DECAY, (Input("a_softplus"),), heads, ("ssm_a",))
    from_tokens = (
        Input("k_conv_predelta"), Input("conv_output_silu", Part.LINEAR_V), Input("linear_attn_gate"),
        Input("beta_sigmoid"),
    )  # fmt: skip
    yield stage(
        "linear_attn_state", Op.DELTA_STATE, from_tokens, config.linear_state_width,
        head_size=config.linear_head_dim**2,
    )  # fmt: skip
    read = (Input("linear_attn_state"), Input("q_conv_predelta"), *from_tokens)
    yield of_heads("linear_attn_output", Op.DELTA_OUTPUT, read, values)
    yield of_heads("linear_attn_norm", Op.HEAD_RMS_NORM, (Input("linear_attn_output"),), values, ("ssm_norm",))
    yield stage("linear_attn_z_silu", Op.SILU, (Input("linear_attn_z"),), values)
    gated = (Input("linear_attn_norm"), Input("linear_attn_z_silu"))
    yield stage("linear_attn_gated", Op.MULTIPLY, gated, values)
    yield stage("linear_attn_out", Op.MATMUL, (Input("linear_attn_gated"),), config.hidden, ("ssm_out",))


def _beta_and_alpha(config: GraphConfig, stage: Callable[..., Stage]) -> Iterator[Stage]:
    """What the learning rate and the decay of each value head are made of."""
    heads, norm = config.linear_value_heads, Input("attn_norm")
    if not config.fused_beta_alpha:
        yield stage("linear_attn_beta", Op.MATMUL, (norm,), heads, ("ssm_beta",))
        yield stage("linear_attn_alpha", Op.MATMUL, (norm,), heads, ("ssm_alpha",))
        return
    fused, each = Input("linear_attn_mixed_ba"), heads // (config.linear_key_heads or 1)
    yield stage(fused.stage, Op.MATMUL, (norm,), 2 * heads, ("ssm_ba",))
    yield stage("linear_attn_beta", Op.HEAD_FRONT, (fused,), heads, head_size=each)
    yield stage("linear_attn_alpha", Op.HEAD_BACK, (fused,), heads, head_size=each)
