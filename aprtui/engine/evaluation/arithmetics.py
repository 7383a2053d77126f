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
from aprtui.model.model import Model
from aprtui.trace.graph import ENTRY, LAYER_OUTPUT, Node


@dataclass(frozen=True, slots=True)
class EngineArithmetic:
    """What an engine rounds; `outputs` are the types of stages that differ from the others."""

    rounding: Rounding
    outputs: Mapping[str, str] = field(default_factory=dict)


def _engine(outputs: Mapping[str, str] | None = None, **rounding: str) -> EngineArithmetic:
    return EngineArithmetic(replace(UNROUNDED, **rounding), outputs or {})


_RESIDUAL = (ENTRY, "post_attn_residual", LAYER_OUTPUT)

ARITHMETICS: Mapping[str, EngineArithmetic] = MappingProxyType(
    {
        "float32": _engine(),
        "float32, f16 K/V": _engine(kv_cache="f16", softmax="f16"),
        "llama.cpp, f32 K/V": _engine(matmul_input="q8", rope_angles="f32-recurrence"),
        "llama.cpp, f16 K/V": _engine(matmul_input="q8", rope_angles="f32-recurrence", kv_cache="f16", softmax="f16"),
        "q8_1": _engine(matmul_input="q8_1"),
        "TF32": _engine(matmul_input="tf32"),
        "float16": _engine(matmul_input="f16", kv_cache="f16", stage_output="f16"),
        "bfloat16": _engine(matmul_input="bf16", kv_cache="bf16", stage_output="bf16"),
        "bfloat16, float32 residual": _engine(
            dict.fromkeys(_RESIDUAL, "f32"), matmul_input="bf16", kv_cache="bf16", stage_output="bf16"
        ),
        "float16, float32 logits": _engine({"lm_head": "f32"}, matmul_input="f16", kv_cache="f16", stage_output="f16"),
        "float32, bf16 softmax": _engine({"attn_softmax": "bf16"}),
        "float32, bf16 products": _engine(matmul_input="bf16"),
        "float32, fp8 K/V": _engine(kv_cache="fp8"),
        "float32, q4_0 K/V": _engine(kv_cache="q4_0"),
        "float32, q8_0 K/V": _engine(kv_cache="q8_0"),
        "fp8 a tensor": _engine(matmul_input="fp8"),
        "int8 a token": _engine(matmul_input="int8_row"),
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
