"""Replay of captures of gpt-oss: honest ones pass, also those of engines that round YaRN's range; faults are named."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.verdict import Verdict
from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.faults.faults import FaultInjector, parse_fault
from aprtui.engine.floors.criteria import criteria_by_model
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import KvType, Logits, Mode
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.model.model import Model, load_model
from aprtui.model.weight_types import WeightType
from aprtui.trace.capture import PROVENANCE, Capture
from aprtui.trace.graph.stage import ENTRY, LAYER_OUTPUT, Node
from tests.engine.embedded_captures import captured, edit
from tests.engine.replay.own_captures import assert_exactly_zero, assert_passes_below, replayed
from tests.model.gguf_files import model_file, write_model
from tests.thinning import crossed

TOKENS = tuple(int(token) for token in np.random.default_rng(3).integers(0, 260, 40))
"""More than the window of 16."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("gpt-oss") / "model.gguf"
    return load_model(
        write_model(path, architecture="gpt-oss", weight_type=WeightType.MXFP4, experts=6, experts_used=3)
    )


@pytest.fixture(scope="module")
def evaluators(model: Model) -> Iterator[Evaluators]:
    with Evaluators(model) as found:
        yield found


@pytest.fixture(scope="module")
def exact(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return captured(model, tmp_path_factory.mktemp("exact") / "own", tokens=TOKENS, logits=Logits.ALL)


@pytest.fixture(scope="module")
def q8(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return captured(model, tmp_path_factory.mktemp("q8") / "own", Mode.Q8, tokens=TOKENS, logits=Logits.ALL)


def foreign(directory: Path, to: Path, keeps: Callable[[Node], bool] = lambda node: True) -> Path:
    """A capture as a script of a user leaves it: some stage files and the token ids."""
    capture = Capture.open(directory)
    for node, file in capture.files.items():
        if keeps(node):
            target = to / file.path.relative_to(directory)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.path, target)
    (to / PROVENANCE).write_text(f"tokens: {list(TOKENS)}\n")
    return to


def test_replay_of_an_own_exact_capture_is_exactly_zero(model: Model, evaluators: Evaluators, exact: Path) -> None:
    assert_exactly_zero(replayed(model, evaluators, exact))


@pytest.mark.parametrize("kv", list(KvType))
def test_an_honest_q8_capture_passes_far_below_its_bound(
    model: Model, evaluators: Evaluators, tmp_path: Path, kv: KvType
) -> None:
    assert_passes_below(replayed(model, evaluators, captured(model, tmp_path / "q8", Mode.Q8, kv, tokens=TOKENS)), 1e-6)


def test_both_ways_of_yarn_differ_by_more_than_any_rounding(exact: Path, q8: Path) -> None:
    node = Node(0, "q_post_rope")
    a, b = (Capture.open(directory).values(node) for directory in (exact, q8))
    assert np.linalg.norm(a - b) > 0.01 * np.linalg.norm(a)


@pytest.mark.parametrize(
    "keeps",
    [lambda node: True, lambda node: node.stage in (ENTRY, LAYER_OUTPUT, "lm_head")],
    ids=["every stage", "layer outputs"],
)
def test_a_foreign_capture_passes_whether_its_engine_rounds_the_range_of_yarn_or_not(
    model: Model, evaluators: Evaluators, exact: Path, q8: Path, tmp_path: Path, keeps: Callable[[Node], bool]
) -> None:
    for name, directory in (("exact", exact), ("q8", q8)):
        result = replayed(model, evaluators, foreign(directory, tmp_path / name, keeps))
        assert result.verdict is Verdict.PASS, (name, result.reasons)
        said = any("YaRN's range is rounded to whole channel pairs" in statement for statement in result.statements)
        assert said is (name == "q8")


def test_a_pair_of_engines_that_differ_in_the_range_of_yarn_passes(
    model: Model, evaluators: Evaluators, exact: Path, q8: Path, tmp_path: Path
) -> None:
    a, b = (Capture.open(foreign(source, tmp_path / name)) for name, source in (("a", exact), ("b", q8)))
    criteria = criteria_by_model(a, b, model, TOKENS, evaluators)
    result = compare_captures(a, b, DiffOptions(tokens=TOKENS), None, criteria)
    assert result.verdict is Verdict.PASS, result.reasons
    assert any(statement.startswith("B: RoPE: YaRN's range is rounded") for statement in criteria.statements)


def test_the_rounding_of_experts_is_found_where_all_other_weights_are_floats(tmp_path: Path) -> None:
    file, blocks = (
        model_file(architecture="gpt-oss", weight_type=kind, experts=6, experts_used=3)
        for kind in (WeightType.F32, WeightType.MXFP4)
    )
    file.tensors |= {name: tensor for name, tensor in blocks.tensors.items() if name.endswith("_exps.weight")}
    model = load_model(file.write(tmp_path / "model.gguf"))
    directory = captured(model, tmp_path / "q8", Mode.Q8, tokens=TOKENS)
    with Evaluators(model) as evaluators:
        result = replayed(model, evaluators, foreign(directory, tmp_path / "honest"))
        assert result.verdict is Verdict.PASS
        assert any("matmul_input=q8" in statement for statement in result.statements)
        node = Node(1, "ffn_moe_up")
        edit(directory, node, lambda values: values * np.float32(1.005))
        result = replayed(model, evaluators, foreign(directory, tmp_path / "bad"))
    assert result.first_divergence is not None and result.first_divergence.verdict.node == node


def test_an_engine_that_adds_biases_within_its_products_passes(
    model: Model, evaluators: Evaluators, exact: Path, tmp_path: Path
) -> None:
    """As transformers does."""
    products = ("qkv_matmul", "attn_out_matmul", "ffn_moe_logits", "ffn_moe_gate", "ffn_moe_up", "ffn_moe_down")
    directory = foreign(exact, tmp_path / "few", lambda node: node.stage not in products)
    result = replayed(model, evaluators, directory)
    assert result.verdict is Verdict.PASS and result.compared == len(Capture.open(directory).files)


FAULTS = [
    (1, "attn_softmax", "sink-dropped"),
    (0, "attn_softmax", "sink-dropped"),
    (0, "attn_softmax", "window-off-by-one"),
    (1, "attn_softmax", "mask-off-by-one"),
    (1, "q_post_rope", "rope-magnitude-dropped"),
    (0, "k_post_rope", "rope-unscaled"),
    (1, "attn_out", "bias-dropped"),
    (1, "attn_out_matmul", "zero-channel"),
    (1, "moe_router", "bias-dropped"),
    (1, "moe_router_indices", "wrong-expert"),
    (0, "ffn_moe_weights_softmax", "router-unnormalised"),
    (0, "ffn_moe_gate", "gate-up-swap"),
    (1, "ffn_moe_gate_biased", "bias-dropped"),
    (0, "ffn_moe_down_biased", "bias-dropped"),
    (0, "ffn_moe_swiglu_oai", "clamp-dropped"),
    (1, "ffn_moe_swiglu_oai", "up-offset-dropped"),
    (1, "ffn_moe_down", "noise,magnitude=0.001"),
    (0, "moe_ffn_out", "scale,magnitude=0.001"),
]


@pytest.mark.parametrize(("fault", "mode"), crossed(FAULTS, Mode))
def test_a_planted_fault_is_named_at_its_own_stage(
    model: Model, evaluators: Evaluators, tmp_path: Path, fault: tuple[int, str, str], mode: Mode
) -> None:
    layer, stage, kind = fault
    injector = FaultInjector(model, mode, [parse_fault(f"layer={layer},stage={stage},kind={kind}", model)])
    engine = open_engine(model, mode=mode, kv=KvType.F32, context=64, intervention=injector)
    try:
        write_capture(engine, model, CaptureRequest(TOKENS, None, frozenset(model.graph.nodes)), tmp_path / "bad")
    finally:
        engine.close()
    result = replayed(model, evaluators, tmp_path / "bad")
    failed = [found.node for found in result.stages if found.verdict.verdict is Verdict.FAIL]
    assert failed == [Node(layer, stage)]


@pytest.mark.parametrize("decoding", [{"prefill": 4}, {"generate": 3}], ids=str)
def test_a_decoded_capture_replays_to_the_bit(
    model: Model, evaluators: Evaluators, tmp_path: Path, decoding: dict[str, Any]
) -> None:
    assert_exactly_zero(replayed(model, evaluators, captured(model, tmp_path / "own", tokens=TOKENS, **decoding)))
