"""What people bring: parts of captures, values stored in 16 bits, engines that round elsewhere. None may be blamed
while honest, and a fault in one is still found, in its segment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import Verdict
from aprtui.engine.evaluation.arithmetics import ARITHMETICS, stage_tensors
from aprtui.engine.evaluation.capture_kinds import CAPTURE_KINDS, write_kind
from aprtui.engine.evaluation.partial_captures import places
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.engine.replay.value_types import before_storage, fitting_types, narrowest
from aprtui.engine.rounding import ROUND
from aprtui.model.model import Model
from aprtui.trace.capture import PROVENANCE, Capture
from aprtui.trace.graph.config import Activation, GraphConfig
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import graph_for
from tests.engine.embedded_captures import TOKENS
from tests.thinning import crossed, often

Array = NDArray[np.float32]
Make = Callable[..., Comparison]
ONE_SEGMENT = frozenset({"logits", "every fourth layer"})
"""Kinds that leave nothing but one segment of a model of four layers."""
COMPLETE = ("complete", "stored in f16", "stored in bf16")
OFTEN = frozenset({"complete", "layer outputs", "logits", "stored in bf16", "last token"})


@pytest.fixture
def replayed(model: Model, evaluators: Evaluators, tmp_path: Path) -> Make:
    """The replay of an engine of an arithmetic as a kind of capture, with `change` made to a stage of its run."""

    def run(
        arithmetic: str, kind: str, at: Node | None = None, change: Callable[[Array], Array] = np.copy
    ) -> Comparison:
        tensors = stage_tensors(
            ARITHMETICS[arithmetic], model, TOKENS, evaluators,
            change=lambda node, values: change(values) if node == at else values,
        )  # fmt: skip
        capture = write_kind(CAPTURE_KINDS[kind], tensors, model.graph, TOKENS, tmp_path / "capture")
        return replay_capture(capture, model, ReplayOptions(), evaluators)

    return run


@pytest.mark.parametrize(
    ("arithmetic", "kind"),
    crossed(["llama.cpp, f16 K/V", "bfloat16, float32 residual", "float32, q4_0 K/V"], CAPTURE_KINDS),
)
def test_an_honest_engine_is_never_a_divergence(replayed: Make, arithmetic: str, kind: str) -> None:
    result = replayed(arithmetic, kind)
    assert result.verdict is not Verdict.FAIL, result.first_divergence
    assert result.verdict is Verdict.PASS or all(result.reasons)


@pytest.mark.parametrize(
    "arithmetic",
    often(
        [
            "q8_1", "float16, float32 logits", "float32, bf16 softmax", "int8 a token", "int8 a tensor", "fp8 a token",
            "llama.cpp, flash attention, q4_0 K/V", "float32, fp8 e5m2 K/V", "float32, bf16 products",
            "bfloat16, float32 softmax",
        ],
        {"q8_1", "fp8 a token", "llama.cpp, flash attention, q4_0 K/V", "float32, bf16 products"},
    ),
)  # fmt: skip
@pytest.mark.parametrize("kind", often(COMPLETE, {"complete"}))
def test_a_complete_capture_of_an_honest_engine_passes_whatever_it_rounds(
    replayed: Make, arithmetic: str, kind: str
) -> None:
    assert replayed(arithmetic, kind).verdict is Verdict.PASS


@pytest.mark.parametrize("kind", often(CAPTURE_KINDS, OFTEN))
def test_float32_passes_as_every_kind_of_capture(replayed: Make, kind: str) -> None:
    assert replayed("float32", kind).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("arithmetic", "kind"),
    crossed(["float32", "llama.cpp, f16 K/V", "bfloat16"], sorted(CAPTURE_KINDS.keys() - ONE_SEGMENT)),
)
def test_a_fault_is_found_in_the_segment_that_holds_it(replayed: Make, arithmetic: str, kind: str) -> None:
    fault = Node(2, "ffn_swigl")
    result = replayed(arithmetic, kind, fault, lambda values: values * np.float32(3))
    assert result.verdict is Verdict.FAIL, result.reasons
    assert result.first_divergence is not None and fault in result.first_divergence.segment


@pytest.mark.parametrize("kind", sorted(ONE_SEGMENT))
def test_a_fault_that_a_coarser_engine_might_explain_is_not_passed(replayed: Make, kind: str) -> None:
    """One segment from the tokens to the stage: nothing else shows how the engine rounds."""
    result = replayed("llama.cpp, f16 K/V", kind, Node(2, "ffn_swigl"), lambda values: values * np.float32(2))
    assert result.verdict is not Verdict.PASS


def test_a_last_token_without_ids_may_stand_anywhere(
    replayed: Make, tmp_path: Path, model: Model, evaluators: Evaluators
) -> None:
    """Its embedding tells its id; that others stood before it, nothing does."""
    replayed("float32", "last token")
    (tmp_path / "capture" / PROVENANCE).unlink()
    result = replay_capture(Capture.open(tmp_path / "capture"), model, ReplayOptions(), evaluators)
    assert result.verdict is Verdict.UNKNOWN
    assert "positions 12: give the ids of all tokens from the first on with --tokens" in " ".join(result.reasons)
    judged = {stage.node: stage.verdict.verdict for stage in result.stages}
    assert judged[Node(2, "ffn_out")] is Verdict.PASS, "no other token matters there"
    assert judged[Node(0, "k_post_rope")] is Verdict.UNKNOWN


def test_wrong_logits_of_a_float32_engine_are_found_by_its_logits_alone(replayed: Make) -> None:
    result = replayed("float32", "logits", Node(None, "lm_head"), lambda values: values[:, ::-1].copy())
    assert result.verdict is Verdict.FAIL


def test_a_residual_stream_that_was_only_saved_in_16_bits_is_told_from_what_is_kept_so(replayed: Make) -> None:
    """What its sums lose where large values cancel is no fault then: it failed a layer of a real model."""
    result = replayed("bfloat16, float32 residual", "stored in f16")
    assert result.verdict is Verdict.PASS
    said = " ".join(result.statements)
    assert "values are stored in f16, and the engine computed with more digits" in said
    assert "ffn_swigl in bf16" in said and "residual in" not in said


def test_products_of_a_last_token_may_be_scaled_by_tokens_that_are_not_there(replayed: Make) -> None:
    assert replayed("int8 a tensor", "last token").verdict is Verdict.UNKNOWN


def test_one_nan_costs_neither_the_rounding_nor_the_layers_before_it(replayed: Make) -> None:
    fault = Node(1, "ffn_gate")

    def change(values: Array) -> Array:
        changed = values.copy()
        changed[0, 7] = np.nan
        return changed

    result = replayed("llama.cpp, f16 K/V", "complete", fault, change)
    assert result.first_divergence is not None
    assert result.first_divergence.verdict.node == fault
    assert "matmul_input=q8, kv_cache=f16" in result.statements[0]


@pytest.mark.parametrize("kind", ["complete", "layer outputs", "logits"])
def test_what_no_known_rounding_explains_is_unknown_and_says_so(
    model: Model, evaluators: Evaluators, tmp_path: Path, kind: str
) -> None:
    """An engine whose products all err by 1 %, as no rounding that is tried does: it may be meant."""
    random = np.random.default_rng(1)

    def change(node: Node, values: Array) -> Array:
        is_product = model.graph[node.stage].op is Op.MATMUL
        return values * random.normal(1, 0.01, values.shape).astype(np.float32) if is_product else values

    tensors = stage_tensors(ARITHMETICS["float32"], model, TOKENS, evaluators, change=change)
    capture = write_kind(CAPTURE_KINDS[kind], tensors, model.graph, TOKENS, tmp_path / "capture")
    result = replay_capture(capture, model, ReplayOptions(), evaluators)
    assert result.verdict is Verdict.UNKNOWN
    assert "within what a coarser honest one explains" in " ".join(result.reasons)
    assert any("no rounding that is known here reproduces" in statement for statement in result.statements)


def test_the_logits_alone_are_judged_and_no_misuse(replayed: Make) -> None:
    result = replayed("float32", "logits")
    assert (result.verdict, result.compared, result.expected) == (Verdict.PASS, 1, 1)


def test_the_type_of_values_shows_in_their_digits() -> None:
    values = np.random.default_rng(1).standard_normal(1000).astype(np.float32)
    for kind in ("f16", "bf16"):
        fitting = fitting_types(ROUND[kind](values))
        assert fitting is not None and kind in fitting and narrowest(fitting) == kind
    assert fitting_types(values) == frozenset()
    assert fitting_types(np.ones(1000, np.float32)) is None, "equal values fit every type"


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_what_may_have_stood_before_storage_is_stored_as_the_same_values(kind: str) -> None:
    values = np.random.default_rng(2).standard_normal((4, 500)).astype(np.float32) * np.float32(100)
    stored = ROUND[kind](values)
    moved = before_storage(kind, seed=1)(Node(0, "attn_norm"), stored)
    assert np.mean(ROUND[kind](moved) == stored) > 0.98, "but for values at a power of two"
    assert np.mean(moved == stored) < 0.01


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (GraphConfig("qwen2", 2, 256, 4, 2, 64, 512, 300), ("ffn_swigl", "ffn_out")),
        (
            GraphConfig("gemma2", 2, 256, 4, 2, 64, 512, 300, activation=Activation.GELU_TANH, post_norms=True),
            ("ffn_geglu", "ffn_out"),
        ),
        (
            GraphConfig("qwen3moe", 2, 256, 4, 2, 64, 512, 300, experts=8, experts_used=2, expert_ffn=64),
            ("ffn_moe_swiglu", "moe_ffn_out"),
        ),
    ],
    ids=["dense", "GELU", "experts"],
)
def test_places_of_faults_and_kinds_of_captures_are_found_in_any_graph(
    config: GraphConfig, expected: tuple[str, str]
) -> None:
    graph = graph_for(config)
    assert places(graph)[-2:] == expected and set(places(graph)) <= set(graph.names)
    two = [node.stage for node in graph.nodes if CAPTURE_KINDS["two stages a layer"].keeps(node, graph)]
    assert two == ["embedding", *["attn_out", expected[1]] * 2, "lm_head"]
