"""What a model needs on a device, and what the kernels cannot take."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from aprtui.engine.cuda.sizes import require_supported, split_bytes, split_turns
from aprtui.errors import EngineError
from aprtui.model.weight_types import WeightType
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node
from tests.engine.tiny_model import CPU_MODELS, DEVICE_MODELS, TINY, tiny_model

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
        ({"head_dim": 264}, "264 channels of a head, its kernels take 256 at most"),
        ({"hidden": 16640}, "16640 channels of the residual stream, its kernels take 16384 at most"),
    ],
)
def test_widths_that_no_kernel_takes_are_refused(change: dict[str, int], refusal: str) -> None:
    with pytest.raises(EngineError, match=refusal):
        require_supported(tiny_model(replace(TINY, layers=1, **change), (WeightType.F16,)))  # type: ignore[arg-type]


def test_attention_behind_a_gate_is_refused_by_its_op() -> None:
    with pytest.raises(EngineError, match=r"\(op head_gate\)"):
        require_supported(tiny_model(replace(TINY, gated_attention=True)))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(DEVICE_MODELS))
def test_models_whose_ops_have_kernels_are_not_refused(name: str) -> None:
    require_supported(DEVICE_MODELS[name]())  # type: ignore[arg-type]


def test_recurrent_layers_are_refused_by_their_op() -> None:
    refusal = r"qwen35 has layers with a recurrence \(op delta_state\), for which there are no kernels"
    with pytest.raises(EngineError, match=refusal):
        require_supported(CPU_MODELS["hybrid"]())  # type: ignore[arg-type]


@pytest.mark.parametrize(("query_rows", "columns"), [(4096, 2560), (8192, 5120), (2048, 2048)])
def test_sums_of_parts_have_room_for_matrices_that_go_alone(query_rows: int, columns: int) -> None:
    """As queries do where keys or values are of a type that tensor cores do not take: fewer tiles are more parts."""
    rows, tokens = (query_rows, 1024, 1024), 512
    weights = [SimpleNamespace(rows=count, columns=columns) for count in rows]
    stage, node = SimpleNamespace(op=Op.MATMUL), Node(0, "qkv_matmul")
    graph: Any = type("Graph", (), {"nodes": (node,), "__getitem__": lambda self, name: stage})()
    model: Any = SimpleNamespace(graph=graph, params=lambda node: weights)
    sums, counters = split_bytes(model, tokens)
    for together in ([sum(rows)], rows):
        for count in together:
            tiles, turns = -(-count // 128), -(-columns // 128)
            parts = -(-turns // split_turns(tiles, columns))
            if parts > 1:
                assert 4 * 128 * 64 * tiles * parts * (tokens // 64) <= sums
                assert 4 * tiles * (tokens // 64) <= counters
