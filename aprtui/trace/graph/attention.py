"""The stages of attention: with keys and values of their own, or made of one short row a token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from aprtui.trace.graph.config import GraphConfig, LatentAttention
from aprtui.trace.graph.ops import Axis, Op, Part
from aprtui.trace.graph.stage import Input, Stage, TokenMixer

EXPANDED_STAGES = frozenset({"mla_kv", "k_nope", "v_heads"})
"""Stages of latent attention that makes keys and values for each head."""

LATENT_STAGES = EXPANDED_STAGES | {
    "q_a", "q_a_norm", "mla_q", "kv_cmpr_pe", "kv_cmpr", "q_nope", "q_pe_raw", "q_pe", "k_pe", "q_nope_absorbed",
    "q_latent", "k_latent", "attn_latent",
}  # fmt: skip
"""Stages that only models with latent attention have."""


def attention_stages(config: GraphConfig) -> Iterator[Stage]:
    """From the norm before the attention to what is added to the residual."""
    if config.latent is not None:
        yield from _latent_stages(config, config.latent)
        return
    q, k, v = "attn_q", "attn_k", "attn_v"
    per_token, of_heads = _of_attention(), _of_attention(head_size=config.head_dim)
    yield per_token("qkv_matmul", Op.MATMUL, (Input("attn_norm"),), config.qkv_width, (q, k, v))
    fused = "qkv_matmul"
    if config.qkv_bias:
        fused = "qkv_bias"
        yield per_token(fused, Op.BIAS, (Input("qkv_matmul"),), config.qkv_width, (q, k, v))
    q_rope, k_rope = Input(fused, Part.Q), Input(fused, Part.K)
    if config.qk_norm:
        yield of_heads("q_norm", Op.HEAD_RMS_NORM, (q_rope,), config.q_width, ("attn_q_norm",), extension=True)
        yield of_heads("k_norm", Op.HEAD_RMS_NORM, (k_rope,), config.kv_width, ("attn_k_norm",), extension=True)
        q_rope, k_rope = Input("q_norm"), Input("k_norm")
    yield of_heads("q_post_rope", Op.ROPE, (q_rope,), config.q_width)
    yield of_heads("k_post_rope", Op.ROPE, (k_rope,), config.kv_width)
    queries = _scaled_queries(config, "q_post_rope", of_heads)
    yield from queries
    yield from _map_stages(config, queries[-1].name if queries else "q_post_rope")
    yield of_heads("attention", Op.ATTEND, (Input("attn_softmax"), Input(fused, Part.V)), config.q_width)
    attended = "attention"
    if config.gated_attention:
        attended, gate = "attn_gated", "attn_gate_sigmoid"
        yield of_heads(gate, Op.HEAD_GATE, (Input(fused, Part.Q),), config.q_width, extension=True)
        yield per_token(
            attended, Op.MULTIPLY, (Input("attention"), Input(gate)), config.q_width, extension=True
        )  # fmt: skip
    yield from _projection_stages(config, attended)


def _of_attention(**fields: Any) -> Callable[..., Stage]:
    return partial(Stage, column="attention", mixer=TokenMixer.ATTENTION, **fields)


def _scaled_queries(config: GraphConfig, queries: str, of_heads: Callable[..., Stage]) -> tuple[Stage, ...]:
    """The stage `queries` scaled by position, where the model does that."""
    if not config.query_temperature:
        return ()
    stage = of_heads("q_temp_scaled", Op.POSITION_SCALE, (Input(queries),), config.q_width)
    return (replace(stage, extension=True),)


def _map_stages(config: GraphConfig, queries: str, keys: str = "k_post_rope") -> Iterator[Stage]:
    """The attention maps of the stages `queries` and `keys`."""
    attention_map = _of_attention(axes=(Axis.HEAD, Axis.QUERY, Axis.KEY))
    yield attention_map("attn_scores", Op.SCORES, (Input(queries), Input(keys)), config.heads)
    scores = "attn_scores"
    if config.attn_softcap:
        scores = "attn_softcap"
        yield attention_map(scores, Op.SOFTCAP, (Input("attn_scores"),), config.heads, extension=True)
    sinks = ("attn_sinks",) if config.sinks else ()
    yield attention_map("attn_softmax", Op.SOFTMAX, (Input(scores),), config.heads, sinks)


def _projection_stages(config: GraphConfig, attended: str) -> Iterator[Stage]:
    """What the stage `attended` becomes on its way out of the attention."""
    per_token, biased = _of_attention(), config.attn_out_bias
    product = "attn_out_matmul" if biased else "attn_out"
    yield per_token(product, Op.MATMUL, (Input(attended),), config.hidden, ("attn_output",), extension=biased)
    if biased:
        yield per_token("attn_out", Op.BIAS, (Input(product),), config.hidden, ("attn_output",))
    if config.post_norms:
        yield per_token(
            "attn_post_norm", Op.RMS_NORM, (Input("attn_out"),), config.hidden, ("post_attention_norm",),
            extension=True,
        )  # fmt: skip


def _latent_stages(config: GraphConfig, latent: LatentAttention) -> Iterator[Stage]:
    """Latent attention: rows of `rank` channels in place of keys and values, of which each head makes its own."""
    heads, rank, rope = config.heads, latent.rank, latent.rope
    stage, of_heads = _of_attention(extension=True), partial(_of_attention, extension=True)
    source = Input("attn_norm")
    if latent.query_rank:
        yield stage("q_a", Op.MATMUL, (source,), latent.query_rank, ("attn_q_a",))
        yield stage("q_a_norm", Op.RMS_NORM, (Input("q_a"),), latent.query_rank, ("attn_q_a_norm",))
        source = Input("q_a_norm")
    q = "attn_q_b" if latent.query_rank else "attn_q"
    yield stage("mla_q", Op.MATMUL, (source,), heads * (latent.nope + rope), (q,))
    yield stage("kv_cmpr_pe", Op.MATMUL, (Input("attn_norm"),), rank + rope, ("attn_kv_a_mqa",))
    yield stage("kv_cmpr", Op.RMS_NORM, (Input("kv_cmpr_pe", Part.LATENT),), rank, ("attn_kv_a_norm",))
    yield of_heads(head_size=latent.nope)("q_nope", Op.HEAD_FRONT, (Input("mla_q"),), heads * latent.nope)
    of_rope = of_heads(head_size=rope)
    yield of_rope("q_pe_raw", Op.HEAD_BACK, (Input("mla_q"),), heads * rope)
    yield of_rope("q_pe", Op.ROPE, (Input("q_pe_raw"),), heads * rope)
    yield of_rope("k_pe", Op.ROPE, (Input("kv_cmpr_pe", Part.LATENT_KEY),), rope)
    yield from (_absorbed_stages if latent.absorbed else _expanded_stages)(config, latent)
    yield from _projection_stages(config, "attention")


def _absorbed_stages(config: GraphConfig, latent: LatentAttention) -> Iterator[Stage]:
    """All heads meet the row itself: what makes keys of it is multiplied into the queries, and values come last."""
    rank, joined = latent.rank, _of_attention(head_size=latent.key_dim, extension=True)
    of_latents = _of_attention(head_size=rank, extension=True)
    wide = config.heads * rank
    yield of_latents("q_nope_absorbed", Op.HEAD_MATMUL, (Input("q_nope"),), wide, ("attn_k_b",))
    yield joined("q_latent", Op.HEAD_JOIN, (Input("q_nope_absorbed"), Input("q_pe")), config.q_width)
    yield joined("k_latent", Op.HEAD_JOIN, (Input("kv_cmpr"), Input("k_pe")), config.kv_width)
    queries = _scaled_queries(config, "q_latent", joined)
    yield from queries
    yield from _map_stages(config, queries[-1].name if queries else "q_latent", "k_latent")
    yield of_latents("attn_latent", Op.ATTEND, (Input("attn_softmax"), Input("kv_cmpr")), wide)
    yield _of_attention(head_size=latent.value)(
        "attention", Op.HEAD_MATMUL, (Input("attn_latent"),), config.heads * latent.value, ("attn_v_b",)
    )


def _expanded_stages(config: GraphConfig, latent: LatentAttention) -> Iterator[Stage]:
    """Each head makes a key and a value of the row."""
    heads, nope, joined = config.heads, latent.nope, _of_attention(head_size=latent.key_dim)
    of_values = _of_attention(head_size=latent.value)
    yield _of_attention(extension=True)(
        "mla_kv", Op.MATMUL, (Input("kv_cmpr"),), heads * (nope + latent.value), ("attn_kv_b",)
    )
    yield _of_attention(head_size=nope, extension=True)(
        "k_nope", Op.HEAD_FRONT, (Input("mla_kv"),), heads * nope
    )  # fmt: skip
    yield replace(of_values("v_heads", Op.HEAD_BACK, (Input("mla_kv"),), heads * latent.value), extension=True)
    yield joined("q_post_rope", Op.HEAD_JOIN, (Input("q_nope"), Input("q_pe")), config.q_width)
    yield joined("k_post_rope", Op.HEAD_JOIN, (Input("k_nope"), Input("k_pe")), config.kv_width)
    queries = _scaled_queries(config, "q_post_rope", joined)
    yield from queries
    yield from _map_stages(config, queries[-1].name if queries else "q_post_rope")
    yield of_values("attention", Op.ATTEND, (Input("attn_softmax"), Input("v_heads")), heads * latent.value)
