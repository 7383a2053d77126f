"""Recurrent layers: what they carry from token to token, and going back to an earlier position."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import cast

import numpy as np
import pytest

from aprtui.engine.cpu.engine import CpuEngine
from aprtui.engine.protocol import NO_TAPS, Engine, Intervention, KvType, Logits, Mode, NodeCall, Taps
from aprtui.engine.reference.engine import NumpyEngine
from aprtui.model.model import Model
from aprtui.trace.graph.stage import Node
from tests.engine.conformance import Recorder, relative_l2
from tests.engine.tiny_model import CPU_MODELS, TinyModel

TOKENS = [int(token) for token in np.random.default_rng(3).integers(0, 300, 40)]
STATE, OUTPUT = Node(0, "linear_attn_state"), Node(0, "linear_attn_output")


@pytest.fixture(scope="module", params=["hybrid", "hybrid with experts", "hybrid with grouped heads"])
def model(request: pytest.FixtureRequest) -> TinyModel:
    return CPU_MODELS[str(request.param)]()


@pytest.fixture(scope="module")
def hybrid() -> TinyModel:
    return CPU_MODELS["hybrid"]()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aprtui.engine.cpu.storage.MOST_TOKENS", 7)


def opened(model: TinyModel, intervention: Intervention | None = None) -> closing[CpuEngine]:
    return closing(CpuEngine(cast(Model, model), Mode.Q8, KvType.F16, 2, 64, intervention=intervention))


def evaluated(engine: CpuEngine, passes: Sequence[Sequence[int]], taps: Taps = NO_TAPS) -> np.ndarray:
    return np.concatenate([engine.forward(tokens, taps, Logits.ALL) for tokens in passes])


PASSES = {
    "at once": [TOKENS],
    "one by one": [[token] for token in TOKENS],
    "two turns": [TOKENS[:9], *([token] for token in TOKENS[9:14]), TOKENS[14:33], *([t] for t in TOKENS[33:])],
    "fewer tokens than the convolution reaches back over": [TOKENS[:2], TOKENS[2:4], TOKENS[4:6], TOKENS[6:]],
}


@pytest.mark.parametrize("passes", PASSES.values(), ids=PASSES)
def test_how_tokens_are_divided_into_passes_changes_no_bit(model: TinyModel, passes: list[list[int]]) -> None:
    with opened(model) as engine:
        expected = evaluated(engine, [TOKENS])
        engine.reset()
        np.testing.assert_array_equal(evaluated(engine, passes), expected)


@pytest.mark.parametrize("position", [0, 1, 5, 20, 21, 24, 26])
def test_going_back_to_an_earlier_position_leaves_nothing_behind(model: TinyModel, position: int) -> None:
    """The prompt of 21 tokens is where states are remembered; before and behind it tokens are evaluated again."""
    with opened(model) as engine:
        expected = evaluated(engine, [TOKENS])
    with opened(model) as engine:
        evaluated(engine, [TOKENS[:21], *([token] for token in TOKENS[21:26])])
        engine.reset(position)
        assert engine.position == position
        np.testing.assert_array_equal(evaluated(engine, [TOKENS[position:]]), expected[position:])
        # And once more, after another sequence was there.
        engine.reset(min(position, 3))
        evaluated(engine, [[7, 8, 9]])
        engine.reset(min(position, 3))
        np.testing.assert_array_equal(evaluated(engine, [TOKENS[min(position, 3) :]]), expected[min(position, 3) :])


class Broken:
    """Raises an error at the last node of the first layer, when the state of that layer has gone on already."""

    nodes = frozenset({Node(0, "post_ffn_residual")})

    def __init__(self) -> None:
        self.at = -1

    def __call__(self, call: NodeCall) -> np.ndarray:
        if call.position == self.at:
            raise OSError("not now")
        return call.output


@pytest.mark.parametrize("at", [0, 7, 21])
def test_a_pass_that_ends_with_an_error_leaves_the_states_as_they_were(hybrid: TinyModel, at: int) -> None:
    broken = Broken()
    with opened(hybrid, broken) as engine:
        expected = evaluated(engine, [TOKENS])
        engine.reset()
        kept = 14 if at == 21 else 0
        if kept:
            evaluated(engine, [TOKENS[:kept]])
        broken.at = at
        with pytest.raises(OSError, match="not now"):
            engine.forward(TOKENS[kept:])
        broken.at = -1
        assert engine.position == kept
        np.testing.assert_array_equal(evaluated(engine, [TOKENS[kept:]]), expected[kept:])


def test_a_state_is_handed_out_once_a_pass_and_with_the_last_logits(hybrid: TinyModel) -> None:
    recorder = Recorder()
    with opened(hybrid) as engine:
        engine.forward(TOKENS[:20], Taps(recorder, frozenset({STATE}), frozenset({STATE})))
        engine.forward([TOKENS[20]], Taps(recorder, frozenset({STATE}), frozenset({STATE})))
    assert [(position, values.shape[0]) for position, values in recorder.pieces[STATE]] == [(19, 1), (20, 1)]
    assert [sums.count for sums in recorder.stats[STATE]] == [hybrid.graph[STATE.stage].width] * 2


class Doubled:
    def __init__(self, node: Node) -> None:
        self.nodes = frozenset({node})

    def __call__(self, call: NodeCall) -> np.ndarray:
        return call.output * 2


@pytest.mark.parametrize("node", [STATE, OUTPUT, Node(0, "conv_output_raw")])
def test_what_replaces_a_state_goes_on_to_the_next_pass_in_both_engines(hybrid: TinyModel, node: Node) -> None:
    recorders = Recorder(), Recorder()
    nodes = frozenset(hybrid.graph.nodes)
    compiled = CpuEngine(cast(Model, hybrid), Mode.EXACT, KvType.F32, 2, 64, intervention=Doubled(node))
    plain = NumpyEngine(cast(Model, hybrid), Mode.EXACT, KvType.F32, 64, Doubled(node))
    engines: tuple[Engine, Engine] = compiled, plain
    for engine, recorder in zip(engines, recorders, strict=True):
        for tokens in (TOKENS[:5], TOKENS[5:6], TOKENS[6:7]):
            engine.forward(tokens, Taps(recorder, nodes), Logits.ALL)
        engine.close()
    for found in hybrid.graph.nodes:
        assert relative_l2(recorders[0].tensor(found), recorders[1].tensor(found)) <= 1e-5, found
