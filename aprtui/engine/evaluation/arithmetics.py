"""Honest engines that round elsewhere, each a row: variations of our own forward pass, as ports do them.

They differ from any real engine in the order of sums, and in nothing that a verdict is to notice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.floors.measure import run_forward
from aprtui.engine.protocol import Rounding
from aprtui.engine.replay.arithmetic import UNROUNDED, NodeEvaluators, Recomputation
from aprtui.engine.replay.disturbed import LAST_BITS, Disturb, DisturbedNodes, disturbance
from aprtui.engine.replay.flash_attention import ONLINE_F16
from aprtui.model.model import Model
from aprtui.trace.graph.stage import ENTRY, LAYER_OUTPUT, Node


@dataclass(frozen=True, slots=True)
class EngineArithmetic:
    """What an engine rounds; `outputs` are the types of stages that differ from the others."""

    rounding: Rounding
    outputs: Mapping[str, str] = field(default_factory=dict)


def _engine(
    outputs: Mapping[str, str] | None = None, /, like: Rounding = UNROUNDED, **rounding: str
) -> EngineArithmetic:
    return EngineArithmetic(replace(like, **rounding), outputs or {})


def _kept(kind: str, *stages: str) -> dict[str, str]:
    return dict.fromkeys(stages, kind)


_RESIDUAL = (ENTRY, "post_attn_residual", LAYER_OUTPUT)

_NORMS = ("attn_norm", "ffn_norm", "final_norm")
_PRODUCTS = ("qkv_matmul", "attn_out", "ffn_gate", "ffn_up", "ffn_out")
_TURNED = ("q_post_rope", "k_post_rope")
_MAPS = ("attn_scores", "attn_softmax", "attention")
_GGML = replace(UNROUNDED, matmul_input="q8", rope_angles="f32-recurrence")
_F16 = replace(UNROUNDED, matmul_input="f16", kv_cache="f16", stage_output="f16")
_BF16 = replace(UNROUNDED, matmul_input="bf16", kv_cache="bf16", stage_output="bf16")

ARITHMETICS: Mapping[str, EngineArithmetic] = MappingProxyType(
    {
        "float32": _engine(),
        "float32, f16 K/V": _engine(kv_cache="f16", softmax="f16"),
        "float32, bf16 K/V": _engine(kv_cache="bf16"),
        # llama.cpp on a CPU, and with flash attention, which turns quantised K/V; on a GPU MMQ, then cuBLAS.
        "llama.cpp, f32 K/V": _engine(like=_GGML),
        "llama.cpp, f16 K/V": _engine(like=_GGML, kv_cache="f16", softmax="f16"),
        "llama.cpp, flash attention": _engine(like=_GGML, kv_cache="f16", softmax=ONLINE_F16),
        "llama.cpp, flash attention, q8_0 K/V": _engine(like=_GGML, kv_cache="q8_0_rotated"),
        "llama.cpp, flash attention, q4_0 K/V": _engine(like=_GGML, kv_cache="q4_0_rotated"),
        "llama.cpp, q8_0 keys": _engine(like=_GGML, kv_cache="q8_0_rotated+f16", softmax="f16"),
        "llama.cpp, flash attention, q8_0 keys": _engine(like=_GGML, kv_cache="q8_0_rotated+f16", softmax=ONLINE_F16),
        "llama.cpp, q8_0 K/V not turned": _engine(like=_GGML, kv_cache="q8_0_query"),
        "llama.cpp, q4_0 K/V not turned": _engine(like=_GGML, kv_cache="q4_0_query"),
        # Our own `q8` with the same types, which does not round queries.
        "q8, q8_0 K/V": _engine(like=_GGML, kv_cache="q8_0"),
        "q8, q4_0 K/V": _engine(like=_GGML, kv_cache="q4_0"),
        "llama.cpp on a GPU": _engine(matmul_input="q8_1", kv_cache="f16"),
        "llama.cpp on a GPU, cuBLAS in f16": _engine(_kept("f16", *_PRODUCTS), matmul_input="f16", kv_cache="f16"),
        "q8_0": _engine(matmul_input="q8_0"),
        "q8_1": _engine(matmul_input="q8_1"),
        # PyTorch on Ampere and later, with `allow_tf32`.
        "TF32": _engine(matmul_input="tf32"),
        # transformers and vLLM in 16 bits; logits in float32 are vLLM's way.
        "float16": _engine(like=_F16),
        "float16, float32 logits": _engine({"lm_head": "f32"}, like=_F16),
        "float16, float32 residual": _engine(_kept("f32", *_RESIDUAL), like=_F16),
        "bfloat16": _engine(like=_BF16),
        "bfloat16, float32 logits": _engine({"lm_head": "f32"}, like=_BF16),
        "bfloat16, float32 residual": _engine(_kept("f32", *_RESIDUAL), like=_BF16),
        "bfloat16, float32 softmax": _engine(_kept("f32", "attn_scores", "attn_softmax"), like=_BF16),
        "bfloat16, float32 norms": _engine(_kept("f32", *_NORMS), like=_BF16),
        # Ports that keep one op in 16 bits.
        "float32, bf16 products": _engine(matmul_input="bf16"),
        "float32, f16 products": _engine(matmul_input="f16"),
        "float32, f16 norms": _engine(_kept("f16", *_NORMS)),
        "float32, bf16 norms": _engine(_kept("bf16", *_NORMS)),
        "float32, bf16 RoPE": _engine(_kept("bf16", *_TURNED)),
        "float32, bf16 softmax": _engine({"attn_softmax": "bf16"}),
        "float32, f16 softmax": _engine({"attn_softmax": "f16"}),
        "float32, f16 attention": _engine(_kept("f16", *_MAPS), kv_cache="f16"),
        "float32, bf16 logits": _engine({"lm_head": "bf16"}),
        # K/V in 8 and 4 bits: vLLM, llama.cpp without flash attention, LMDeploy.
        "float32, fp8 K/V": _engine(kv_cache="fp8"),
        "float32, fp8 e5m2 K/V": _engine(kv_cache="fp8_e5m2"),
        "float32, q4_0 K/V": _engine(kv_cache="q4_0"),
        "float32, q8_0 K/V": _engine(kv_cache="q8_0"),
        "float32, int8 K/V": _engine(kv_cache="int8_row"),
        "float32, keys in q8_0": _engine(kv_cache="q8_0+f16"),
        "float32, keys in q4_0": _engine(kv_cache="q4_0+f32"),
        # Inputs of products in 8 bits: vLLM, TensorRT-LLM, DeepSeek's kernels.
        "fp8 a tensor": _engine(matmul_input="fp8"),
        "fp8 a token": _engine(matmul_input="fp8_row"),
        "fp8 a block": _engine(matmul_input="fp8_block"),
        "int8 a tensor": _engine(matmul_input="int8"),
        "int8 a token": _engine(matmul_input="int8_row"),
        "bfloat16, fp8 a token": _engine(like=_BF16, matmul_input="fp8_row"),
        "bfloat16, int8 a token": _engine(like=_BF16, matmul_input="int8_row"),
    }
)
"""By name, as the tables of `aprtui bench verdicts --part kinds` show them."""


def stage_tensors(
    arithmetic: EngineArithmetic, model: Model, tokens: Sequence[int], evaluators: NodeEvaluators, seed: int = 0,
    change: Disturb | None = None, size: float = LAST_BITS,
) -> dict[Node, NDArray[np.float32]]:  # fmt: skip
    """Every stage of `model` on `tokens`; sums in an order of their own, as `seed` disturbs their last bits,
    or more by `size`.

    `change` is a fault that is planted: it changes a stage before it is used.
    """
    disturb = disturbance(model, seed, size)
    recomputation = Recomputation(
        model, arithmetic.rounding, lambda angles: DisturbedNodes(evaluators(angles), disturb), arithmetic.outputs
    )
    return dict(run_forward(model, tokens, recomputation, change))
