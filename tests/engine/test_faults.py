"""Every kind of fault acts at its own stage, flows on downstream, and is the same in prefill and decode."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.engine.evaluation.fault_detection import MeteredFault
from aprtui.engine.faults.faults import Fault, FaultInjector, fault_node, parse_fault
from aprtui.engine.faults.kinds import KINDS, PARAMETERS, applies, kinds_at
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import Logits, Mode, Taps
from aprtui.errors import UsageError
from aprtui.model.config import Rope, Yarn
from aprtui.model.model import Model
from aprtui.trace.graph.stage import Node
from tests.engine.conformance import Recorder
from tests.engine.embedded_captures import TOKENS
from tests.engine.tiny_model import CPU_MODELS, SMOLLM3, tiny_model

Tensors = dict[Node, NDArray[np.float32]]
LIMIT = {"limit": 0.5}
OF_FEATURES = {
    "window-off-by-one": ("gemma2", Node(0, "attn_softmax")),
    "softcap-dropped": ("gemma2", Node(1, "attn_softcap")),
    "norm-offset-dropped": ("gemma2", Node(1, "attn_post_norm")),
    "sink-dropped": ("gpt-oss", Node(0, "attn_softmax")),
    "clamp-dropped": ("gpt-oss", Node(1, "ffn_moe_swiglu_oai")),
    "up-offset-dropped": ("gpt-oss", Node(0, "ffn_moe_swiglu_oai")),
    "experts-unscaled": ("leading dense layer", Node(1, "ffn_moe_weights_scaled")),
    "rope-everywhere": ("smollm3", Node(1, "k_post_rope")),
    "temperature-dropped": ("mistral3", Node(1, "q_temp_scaled")),
    "rope-unscaled": ("odd heads", Node(1, "q_post_rope")),
    "rope-magnitude-dropped": ("odd heads", Node(1, "k_post_rope")),
}
"""Kinds that the embedded model cannot have, with a place in a model that has the feature."""
OF_EXPERTS = ("wrong-expert", "router-unnormalised", "groups-ignored")
"""Those are planted in `replay/test_experts.py` and `replay/test_expert_groups.py`."""
OF_RECURRENCE = ("state-not-reset",)
OF_ANY = [kind for kind in KINDS if kind not in (*OF_FEATURES, *OF_EXPERTS, *OF_RECURRENCE)]


def one_place(kind: str, model: Model) -> Node:
    """A node in the middle of the model where `kind` applies."""
    return next(node for node in model.graph.nodes if node.layer == 2 and applies(kind, model, node))


@pytest.mark.parametrize("node", [Node(2, "ffn_gate"), Node(None, "lm_head")])
def test_the_stage_of_a_fault_can_be_read_from_its_text(node: Node) -> None:
    assert fault_node(str(Fault("scale", node, {"magnitude": 0.5}))) == node


def fault_of(kind: str, model: Model) -> Fault:
    return Fault(kind, one_place(kind, model), LIMIT if "limit" in KINDS[kind].parameters else {})


def tensors(model: Model, faults: list[Fault], backend: str, prefill: int, mode: Mode = Mode.EXACT) -> Tensors:
    intervention = FaultInjector(model, mode, faults) if faults else None
    engine = open_engine(model, backend=backend, mode=mode, context=32, intervention=intervention)
    recorder = Recorder()
    taps = Taps(recorder, full=frozenset(model.graph.nodes))
    try:
        tokens = [token % model.config.graph.vocabulary for token in TOKENS]
        engine.forward(tokens[:prefill], taps, Logits.ALL)
        for token in tokens[prefill:]:
            engine.forward([token], taps, Logits.ALL)
    finally:
        engine.close()
    return {node: recorder.tensor(node) for node in recorder.pieces}


@pytest.fixture(scope="module")
def honest(model: Model) -> Tensors:
    return tensors(model, [], "cpu", len(TOKENS))


def downstream(model: Model, node: Node) -> frozenset[Node]:
    reached: set[Node] = {node}
    for other in model.graph.nodes:
        if reached.intersection(model.graph.inputs(other)):
            reached.add(other)
    return frozenset(reached)


@pytest.mark.parametrize("kind", OF_ANY)
def test_a_fault_changes_its_stage_and_only_what_comes_after(model: Model, honest: Tensors, kind: str) -> None:
    fault = fault_of(kind, model)
    faulty = tensors(model, [fault], "cpu", len(TOKENS))
    changed = {node for node in honest if not np.array_equal(honest[node], faulty[node], equal_nan=True)}
    assert fault.node in changed
    assert changed <= downstream(model, fault.node)
    assert model.graph.nodes[-1] in changed, "it flows on to the logits"


@pytest.mark.parametrize("kind", OF_ANY)
def test_a_fault_is_the_same_in_prefill_and_decode(model: Model, kind: str) -> None:
    fault = fault_of(kind, model)
    whole, pieces = (tensors(model, [fault], "cpu", prefill) for prefill in (len(TOKENS), 3))
    for node, values in whole.items():
        np.testing.assert_allclose(pieces[node], values, rtol=1e-5, atol=1e-5, err_msg=str(node))


@pytest.mark.parametrize("kind", OF_ANY)
def test_both_backends_make_the_same_fault(model: Model, kind: str) -> None:
    fault = fault_of(kind, model)
    compiled, plain = (tensors(model, [fault], backend, len(TOKENS)) for backend in ("cpu", "numpy"))
    np.testing.assert_allclose(compiled[fault.node], plain[fault.node], rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(("kind", "name", "node"), [(kind, *place) for kind, place in OF_FEATURES.items()])
def test_a_fault_of_a_feature_changes_its_stage_and_is_the_same_everywhere(kind: str, name: str, node: Node) -> None:
    model = cast(Model, CPU_MODELS[name]())
    assert applies(kind, model, node)
    sound = tensors(model, [], "cpu", len(TOKENS))
    runs = [(("cpu", len(TOKENS))), ("cpu", 3), ("numpy", len(TOKENS))]
    whole, decoded, plain = (tensors(model, [Fault(kind, node)], *run) for run in runs)
    changed = {other for other in sound if not np.array_equal(sound[other], whole[other])}
    assert node in changed
    assert changed <= downstream(model, node)
    assert model.graph.nodes[-1] in changed
    np.testing.assert_allclose(decoded[node], whole[node], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(plain[node], whole[node], rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("stage", ["conv_output_raw", "linear_attn_state", "linear_attn_output"])
def test_a_state_that_is_not_reset_changes_its_stage_and_is_the_same_everywhere(stage: str) -> None:
    hybrid, node = cast(Model, CPU_MODELS["hybrid"]()), Node(1, stage)
    assert applies("state-not-reset", hybrid, node)
    sound = tensors(hybrid, [], "cpu", len(TOKENS))
    runs = [(("cpu", len(TOKENS))), ("cpu", 3), ("numpy", len(TOKENS)), ("numpy", 3)]
    whole, decoded, plain, plain_decoded = (tensors(hybrid, [Fault("state-not-reset", node)], *run) for run in runs)
    changed = {other for other in sound if not np.array_equal(sound[other], whole[other])}
    assert node in changed
    assert changed <= downstream(hybrid, node)
    assert hybrid.graph.nodes[-1] in changed
    for other in (decoded, plain, plain_decoded):
        last = -len(whole[node]) if stage != "linear_attn_state" else -1  # of a pass, its last state
        np.testing.assert_allclose(other[node][last:], whole[node][last:], rtol=2e-4, atol=2e-5)


def test_a_layer_without_the_stage_of_a_fault_is_named() -> None:
    hybrid = cast(Model, CPU_MODELS["hybrid"]())
    with pytest.raises(UsageError, match="layer 0 has no attention, which is in 2"):
        parse_fault("layer=0,stage=attention,kind=scale", hybrid)


def test_faults_of_a_feature_apply_to_models_that_have_it_only(model: Model) -> None:
    gemma = cast(Model, CPU_MODELS["gemma2"]())
    assert not any(applies(kind, model, node) for kind in OF_FEATURES for node in model.graph.nodes)
    assert not applies("window-off-by-one", gemma, Node(1, "attn_softmax")), "a layer of full attention"
    assert applies("softcap-dropped", gemma, Node(None, "logit_softcap"))


def test_faults_of_rope_stand_where_there_is_rope_and_the_one_without_it_where_there_is_none() -> None:
    smollm3 = cast(Model, CPU_MODELS["smollm3"]())
    for kind in ("rope-theta", "rope-interleaved", "position-off-by-one"):
        assert [applies(kind, smollm3, Node(layer, "q_post_rope")) for layer in range(3)] == [True, False, True]
    assert not applies("rope-everywhere", smollm3, Node(0, "q_post_rope"))
    scaled = cast(Model, tiny_model(SMOLLM3, rope=Rope(1e4, 8.0, None, Yarn(256), 1.2)))
    for kind in ("rope-unscaled", "rope-magnitude-dropped"):
        assert [applies(kind, scaled, Node(layer, "k_post_rope")) for layer in range(3)] == [True, False, True]


def test_a_magnitude_is_the_change_at_the_stage(model: Model) -> None:
    for kind in ("scale", "noise"):
        meter = MeteredFault(model, Mode.EXACT, Fault(kind, Node(1, "attn_softmax"), {"magnitude": 1e-3}))
        engine = open_engine(model, context=32, intervention=meter)
        engine.forward(TOKENS)
        engine.close()
        assert meter.change == pytest.approx(1e-3, rel=1e-3 if kind == "scale" else 0.8)


def test_several_faults_act_together(model: Model, honest: Tensors) -> None:
    faults = [parse_fault("layer=0,stage=ffn_out,kind=nan,token=4,channel=3", model)]
    faults.append(parse_fault("layer=0,stage=ffn_out,kind=zero-channel,channel=5", model))
    faulty = tensors(model, faults, "cpu", len(TOKENS))[Node(0, "ffn_out")]
    assert np.argwhere(np.isnan(faulty)).tolist() == [[4, 3]]
    assert not faulty[:, 5].any() and honest[Node(0, "ffn_out")][:, 5].any()


def test_a_fault_of_values_acts_on_what_one_that_computes_again_made(model: Model, honest: Tensors) -> None:
    node = Node(1, "ffn_norm")
    eps, scale = Fault("eps", node, {"epsilon": 1.0}), Fault("scale", node, {"magnitude": 1.0})
    alone = tensors(model, [eps], "cpu", len(TOKENS))[node]
    for faults in ([eps, scale], [scale, eps]):
        np.testing.assert_array_equal(tensors(model, faults, "cpu", len(TOKENS))[node], 2 * alone)
    with pytest.raises(UsageError, match="compute one stage again"):
        FaultInjector(model, Mode.EXACT, [eps, Fault("eps", node, {"epsilon": 2.0})])


def test_a_tail_that_is_left_out_is_what_the_last_inputs_give(model: Model, honest: Tensors) -> None:
    node = Node(1, "ffn_out")
    found = tensors(model, [Fault("k-tail", node, {"count": 5})], "cpu", len(TOKENS))[node]
    (weight,) = model.params(node)
    tail = honest[Node(1, "ffn_swigl")][:, -5:] @ weight.dequantize()[:, -5:].T
    np.testing.assert_allclose(honest[node] - found, tail, atol=1e-5)


def test_a_tail_of_channels_and_a_row_are_as_long_and_where_they_are_wanted(model: Model, honest: Tensors) -> None:
    node = Node(1, "ffn_up")
    tail = tensors(model, [Fault("zero-tail", node, {"count": 3})], "cpu", len(TOKENS))[node]
    assert not tail[:, -3:].any() and np.array_equal(tail[:, :-3], honest[node][:, :-3])
    for prefill in (len(TOKENS), 3):
        row = tensors(model, [Fault("stale-row", node, {"token": 4})], "cpu", prefill)[node]
        wrong = [token for token in range(len(TOKENS)) if not np.allclose(row[token], honest[node][token], atol=1e-4)]
        assert wrong == [4]
        np.testing.assert_array_equal(row[4], row[3])


def test_logits_are_poisoned_at_every_token_that_has_them(model: Model) -> None:
    fault = Fault("nan", Node(None, "lm_head"))
    for prefill in (len(TOKENS), 3):
        found = tensors(model, [fault], "cpu", prefill)[fault.node]
        assert np.isnan(found[:, 0]).all() and not np.isnan(found[:, 1:]).any()


def test_a_run_without_taps_has_the_same_fault(model: Model) -> None:
    """The captured run is the run, though what is not tapped may be computed for fewer tokens."""
    for kind in OF_ANY:
        last = model.graph.layers - 1
        places = [node for node in model.graph.nodes if node.layer == last and applies(kind, model, node)]
        for node in places:
            fault = Fault(kind, node, LIMIT if "limit" in KINDS[kind].parameters else {})
            engine = open_engine(model, context=32, intervention=FaultInjector(model, Mode.EXACT, [fault]))
            untapped = engine.forward(TOKENS)
            engine.close()
            engine = open_engine(model, context=32, intervention=FaultInjector(model, Mode.EXACT, [fault]))
            tapped = engine.forward(TOKENS, Taps(Recorder(), full=frozenset(model.graph.nodes)))
            engine.close()
            np.testing.assert_array_equal(untapped, tapped, err_msg=str(fault))


def test_what_each_kind_is_stands_in_the_documentation() -> None:
    table = (Path(__file__).parents[2] / "docs" / "live.md").read_text(encoding="utf-8").split("| kind |")[1]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    said = {cells[0].strip("`"): (cells[1], cells[2]) for cells in rows}
    assert said == {
        name: (kind.sentence, ", ".join(f"`{parameter}`" for parameter in kind.parameters) or "–")
        for name, kind in KINDS.items()
    }
    assert {name for kind in KINDS.values() for name in kind.parameters} == set(PARAMETERS)


def test_parameters_that_are_not_given_are_those_of_the_kind(model: Model) -> None:
    node = Node(1, "ffn_up")
    for kind in ("scale", "noise", "nan", "zero-channel", "fp16-overflow"):
        given = {name: value for name, value in KINDS[kind].parameters.items() if value is not None}
        plain, spelt = (
            tensors(model, [Fault(kind, node, parameters)], "cpu", len(TOKENS))[node] for parameters in ({}, given)
        )
        np.testing.assert_array_equal(plain, spelt, err_msg=kind)


def test_the_kinds_of_a_node_are_those_that_can_be_parsed_there(model: Model) -> None:
    for node in model.graph.nodes:
        for kind in KINDS:
            text = str(Fault(kind, node))
            if kind in kinds_at(model, node):
                assert parse_fault(text, model).node == node
            else:
                with pytest.raises(UsageError, match="does not apply"):
                    parse_fault(text, model)


def written(model: Model) -> Iterator[str]:
    for kind in OF_ANY:
        yield str(fault_of(kind, model))


def test_a_fault_reads_back_as_it_is_written(model: Model) -> None:
    for text in written(model):
        assert str(parse_fault(text, model)) == text
    exact = "layer=1,stage=ffn_up,kind=noise,magnitude=1.23456789e-05,seed=1234567"
    assert str(parse_fault(exact, model)) == exact
