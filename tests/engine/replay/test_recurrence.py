"""Replay of captures of models with recurrent layers: honest ones pass, faults are named at their own stage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import Verdict
from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.evaluation.cause_detection import CauseOutcome, CausePlants, cause_outcome
from aprtui.engine.evaluation.planted_causes import PLANTED_CAUSES
from aprtui.engine.faults.faults import FaultInjector, parse_fault
from aprtui.engine.floors.measure import run_forward
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import KvType, Logits, Mode
from aprtui.engine.reference.evaluate import NumpyNodes
from aprtui.engine.replay.arithmetic import UNROUNDED, Recomputation
from aprtui.engine.replay.chunked_delta import ChunkedNodes
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model.model import Model, load_model
from aprtui.model.weight_types import WeightType
from aprtui.trace.aprt import read_aprt, write_aprt
from aprtui.trace.capture import PROVENANCE, Capture
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.stage import ENTRY, LAYER_OUTPUT, Node
from aprtui.trace.manifest import relative_path
from tests.engine.conformance import relative_l2
from tests.engine.embedded_captures import captured, edit
from tests.engine.replay.own_captures import assert_exactly_zero, assert_passes_below, replayed
from tests.model.gguf_files import write_model
from tests.thinning import crossed

TOKENS = tuple(int(token) for token in np.random.default_rng(5).integers(0, 260, 17))


HYBRIDS = ("qwen35", "qwen35moe")


@pytest.fixture(scope="module", params=HYBRIDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("hybrid") / "model.gguf"
    return load_model(write_model(path, architecture=request.param, weight_type=WeightType.Q8_0, layers=4))


@pytest.fixture(scope="module")
def evaluators(model: Model) -> Iterator[Evaluators]:
    with Evaluators(model) as found:
        yield found


def failed(result: Comparison) -> list[Node]:
    return [found.node for found in result.stages if found.verdict.verdict is Verdict.FAIL]


@pytest.mark.parametrize("prefill", [None, 4])
def test_replay_of_an_own_exact_capture_is_exactly_zero(
    model: Model, evaluators: Evaluators, tmp_path: Path, prefill: int | None
) -> None:
    assert_exactly_zero(replayed(model, evaluators, captured(model, tmp_path / "own", tokens=TOKENS, prefill=prefill)))


@pytest.mark.parametrize("kv", list(KvType))
def test_an_honest_q8_capture_passes_far_below_its_bound(
    model: Model, evaluators: Evaluators, tmp_path: Path, kv: KvType
) -> None:
    assert_passes_below(
        replayed(model, evaluators, captured(model, tmp_path / "q8", Mode.Q8, kv, tokens=TOKENS)), 1.5e-6
    )


def test_a_capture_holds_one_state_a_layer(model: Model, tmp_path: Path) -> None:
    capture = Capture.open(captured(model, tmp_path / "own", tokens=TOKENS, prefill=4))
    assert capture.manifest is not None
    states = {name: info.shape for name, info in capture.manifest.files.items() if "linear_attn_state" in name}
    width = model.config.graph.linear_state_width
    assert states == {f"layer-{layer}/linear_attn_state.bin": (1, width) for layer in (0, 2)}


FAULTS = [
    ("conv_output_raw", "state-not-reset"),
    ("linear_attn_output", "state-not-reset"),
    ("linear_attn_state", "state-not-reset"),
    ("linear_attn_state", "scale,magnitude=0.0001"),
    ("linear_attn_state", "head-swap"),
    ("linear_attn_output", "stale-token"),
    ("linear_attn_norm", "head-swap"),
    ("a_softplus", "scale,magnitude=0.001"),
    ("linear_attn_gate", "stale-token"),
    ("q_conv_predelta", "head-swap"),
    ("linear_attn_beta", "gate-up-swap"),
    ("post_attn_residual", "residual-dropped"),
]


@pytest.mark.parametrize(("model", "fault"), crossed(HYBRIDS, FAULTS), indirect=["model"])
def test_a_planted_fault_is_named_at_its_own_stage(
    model: Model, evaluators: Evaluators, tmp_path: Path, fault: tuple[str, str]
) -> None:
    stage, kind = fault
    injector = FaultInjector(model, Mode.EXACT, [parse_fault(f"layer=2,stage={stage},kind={kind}", model)])
    engine = open_engine(model, mode=Mode.EXACT, kv=KvType.F32, context=64, intervention=injector)
    try:
        request = CaptureRequest(TOKENS, None, frozenset(model.graph.nodes), logits=Logits.LAST)
        write_capture(engine, model, request, tmp_path / "bad")
    finally:
        engine.close()
    assert failed(replayed(model, evaluators, tmp_path / "bad")) == [Node(2, stage)]


def test_the_state_gives_the_output_of_a_capture_of_the_last_token(
    model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:
    """What went into the state before is not there; the state is."""
    directory = captured(model, tmp_path / "own", tokens=TOKENS)
    output, state = Node(0, "linear_attn_output"), Node(0, "linear_attn_state")
    last = without_manifest(directory, tmp_path / "last", kept=(output, state, Node(0, "q_conv_predelta")), rows=1)
    result = replay_capture(Capture.open(last), model, ReplayOptions(tokens=TOKENS), evaluators)
    (found,) = (stage for stage in result.stages if stage.node == output)
    assert found.verdict.verdict is Verdict.PASS and not found.segment
    edit(last, state, lambda values: np.multiply(values, np.float32(1.01), out=values))
    result = replay_capture(Capture.open(last), model, ReplayOptions(tokens=TOKENS), evaluators)
    assert output in failed(result)


def without_manifest(
    directory: Path, target: Path, kept: tuple[Node, ...] | None = None, rows: int | None = None, *,
    as_transformers: GraphConfig | None = None,
) -> Path:  # fmt: skip
    """The stage files alone: of `kept` nodes or all, the last `rows`, value heads in the order of transformers."""
    capture = Capture.open(directory)
    for node in kept or tuple(capture.files):
        values = np.asarray(capture.values(node))
        if rows is not None:
            values = values[-rows:]
        if as_transformers is not None and "attention" not in node.stage:
            values = grouped(values, node.stage, as_transformers)
        path = target / relative_path(node)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_aprt(path, node.layer, values)
    (target / PROVENANCE).write_text(f"tokens: {list(TOKENS)}\n")
    return target


def grouped(values: np.ndarray, stage: str, config: GraphConfig) -> np.ndarray:
    """Value heads key head by key head, and states with key channels outermost, as transformers has them."""
    keys, heads, dim = config.linear_key_heads, config.linear_value_heads, config.linear_head_dim
    order = np.arange(heads).reshape(-1, keys).T.reshape(-1)
    if stage == "linear_attn_state":
        return values.reshape(1, heads, dim, dim)[:, order].swapaxes(2, 3).reshape(values.shape)
    first = 2 * keys * dim if values.shape[1] == config.linear_qkv_width else 0
    if stage.startswith(("linear_attn_", "conv_", "beta_", "a_soft")) and stage != "linear_attn_out":
        moved = values[:, first:].reshape(len(values), heads, -1)[:, order].reshape(len(values), -1)
        return np.concatenate([values[:, :first], moved], axis=1)
    return values


def test_value_heads_in_the_order_of_transformers_are_no_fault(
    model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:
    directory = captured(model, tmp_path / "own", tokens=TOKENS)
    foreign = without_manifest(directory, tmp_path / "foreign", as_transformers=model.config.graph)
    first = read_aprt(foreign / "layer-0/linear_attn_z.bin").values
    assert not np.array_equal(first, read_aprt(directory / "layer-0/linear_attn_z.bin").values)
    result = replayed(model, evaluators, foreign)
    assert result.verdict is Verdict.PASS, (failed(result), result.statements)
    assert any("key head by key head" in statement for statement in result.statements)


def test_a_softplus_whose_sum_is_taken_in_float32_is_no_fault(
    model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:
    """As llama.cpp does; for small results that is much more than other last bits."""
    directory = captured(model, tmp_path / "own", tokens=TOKENS)
    alpha = np.asarray(Capture.open(directory).values(Node(0, "linear_attn_alpha")))
    (bias,) = model.params(Node(0, "a_softplus"))

    def as_llama_cpp(values: np.ndarray) -> None:
        power = np.exp(alpha + bias.dequantize().reshape(-1), dtype=np.float32)
        values[...] = np.log(np.float32(1) + power, dtype=np.float32).reshape(values.shape)

    edit(directory, Node(0, "a_softplus"), as_llama_cpp)
    assert Node(0, "a_softplus") not in failed(replayed(model, evaluators, directory))


@pytest.mark.parametrize("tokens", [1, 5, 64, 150])
def test_recurrences_in_chunks_are_those_of_one_token_after_the_other(model: Model, tokens: int) -> None:
    """And lose more where a head forgets fast: what a sum of logarithms loses is a relative error of what decays."""
    config, random = model.config.graph, np.random.default_rng(tokens)
    plain = NumpyNodes(model)
    chunked = ChunkedNodes(plain, model)
    heads, dim = config.linear_value_heads, config.linear_head_dim

    def unit(count: int) -> np.ndarray:
        heads_of = random.standard_normal((tokens, count, dim))
        normed = heads_of / np.linalg.norm(heads_of, axis=-1, keepdims=True)
        return np.asarray(normed.reshape(tokens, -1), np.float32)

    inputs = [
        unit(config.linear_key_heads), random.standard_normal((tokens, heads * dim)).astype(np.float32),
        -random.uniform(0.01, 3, (tokens, heads)).astype(np.float32),
        random.uniform(0, 1, (tokens, heads)).astype(np.float32),
    ]  # fmt: skip
    state, output = Node(0, "linear_attn_state"), Node(0, "linear_attn_output")
    found = [nodes.evaluate(state, inputs, tokens=[0], position=tokens - 1) for nodes in (plain, chunked)]
    assert relative_l2(found[1], found[0]) < 3e-6
    for rows in {1, tokens, max(tokens - 3, 1)}:
        read = [found[0], unit(config.linear_key_heads)[-rows:], *inputs]
        outputs = [
            nodes.evaluate(output, read, tokens=[0] * rows, position=tokens - rows) for nodes in (plain, chunked)
        ]
        assert outputs[0].shape == (rows, heads * dim)
        assert relative_l2(outputs[1], outputs[0]) < 3e-6


@pytest.mark.parametrize("written", [None, (ENTRY, LAYER_OUTPUT, "lm_head")])
def test_a_capture_of_an_engine_that_computes_prompts_in_chunks_is_no_fault(
    model: Model, evaluators: Evaluators, tmp_path: Path, written: tuple[str, ...] | None
) -> None:
    tokens = tuple(int(token) for token in np.random.default_rng(6).integers(0, 260, 140))
    recomputation = Recomputation(model, UNROUNDED, lambda angles: ChunkedNodes(evaluators(angles), model))
    for node, values in run_forward(model, tokens, recomputation):
        if written is not None and node.stage not in written:
            continue
        path = tmp_path / "chunked" / relative_path(node)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_aprt(path, node.layer, values)
    result = replay_capture(Capture.open(tmp_path / "chunked"), model, ReplayOptions(tokens=tokens), evaluators)
    assert result.verdict is Verdict.PASS


@pytest.mark.parametrize(
    "name", ["convolution: taps backwards", "recurrence: decay behind the update", "recurrence: softplus left out"]
)
def test_the_cause_of_a_planted_fault_is_proved(
    name: str, model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:
    planted = PLANTED_CAUSES[name]
    node = planted.nodes(model)[0]
    result = CausePlants(model, TOKENS, evaluators, tmp_path).replayed(node, planted)
    assert result is not None and cause_outcome(result, planted) is CauseOutcome.PROVED
