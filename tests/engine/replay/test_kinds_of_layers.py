"""Replay of layers without RoPE, and of queries that grow with their position."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import Verdict
from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.faults.faults import FaultInjector, parse_fault
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import KvType, Mode
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model.model import Model, load_model
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.model.gguf_files import write_model

TOKENS = tuple(range(20, 43))
FAULTS = {
    "smollm3": "layer=3,stage=k_post_rope,kind=rope-everywhere",
    "mistral3": "layer=3,stage=q_temp_scaled,kind=temperature-dropped",
}


@pytest.fixture(scope="module", params=FAULTS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("layers") / "model.gguf"
    return load_model(write_model(path, architecture=request.param, layers=5, ffn=256))


@pytest.fixture(scope="module")
def evaluators(model: Model) -> Iterator[Evaluators]:
    with Evaluators(model) as opened:
        yield opened


def replayed(
    model: Model, evaluators: Evaluators, folder: Path, mode: Mode, kv: KvType = KvType.F32, fault: str = ""
) -> Comparison:
    injector = FaultInjector(model, mode, [parse_fault(fault, model)]) if fault else None
    with closing(open_engine(model, mode=mode, kv=kv, context=64, intervention=injector)) as engine:
        write_capture(engine, model, CaptureRequest(TOKENS, None, frozenset(model.graph.nodes), prefill=11), folder)
    (folder / "manifest.json").unlink()
    return replay_capture(Capture.open(folder), model, ReplayOptions(tokens=TOKENS), evaluators)


@pytest.mark.parametrize(("mode", "kv"), [(Mode.EXACT, KvType.F32), (Mode.Q8, KvType.F16), (Mode.Q8, KvType.Q8_0)])
def test_an_honest_run_passes_far_below_its_bound(
    model: Model, evaluators: Evaluators, tmp_path: Path, mode: Mode, kv: KvType
) -> None:
    result = replayed(model, evaluators, tmp_path / "honest", mode, kv)
    assert result.verdict is Verdict.PASS, result.first_divergence
    assert max(stage.verdict.error or 0 for stage in result.stages) < 1e-6


@pytest.mark.parametrize("mode", list(Mode))
def test_the_fault_of_such_a_layer_is_named(model: Model, evaluators: Evaluators, tmp_path: Path, mode: Mode) -> None:
    fault = FAULTS[model.architecture]
    divergence = replayed(model, evaluators, tmp_path / "faulty", mode, fault=fault).first_divergence
    assert divergence is not None
    assert divergence.verdict.node == Node(3, fault.split(",")[1].removeprefix("stage="))
