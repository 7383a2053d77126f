"""A replay of values beyond float16 that were saved as Inf computes what they were, and goes on from that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import Verdict
from aprtui.engine.evaluation.arithmetics import ARITHMETICS, stage_tensors
from aprtui.engine.evaluation.capture_kinds import CAPTURE_KINDS, write_kind
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model.model import Model, load_model
from aprtui.model.weight_types import WeightType
from aprtui.trace.graph.stage import Node
from tests.model.gguf_files import Tensor, model_file

TOKENS = tuple(range(20, 33))
LARGE = Node(1, "post_ffn_residual")
CHANNEL = 7

Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model with a channel beyond float16 from the embedding on."""
    file = model_file(layers=3, weight_type=WeightType.F32)
    table = file.tensors["token_embd.weight"]
    values = table.data.view(np.float32).copy()
    values[:, CHANNEL] = 9e4
    file.tensors["token_embd.weight"] = Tensor(values.view(np.uint8), table.type)
    return load_model(file.write(tmp_path_factory.mktemp("large") / "model.gguf"))


@pytest.fixture(scope="module")
def evaluators(model: Model) -> Iterator[Evaluators]:
    with Evaluators(model) as found:
        yield found


@pytest.fixture
def replayed(model: Model, evaluators: Evaluators, tmp_path: Path) -> Callable[..., Comparison]:
    """The replay of a capture of `kind`; the stage `wrong` is off by 5 %."""

    def run(kind: str, wrong: Node | None = None) -> Comparison:
        def change(node: Node, values: Array) -> Array:
            return values * np.float32(1.05) if node == wrong else values

        tensors = stage_tensors(ARITHMETICS["float32"], model, TOKENS, evaluators, change=change)
        capture = write_kind(CAPTURE_KINDS[kind], tensors, model.graph, TOKENS, tmp_path / "capture")
        assert np.isinf(capture.values(LARGE)).any()
        return replay_capture(capture, model, ReplayOptions(), evaluators)

    return run


def test_an_honest_capture_passes(replayed: Callable[..., Comparison]) -> None:
    result = replayed("stored in f16")
    assert result.verdict is Verdict.PASS, result.first_divergence
    assert any("65504, which saving in float16 made Inf" in statement for statement in result.statements)


@pytest.mark.parametrize("wrong", [Node(1, "ffn_out"), Node(1, "ffn_gate"), Node(2, "attn_norm")])
def test_a_fault_beside_lost_values_is_named(replayed: Callable[..., Comparison], wrong: Node) -> None:
    result = replayed("stored in f16", wrong)
    assert result.verdict is Verdict.FAIL
    assert result.first_divergence is not None and result.first_divergence.verdict.node == wrong
