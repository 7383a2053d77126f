"""One node at a time: the control that must be exact, and what bad values and long captures do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from aprtui.engine.cpu import nodes as nodes_module
from aprtui.engine.cpu import runner as runner_module
from aprtui.engine.cpu.engine import CpuEngine
from aprtui.engine.cpu.nodes import CpuNodes
from aprtui.engine.protocol import KvType, Logits, Mode, Taps
from aprtui.engine.reference.evaluate import NumpyNodes
from aprtui.engine.reference.history import rows_needed
from aprtui.errors import UsageError
from aprtui.model.config import RopeAngles
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node
from tests.engine.conformance import Recorder
from tests.engine.tiny_model import CPU_MODELS, TINY, TinyModel

TOKENS = [int(token) for token in np.random.default_rng(11).integers(0, 300, 43)]

NAMES = ("qwen2", "qwen3", "llama", "gemma2", "gemma3", "smollm3", "mistral3", "hybrid")
MODELS = {name: CPU_MODELS[name] for name in NAMES}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> TinyModel:
    return MODELS[str(request.param)]()


@pytest.fixture(scope="module")
def qwen2() -> TinyModel:
    return MODELS["qwen2"]()


def evaluator(model: TinyModel, threads: int = 2, rope_angles: RopeAngles = RopeAngles.F64) -> closing[CpuNodes]:
    return closing(CpuNodes(model, threads, rope_angles=rope_angles))  # type: ignore[arg-type]


def captured(model: TinyModel, tokens: list[int], *, prefill: int | None = None, kv: KvType = KvType.F32) -> Recorder:
    """All stages of `tokens` in `exact` mode, those after the first `prefill` decoded one by one."""
    recorder = Recorder()
    taps = Taps(recorder, full=frozenset(model.graph.nodes))
    with closing(CpuEngine(model, Mode.EXACT, kv, 2, 2048)) as engine:  # type: ignore[arg-type]
        engine.forward(tokens[:prefill], taps, Logits.ALL)
        for token in tokens[prefill:] if prefill else ():
            engine.forward([token], taps, Logits.ALL)
    return recorder


def inputs_of(model: TinyModel, node: Node, tensors: dict[Node, np.ndarray], first: int = 0) -> list[np.ndarray]:
    """The inputs of `node` for the positions `first …`; what reaches back over all positions from position 0."""
    graph, config, total = model.graph, model.config.graph, len(tensors[Node(0, "embedding")])
    found = []
    for index, (entry, source) in enumerate(zip(graph.entries(node), graph.inputs(node), strict=True)):
        rows = rows_needed(graph[node.stage].op, index, total - first, total)
        tensor = tensors[source]
        found.append(tensor[:, -rows:] if tensor.ndim == 3 else tensor[-rows:, config.part(entry.part)])
    return found


def replayed(
    model: TinyModel, nodes: CpuNodes, recorder: Recorder, tokens: list[int], first: int = 0
) -> Iterator[tuple[Node, np.ndarray, np.ndarray]]:
    """Each node for the positions `first …`: evaluated from captured inputs, and as captured; of a state the last."""
    tensors = {node: recorder.tensor(node) for node in model.graph.nodes}
    for node in model.graph.nodes:
        begin = len(tokens) - 1 if model.graph[node.stage].holds_state else first
        inputs = inputs_of(model, node, tensors, begin)
        found = nodes.evaluate(node, inputs, tokens=tokens[begin:], position=begin)
        yield node, found, tensors[node][..., begin - len(tokens) :, :]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("prefill", [None, 9])
def test_the_replay_of_an_exact_capture_gives_the_same_bits(
    model: TinyModel, prefill: int | None, threads: int
) -> None:
    recorder = captured(model, TOKENS, prefill=prefill)
    with evaluator(model, threads) as nodes:
        for first in (0, 17, len(TOKENS) - 1):
            for node, found, expected in replayed(model, nodes, recorder, TOKENS, first):
                np.testing.assert_array_equal(bits(found), bits(expected), err_msg=f"{node} from {first} on")


def bits(values: np.ndarray) -> np.ndarray:
    assert values.dtype == np.float32
    return np.ascontiguousarray(values).view(np.uint32)


def test_chunks_of_tokens_and_of_maps_change_no_bit(qwen2: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = captured(qwen2, TOKENS)
    monkeypatch.setattr("aprtui.engine.cpu.storage.MOST_TOKENS", 9)
    monkeypatch.setattr(runner_module, "_MAP_BYTES", 8 * TINY.heads * len(TOKENS) * 4)
    monkeypatch.setattr(nodes_module, "_POSITIONS", 16)
    with evaluator(qwen2) as nodes:
        for first in (0, 5):
            for node, found, expected in replayed(qwen2, nodes, recorder, TOKENS, first):
                np.testing.assert_array_equal(bits(found), bits(expected), err_msg=str(node))


def test_more_tokens_than_a_chunk_holds_give_the_same_bits(model: TinyModel) -> None:
    tokens = [int(token) for token in np.random.default_rng(3).integers(0, 300, 703)]
    recorder = captured(model, tokens)
    with evaluator(model) as nodes:
        for node, found, expected in replayed(model, nodes, recorder, tokens):
            np.testing.assert_array_equal(bits(found), bits(expected), err_msg=str(node))


def test_an_error_in_a_captured_stage_is_seen_at_that_stage(qwen2: TinyModel) -> None:
    recorder = captured(qwen2, TOKENS)
    wrong = Node(1, "ffn_gate")
    recorder.pieces[wrong][0][1][7, 100] += 1e-3
    with evaluator(qwen2) as nodes:
        differing = [n for n, found, expected in replayed(qwen2, nodes, recorder, TOKENS) if (found != expected).any()]
    assert differing == [wrong, Node(1, "ffn_silu")]


def test_a_rounded_cache_shows_at_scores_and_attention_only(qwen2: TinyModel) -> None:
    """The replay has float32 K/V, so a capture with float16 K/V differs at these, unless its inputs are rounded."""
    recorder = captured(qwen2, TOKENS, kv=KvType.F16)
    with evaluator(qwen2) as nodes:
        found = {n: (a, b) for n, a, b in replayed(qwen2, nodes, recorder, TOKENS) if (a != b).any()}
    assert {qwen2.graph[node.stage].op for node in found} == {Op.SCORES, Op.ATTEND}


def test_rope_angles_can_be_those_of_other_engines(qwen2: TinyModel) -> None:
    rng = np.random.default_rng(0)
    queries, node = rng.standard_normal((3, TINY.q_width), np.float32), Node(1, "q_post_rope")
    results = []
    for angles in RopeAngles:
        with evaluator(qwen2, rope_angles=angles) as nodes:
            found = nodes.evaluate(node, [queries], tokens=[1, 2, 3], position=900)
        expected = NumpyNodes(qwen2, angles).evaluate(node, [queries], tokens=[1, 2, 3], position=900)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
        results.append(found)
    assert np.abs(results[0] - results[1]).max() > 1e-6


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["one value", "everything"])
def test_bad_values_come_out_where_the_reference_has_them(model: TinyModel, value: float, where: str) -> None:
    """But a token does not see the bad keys and values of later ones, which the reference multiplies by zeros."""
    recorder, bad_token = captured(model, TOKENS), 20
    tensors = {node: recorder.tensor(node) for node in model.graph.nodes}
    reference = NumpyNodes(model)  # type: ignore[arg-type]
    with evaluator(model) as nodes:
        for node in (node for node in model.graph.nodes if node.layer != 0):
            inputs = [values.copy() for values in inputs_of(model, node, tensors)]
            if where == "everything":
                inputs[0][...] = value
            else:
                inputs[-1][..., bad_token, 3] = value
            if inputs[0].ndim == 3:
                inputs[0] = np.tril(inputs[0])
            found = nodes.evaluate(node, inputs, tokens=TOKENS, position=0)
            expected = reference.evaluate(node, inputs, tokens=TOKENS, position=0)
            if found.ndim == 3:
                assert not np.triu(found, 1).any(), node
                expected = np.tril(expected)
            if model.graph[node.stage].op is Op.ATTEND and where == "one value":
                assert np.isfinite(found[:bad_token]).all()
                found, expected = found[bad_token:], expected[bad_token:]
            np.testing.assert_array_equal(np.isnan(found), np.isnan(expected), err_msg=str(node))
            np.testing.assert_array_equal(np.isposinf(found), np.isposinf(expected), err_msg=str(node))


def test_one_evaluator_serves_any_order_of_nodes(qwen2: TinyModel) -> None:
    recorder = captured(qwen2, TOKENS)
    tensors = {node: recorder.tensor(node) for node in qwen2.graph.nodes}
    with evaluator(qwen2) as nodes:
        for index in np.random.default_rng(5).permutation(len(qwen2.graph.nodes)):
            node = qwen2.graph.nodes[index]
            found = nodes.evaluate(node, inputs_of(qwen2, node, tensors), tokens=TOKENS, position=0)
            np.testing.assert_array_equal(bits(found), bits(tensors[node]), err_msg=str(node))


def test_the_last_row_of_the_logits_alone_is_that_of_all(qwen2: TinyModel) -> None:
    recorder, node = captured(qwen2, TOKENS), Node(None, "lm_head")
    (source,) = qwen2.graph.inputs(node)
    with evaluator(qwen2) as nodes:
        last = nodes.evaluate(node, [recorder.tensor(source)[-1:]], tokens=TOKENS[-1:], position=len(TOKENS) - 1)
    np.testing.assert_array_equal(last, recorder.tensor(node)[-1:])


def test_token_ids_outside_the_vocabulary_are_refused(qwen2: TinyModel) -> None:
    with evaluator(qwen2) as nodes, pytest.raises(UsageError, match="token id 300"):
        nodes.evaluate(Node(0, "embedding"), [], tokens=[1, 300], position=0)


def test_closing_twice_does_nothing(qwen2: TinyModel) -> None:
    with evaluator(qwen2, threads=3) as nodes:
        nodes.close()


def test_a_position_before_the_first_is_refused(qwen2: TinyModel) -> None:
    """A key would be written in front of the cache, into memory that is somebody else's."""
    node = Node(0, "k_post_rope")
    zeros = np.zeros((2, qwen2.graph["qkv_bias"].width), np.float32)
    with evaluator(qwen2) as nodes, pytest.raises(ValueError, match="position -3, expected 0 or more"):
        nodes.evaluate(node, [zeros], tokens=[1, 2], position=-3)
