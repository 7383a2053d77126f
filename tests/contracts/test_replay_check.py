"""`replay_holds`: a capture whose stages are what their inputs give passes; one that is not fails at the stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aprtui.compare.verdict import Verdict
from aprtui.engine.cuda import detect as cuda
from aprtui.engine.cuda.detect import Detection, Obstacle
from aprtui.engine.protocol import Mode
from aprtui.model.model import Model, load_model
from aprtui.resources import embedded_model
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.cli.conftest import Outcome
from tests.contracts.captures import judged
from tests.contracts.own_captures import plain_model
from tests.engine.embedded_captures import captured

Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(embedded_model())


@pytest.fixture(scope="module")
def honest(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return captured(model, tmp_path_factory.mktemp("replayed") / "q8", Mode.Q8)


def test_an_honest_capture_passes_with_the_stage_nearest_to_its_bound(model: Model, honest: Path) -> None:
    judgement = judged("replay_holds", Capture.open(honest), None, model, layers="all", backends=["cpu"])
    assert judgement.verdict is Verdict.PASS and len(judgement.nodes) == 71
    assert judgement.number is not None and judgement.bound is not None and 0 < judgement.number < judgement.bound


def test_a_stage_that_is_not_what_its_inputs_give_fails_there(aprtui: Run, model: Model, tmp_path: Path) -> None:
    node = Node(2, "ffn_up")
    words = (
        "--tokens",
        "2045,312,282,1355",
        "--mode",
        "q8",
        "--inject",
        "layer=2,stage=ffn_up,kind=scale,magnitude=0.1",
    )
    assert aprtui("trace", *words, "--save-tensor-dir", tmp_path / "wrong").code == 0
    wrong = Capture.open(tmp_path / "wrong")
    judgement = judged("replay_holds", wrong, None, model)
    assert (judgement.verdict, judgement.nodes) == (Verdict.FAIL, (node,)), judgement
    assert judgement.number == pytest.approx(0.1, rel=0.2) and judgement.bound is not None and judgement.bound < 0.05
    elsewhere = judged("replay_holds", wrong, None, model, stages=["attn_*"], layers=[0, 2])
    assert elsewhere.verdict is Verdict.PASS and {node.layer for node in elsewhere.nodes} == {0, 2}


def test_without_a_model_or_with_another_nothing_is_judged(honest: Path, tmp_path: Path) -> None:
    capture = Capture.open(honest)
    assert "--model" in judged("replay_holds", capture).reason
    other = judged("replay_holds", capture, None, load_model(plain_model(tmp_path / "plain.gguf")))
    assert other.verdict is Verdict.UNKNOWN and other.reason


def test_a_capture_of_another_backend_or_no_device_is_not_judged(
    model: Model, honest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = Capture.open(honest)
    monkeypatch.setattr(cuda, "detect", Detection)
    judgement = judged("replay_holds", capture, None, model, backends=["cuda"])
    assert (judgement.verdict, judgement.reason) == (
        Verdict.UNKNOWN, "the capture is of cpu: the claim is about cuda",
    )  # fmt: skip
    monkeypatch.setattr(cuda, "detect", lambda: Detection(obstacle=Obstacle.NO_DRIVER, problem="no driver"))
    assert not judged("replay_holds", capture, None, model, backends=["cuda"]).testable
