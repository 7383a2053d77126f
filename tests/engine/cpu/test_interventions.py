"""Interventions: what they are given is what the stage was computed from, and everything downstream sees the result."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import numpy as np
import pytest

from aprtui.engine.cpu.engine import CpuEngine
from aprtui.engine.cpu.nodes import CpuNodes
from aprtui.engine.kv_types import fitting_kv_types, round_kv
from aprtui.engine.protocol import Intervention, KvType, Logits, Mode, NodeCall, Taps
from aprtui.engine.reference.evaluate import evaluate
from aprtui.engine.rounding import ARITHMETIC
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node
from aprtui.trace.stats import Accumulator, accumulate, causal
from tests.engine.conformance import Recorder, relative_l2
from tests.engine.cpu.test_nodes import MODELS, evaluator, inputs_of
from tests.engine.tiny_model import TinyModel
from tests.thinning import crossed

TOKENS = [int(token) for token in np.random.default_rng(13).integers(0, 300, 31)]
PREFILL = 27
"""Tokens of the prompt; the others are decoded one by one."""

Replace = Callable[[NodeCall], np.ndarray]


class At:
    """An intervention at `nodes` that keeps its calls' nodes and positions."""

    def __init__(self, nodes: frozenset[Node], replace: Replace) -> None:
        self.nodes, self.replace = nodes, replace
        self.calls: list[tuple[Node, int, tuple[int, ...]]] = []

    def __call__(self, call: NodeCall) -> np.ndarray:
        self.calls.append((call.node, call.position, tuple(call.tokens)))
        return self.replace(call)


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> TinyModel:
    return MODELS[str(request.param)]()


@pytest.fixture(scope="module")
def qwen2() -> TinyModel:
    return MODELS["qwen2"]()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts are evaluated in three chunks."""
    monkeypatch.setattr("aprtui.engine.cpu.storage.MOST_TOKENS", 11)


def same(call: NodeCall) -> np.ndarray:
    return call.output.copy()


def negated(call: NodeCall) -> np.ndarray:
    return -call.output


def run(
    model: TinyModel,
    mode: Mode,
    kv: KvType = KvType.F32,
    intervention: Intervention | None = None,
    logits: Logits = Logits.ALL,
    tapped: frozenset[Node] | None = None,
) -> tuple[list[np.ndarray], Recorder]:
    """Logits of each pass and all stages of a prompt and some decoded tokens."""
    recorder = Recorder()
    nodes = frozenset(model.graph.nodes) if tapped is None else tapped
    with closing(CpuEngine(model, mode, kv, 2, 64, intervention=intervention)) as engine:  # type: ignore[arg-type]
        passes = [TOKENS[:PREFILL], *([token] for token in TOKENS[PREFILL:])]
        results = [engine.forward(tokens, Taps(recorder, nodes, nodes), logits) for tokens in passes]
    return results, recorder


def require_same(found: tuple[list[np.ndarray], Recorder], expected: tuple[list[np.ndarray], Recorder]) -> None:
    for mine, theirs in zip(found[0], expected[0], strict=True):
        np.testing.assert_array_equal(mine.view(np.uint32), theirs.view(np.uint32))
    assert found[1].pieces.keys() == expected[1].pieces.keys()
    for node in expected[1].pieces:
        mine, theirs = found[1].tensor(node), expected[1].tensor(node)
        np.testing.assert_array_equal(mine.view(np.uint32), theirs.view(np.uint32), err_msg=str(node))
        assert found[1].stats[node] == expected[1].stats[node]


@pytest.mark.parametrize("logits", list(Logits))
@pytest.mark.parametrize(("model", "mode"), crossed(MODELS, Mode), indirect=["model"])
def test_putting_back_the_same_at_every_node_changes_no_bit(model: TinyModel, mode: Mode, logits: Logits) -> None:
    everywhere, nothing = At(frozenset(model.graph.nodes), same), frozenset[Node]()
    for kv in fitting_kv_types(model.config.graph):
        require_same(run(model, mode, kv, everywhere, logits), run(model, mode, kv, None, logits))
        untapped = run(model, mode, kv, everywhere, logits, nothing), run(model, mode, kv, None, logits, nothing)
        require_same(*untapped)


@pytest.mark.parametrize(("model", "mode"), crossed(MODELS, Mode), indirect=["model"])
def test_putting_back_the_same_at_one_node_changes_no_bit(model: TinyModel, mode: Mode) -> None:
    expected, untapped = run(model, mode), run(model, mode, tapped=frozenset(), logits=Logits.LAST)
    for node in model.graph.nodes:
        at = At(frozenset({node}), same)
        require_same(run(model, mode, intervention=at), expected)
        require_same(run(model, mode, intervention=at, tapped=frozenset(), logits=Logits.LAST), untapped)
        assert {call[0] for call in at.calls} == {node}


@pytest.mark.parametrize("logits", list(Logits))
@pytest.mark.parametrize("kv", list(KvType))
def test_a_call_holds_what_the_stage_was_computed_from(model: TinyModel, kv: KvType, logits: Logits) -> None:
    if kv not in fitting_kv_types(model.config.graph):
        return
    with evaluator(model) as nodes:
        at = At(frozenset(model.graph.nodes), checked_by(nodes))
        run(model, Mode.EXACT, kv, at, logits, frozenset())
    for node in model.graph.nodes:
        calls = [(position, list(tokens)) for seen, position, tokens in at.calls if seen == node]
        chunks = [(0, 11), (11, 22), (22, PREFILL)] + [(i, i + 1) for i in range(PREFILL, len(TOKENS))]
        if model.graph[node.stage].holds_logits and logits is Logits.LAST:
            chunks = [(end - 1, end) for _, end in chunks[2:]]
        if model.graph[node.stage].holds_state:
            chunks = [(end - 1, end) for _, end in chunks]
        assert calls == [(begin, TOKENS[begin:end]) for begin, end in chunks], node


def checked_by(nodes: CpuNodes) -> Replace:
    """Gives the output back as it is, after evaluating it again from the inputs."""

    def checked(call: NodeCall) -> np.ndarray:
        found = nodes.evaluate(call.node, call.inputs, tokens=call.tokens, position=call.position)
        np.testing.assert_array_equal(found.view(np.uint32), call.output.view(np.uint32), err_msg=str(call.node))
        return call.output

    return checked


def test_a_call_holds_the_inputs_where_nothing_else_is_intervened(qwen2: TinyModel) -> None:
    with evaluator(qwen2) as nodes:
        for node in qwen2.graph.nodes:
            at = At(frozenset({node}), checked_by(nodes))
            run(qwen2, Mode.EXACT, KvType.F32, at, Logits.LAST, frozenset())
            assert at.calls, node


def test_everything_downstream_sees_what_every_intervention_returns(model: TinyModel) -> None:
    """Every stage negated: a captured stage is then what its captured inputs give, negated, bit by bit."""
    results, recorder = run(model, Mode.EXACT, intervention=At(all_but_states(model), negated))
    tensors = {node: recorder.tensor(node) for node in model.graph.nodes}
    with evaluator(model) as nodes:
        require_downstream(model, nodes, tensors)
    np.testing.assert_array_equal(np.concatenate(results), tensors[model.graph.nodes[-1]])


def all_but_states(model: TinyModel) -> frozenset[Node]:
    """A state that is replaced goes on to the next pass, so that it depends on how tokens are divided into passes."""
    return frozenset(node for node in model.graph.nodes if not model.graph[node.stage].holds_state)


def require_downstream(model: TinyModel, nodes: CpuNodes, tensors: dict[Node, np.ndarray]) -> None:
    for node in model.graph.nodes:
        if not model.graph[node.stage].holds_state:
            found = nodes.evaluate(node, inputs_of(model, node, tensors), tokens=TOKENS, position=0)
            np.testing.assert_array_equal(-found, tensors[node], err_msg=str(node))


def test_an_intervention_at_one_node_shows_at_no_other_when_replayed(qwen2: TinyModel) -> None:
    with evaluator(qwen2) as nodes:
        for faulty in qwen2.graph.nodes:
            _, recorder = run(qwen2, Mode.EXACT, intervention=At(frozenset({faulty}), lambda call: call.output * 2))
            tensors = {node: recorder.tensor(node) for node in qwen2.graph.nodes}
            differing = []
            for node in qwen2.graph.nodes:
                found = nodes.evaluate(node, inputs_of(qwen2, node, tensors), tokens=TOKENS, position=0)
                if (found != tensors[node]).any():
                    differing.append(node)
            assert differing == [faulty]


def test_roundings_of_q8_and_of_the_cache_act_on_what_interventions_return(model: TinyModel) -> None:
    for kv in fitting_kv_types(model.config.graph):
        _, recorder = run(model, Mode.Q8, kv, At(all_but_states(model), negated))
        tensors = {node: recorder.tensor(node) for node in model.graph.nodes}
        for node in all_but_states(model):
            inputs = inputs_of(model, node, tensors)
            if model.graph[node.stage].op in (Op.SCORES, Op.ATTEND):
                inputs[1] = round_kv(kv, inputs[1])
            expected = evaluate(model, node, inputs, tokens=TOKENS, position=0, arithmetic=ARITHMETIC[Mode.Q8])  # type: ignore[arg-type]
            assert relative_l2(-tensors[node], expected) <= 2e-6, (kv, node)


def test_statistics_are_those_of_what_interventions_return(qwen2: TinyModel) -> None:
    _, recorder = run(qwen2, Mode.Q8, intervention=At(frozenset(qwen2.graph.nodes), negated))
    for node in qwen2.graph.nodes:
        for (position, values), stats in zip(recorder.pieces[node], recorder.stats[node], strict=True):
            counted = accumulate(causal(values, position) if values.ndim == 3 else values)
            assert (stats.count, stats.min, stats.max) == (counted.count, counted.min, counted.max), node
            assert isinstance(stats, Accumulator)


def test_the_arrays_of_a_call_cannot_be_changed(qwen2: TinyModel) -> None:
    def careless(call: NodeCall) -> np.ndarray:
        for values in (*call.inputs, call.output):
            with pytest.raises(ValueError, match="read-only"):
                values[...] = 0
        return call.output

    run(qwen2, Mode.Q8, intervention=At(frozenset(qwen2.graph.nodes), careless))


def test_an_error_in_an_intervention_leaves_the_engine_usable(qwen2: TinyModel) -> None:
    broken = [True]

    def sometimes(call: NodeCall) -> np.ndarray:
        if broken[0]:
            raise OSError("not now")
        return call.output

    at = At(frozenset({Node(1, "attn_softmax")}), sometimes)
    with closing(CpuEngine(qwen2, Mode.Q8, KvType.F32, 2, 64, intervention=at)) as engine:  # type: ignore[arg-type]
        with pytest.raises(OSError, match="not now"):
            engine.forward(TOKENS)
        assert engine.position == 0
        broken[0] = False
        found = engine.forward(TOKENS)
    with closing(CpuEngine(qwen2, Mode.Q8, KvType.F32, 2, 64)) as engine:  # type: ignore[arg-type]
        np.testing.assert_array_equal(found, engine.forward(TOKENS))
