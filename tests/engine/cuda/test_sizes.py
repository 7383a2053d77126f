"""What a model needs on a device, and what the kernels cannot take."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aprtui.engine.cuda.sizes import require_supported
from aprtui.errors import EngineError
from aprtui.model.weight_types import WeightType
from aprtui.trace.graph.config import Activation
from tests.engine.tiny_model import CPU_MODELS, TINY, tiny_model

KNOWN = [kind for kind in WeightType if kind.format.cuda_struct is not None]


@pytest.mark.parametrize("kind", [kind for kind in WeightType if kind not in KNOWN], ids=lambda kind: kind.name)
def test_a_weight_type_without_a_struct_in_the_kernels_is_refused_by_name(kind: WeightType) -> None:
    refusal = rf"attn_q\.weight is stored as {kind.name}, which its kernels cannot read: use --backend cpu"
    with pytest.raises(EngineError, match=refusal):
        require_supported(tiny_model(kinds=(WeightType.Q4_K, kind)))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KNOWN, ids=lambda kind: kind.name)
def test_a_weight_type_with_a_struct_is_not_refused(kind: WeightType) -> None:
    require_supported(tiny_model(kinds=(WeightType.Q4_K, kind)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"heads": 8, "head_dim": 60}, "the head size is 60, its kernels want a multiple of 8"),
        ({"head_dim": 264}, "heads of 264 channels, 256 at most"),
        ({"hidden": 16640}, "a residual stream of 16640 channels, 16384 at most"),
    ],
)
def test_widths_that_no_kernel_takes_are_refused(change: dict[str, int], refusal: str) -> None:
    with pytest.raises(EngineError, match=refusal):
        require_supported(tiny_model(replace(TINY, layers=1, **change), (WeightType.F16,)))  # type: ignore[arg-type]


def test_what_no_kernel_computes_is_refused_by_its_op() -> None:
    for name, op in (("gemma2", "embed"), ("gemma3", "embed")):
        with pytest.raises(EngineError, match=rf"{name} has .* \(op {op}\), for which there are no kernels"):
            require_supported(CPU_MODELS[name]())  # type: ignore[arg-type]
    for change, op in (
        ({"post_norms": True}, "add"),
        ({"activation": Activation.GELU_TANH}, "gelu"),
        ({"windows": (8, 0)}, "softmax"),
        ({"attn_softcap": True}, "softcap"),
        ({"no_rope": (False, True)}, "rope"),
        ({"gated_attention": True}, "head_gate"),
        ({"rope_dim": 16}, "rope"),
        ({"query_temperature": True}, "position_scale"),
    ):
        with pytest.raises(EngineError, match=rf"\(op {op}\)"):
            require_supported(tiny_model(replace(TINY, **change)))  # type: ignore[arg-type]


def test_gpt_oss_is_refused_by_its_ops() -> None:
    with pytest.raises(EngineError, match=r"gpt-oss has the activation swiglu-oai \(op swiglu_oai\), for which there"):
        require_supported(CPU_MODELS["gpt-oss"]())  # type: ignore[arg-type]
    with pytest.raises(EngineError, match=r"has attention sinks \(op softmax\)"):
        require_supported(tiny_model(replace(TINY, sinks=True)))  # type: ignore[arg-type]


def test_recurrent_layers_are_refused_by_their_op() -> None:
    refusal = r"qwen35 has layers with a recurrence \(op delta_state\), for which there are no kernels"
    with pytest.raises(EngineError, match=refusal):
        require_supported(CPU_MODELS["hybrid"]())  # type: ignore[arg-type]


def test_experts_are_refused_by_their_op() -> None:
    refusal = r"qwen3moe has experts \(op expert_matmul\), for which there are no kernels: use --backend cpu"
    with pytest.raises(EngineError, match=refusal):
        require_supported(CPU_MODELS["experts"]())  # type: ignore[arg-type]
