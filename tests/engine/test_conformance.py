"""Agreement with engines that nobody of this project wrote: transformers in float32, llama.cpp on quantised files.

Runs on every model of the conformance folder; longer prompts and other architectures lie in folders of the same layout,
to which `APRTUI_CONFORMANCE` can point.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np
import pytest

from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import Engine, KvType, Mode
from aprtui.engine.reference.evaluate import evaluate
from aprtui.engine.rounding import ARITHMETIC, ROUND
from aprtui.model.model import Model, load_model
from aprtui.trace.capture import Capture
from aprtui.trace.graph.config import RopeLayout
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node
from tests.conftest import conformance_folder
from tests.engine.conformance import (
    in_half_split_order,
    model_names,
    peer_tensor,
    peer_tokens,
    record,
    relative_l2,
)

pytestmark = pytest.mark.group("conformance")

BACKENDS = ("numpy", "cpu")
# Two honest float32 engines agree to 4e-6 on these shapes; the recomputation of one stage to 3e-7.
EXACT, LOCAL, FIRST_LAYER = 1e-5, 2e-6, 1e-6


@pytest.fixture(scope="module", params=model_names(conformance_folder()))
def folder(request: pytest.FixtureRequest, conformance: Path) -> Path:
    return conformance / str(request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load_model(folder / "model.gguf")


def opened(model: Model, backend: str, mode: Mode) -> Engine:
    return open_engine(model, backend=backend, mode=mode, kv=KvType.F32, context=1024)


@pytest.mark.parametrize("backend", BACKENDS)
def test_exact_agrees_with_transformers_on_every_stage_of_every_layer(folder: Path, model: Model, backend: str) -> None:
    capture = Capture.open(folder / "transformers")
    ours = record(opened(model, backend, Mode.EXACT), peer_tokens(folder / "transformers"))
    for node in capture.files:
        mine = as_transformers(model, node, ours.tensor(node))
        assert relative_l2(mine, peer_tensor(capture, node, mine)) <= EXACT, node
    expected = {node for node in model.graph.nodes if not model.graph[node.stage].extension}
    assert expected <= set(capture.files)


def as_transformers(model: Model, node: Node, mine: np.ndarray) -> np.ndarray:
    """Our tensor with Q and K in the half-split channel order that transformers keeps for all architectures."""
    config = model.config.graph
    if config.rope_layout is RopeLayout.INTERLEAVED:
        mine = mine.copy()
        for part in model.graph.rope_parts.get(node.stage, ()):
            mine[:, config.part(part)] = in_half_split_order(mine[:, config.part(part)], config.head_dim)
    return mine


def local_errors(
    model: Model, captured: Callable[[Node], np.ndarray], nodes: Collection[Node], tokens: list[int], mode: Mode
) -> Iterator[tuple[Node, float]]:
    """Each stage of a capture against its recomputation from that capture's own inputs.

    An input that was not captured (the q/k norms of Qwen3) is recomputed from its own inputs first.
    """
    graph, config = model.graph, model.config.graph

    def recomputed(node: Node) -> np.ndarray:
        inputs = []
        for entry, source in zip(graph.entries(node), graph.inputs(node), strict=True):
            tensor = captured(source) if source in nodes else recomputed(source)
            inputs.append(tensor if tensor.ndim == 3 else tensor[:, config.part(entry.part)])
        return evaluate(model, node, inputs, tokens=tokens, position=0, arithmetic=ARITHMETIC[mode])

    for node in graph.nodes:
        if node in nodes:
            yield node, relative_l2(recomputed(node), captured(node))


def test_every_llamacpp_stage_is_what_its_own_inputs_give(folder: Path, model: Model) -> None:
    capture, tokens = Capture.open(folder / "llamacpp"), peer_tokens(folder / "llamacpp")

    def captured(node: Node) -> np.ndarray:
        return peer_tensor(capture, node, np.empty(model.graph[node.stage].shape(len(tokens)), np.float32))

    errors = dict(local_errors(model, captured, capture.files, tokens, Mode.Q8))
    assert set(errors) >= {node for node in model.graph.nodes if not model.graph[node.stage].extension}
    assert max(errors.values()) <= LOCAL, max(errors, key=lambda node: errors[node])


@pytest.mark.parametrize("mode", list(Mode))
def test_every_stage_of_the_cpu_engine_is_what_its_own_inputs_give(folder: Path, model: Model, mode: Mode) -> None:
    tokens = peer_tokens(folder / "llamacpp")
    ours = record(opened(model, "cpu", mode), tokens)
    errors = dict(local_errors(model, ours.tensor, ours.pieces, tokens, mode))
    assert set(errors) == set(model.graph.nodes)
    assert max(errors.values()) <= LOCAL, max(errors, key=lambda node: errors[node])


@pytest.mark.parametrize("backend", BACKENDS)
def test_q8_agrees_with_llamacpp_in_the_first_layer_but_for_rounding_flips(
    folder: Path, model: Model, backend: str
) -> None:
    """A difference of 1e-7 can tip a rounding of a matmul's input; tokens that saw such a flip are set aside."""
    capture = Capture.open(folder / "llamacpp")
    ours = record(opened(model, backend, Mode.Q8), peer_tokens(folder / "llamacpp"))
    touched: dict[Node, np.ndarray] = {}
    for node in (node for node in model.graph.nodes if node.layer == 0):
        mine = ours.tensor(node)
        tokens = mine.shape[-2]
        hit = np.zeros(tokens, bool)
        for source in model.graph.inputs(node):
            before = touched.get(source, hit)
            hit = hit | (np.logical_or.accumulate(before) if model.graph[node.stage].is_attention_map else before)
        if model.graph[node.stage].op is Op.MATMUL:
            source = model.graph.inputs(node)[0]
            kinds = {weight.type.format.cpu_input for weight in model.params(node)}
            flips = sum(
                flipped_roundings(
                    kind, ours.tensor(source)[~hit], peer_tensor(capture, source, ours.tensor(source))[~hit]
                )
                for kind in kinds
            )
            if kinds & {"q8_k", "q8_0"}:
                assert np.max(flips, initial=0) <= 2, f"{node}: {flips} roundings of one input differ"
            hit[~hit] = flips > 0
        touched[node] = hit
        if node not in capture.files:
            continue
        theirs = peer_tensor(capture, node, mine)
        assert relative_l2(mine[..., ~hit, :], theirs[..., ~hit, :]) <= FIRST_LAYER, node
        # Attention hands a flip on to every later token, so an early one leaves few; some must be left to compare.
        assert not hit.all(), f"{node}: flips reached every token, nothing was compared"


def flipped_roundings(kind: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """For each token, how many values of two almost equal inputs round to different levels, and of Q8_0 how many block
    scales to different float16 numbers."""
    if kind == "none":
        return np.zeros(len(a), int)
    if kind in ("f16", "bf16"):
        return np.asarray(np.count_nonzero(ROUND[kind](a) != ROUND[kind](b), axis=1))
    block = 256 if kind == "q8_k" else 32
    steps_a, steps_b = (np.abs(side).reshape(len(side), -1, block).max(-1) / np.float32(127) for side in (a, b))
    levels_apart = np.abs(ROUND[kind](a) - ROUND[kind](b)) > np.repeat(steps_b, block, axis=1) / 2
    flips: np.ndarray = np.count_nonzero(levels_apart, axis=1)
    if kind == "q8_0":
        flips += np.count_nonzero(steps_a.astype(np.float16) != steps_b.astype(np.float16), axis=1)
    return flips
